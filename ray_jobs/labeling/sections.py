"""Sections: the parts of a source that tasks can list at the same time."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from fer import storage
from fer.data.items import SourceItem
from fer.data.sources import list_items
from fer.labels.manifests import is_manifest, list_manifest_files, read_manifest
from fer.storage import listing

MIN_SECTIONS = 64
"""Number of sections at which a source is divided enough, if it has so many folders."""


class SectionKind(StrEnum):
    """How a section of a source is listed."""

    TREE = "tree"
    """Everything at and below the location."""
    FOLDER = "folder"
    """Only the files directly in the folder. Its subfolders are other sections."""
    MANIFEST = "manifest"
    """The rows of a manifest's file."""


@dataclass(frozen=True)
class Section:
    """A section of a source, which one task lists.

    Attributes:
        location: Where it is.
        kind: How it is listed.
    """

    location: str
    kind: SectionKind

    def items(self, *, all_files: bool = False) -> Iterator[SourceItem]:
        """Yield the items of this section, with archives unopened.

        Args:
            all_files: Whether files whose names do not say what they are may be images.
        """
        if self.kind == SectionKind.MANIFEST:
            return read_manifest(self.location)
        return list_items(self._entries(), all_files=all_files)

    def _entries(self) -> Iterator[listing.Entry]:
        """Yield the files of this section, or an entry with the reason why it can't be listed."""
        location = self.location
        try:
            if storage.is_folder(location):
                is_tree = self.kind == SectionKind.TREE
                yield from (listing.walk if is_tree else listing.child_files)(location)
            elif storage.exists(location):
                yield listing.describe(location)
            else:
                raise FileNotFoundError(location)
        except listing.UNLISTABLE as error:
            yield listing.unlisted(location, storage.base_name(location), error)


def divide(images: str, *, whole: bool = False) -> list[Section]:
    """Divide a source into sections that tasks can list at the same time.

    Args:
        images: Location of a folder, an archive, an image or a manifest.
        whole: Whether to return a single section, which keeps the order of names.
    """
    if is_manifest(images):
        files = [images] if whole else list_manifest_files(images)
        return [Section(file, SectionKind.MANIFEST) for file in files]
    if whole:
        return [Section(images, SectionKind.TREE)]
    trees, expanded = _expand_folders(images)
    return [
        *(Section(location, SectionKind.TREE) for location in trees),
        *(Section(folder, SectionKind.FOLDER) for folder in expanded),
    ]


def _expand_folders(root: str) -> tuple[list[str], list[str]]:
    """Replace folders by their subfolders, level by level, until there are enough locations.

    Returns:
        Locations to list with everything below them, and the folders that were replaced, whose own
        files are still to be listed.
    """
    pending, unexpanded, expanded = deque([root]), list[str](), list[str]()
    while pending and len(pending) + len(unexpanded) < MIN_SECTIONS:
        location = pending.popleft()
        subfolders = _subfolders(location, is_root=location == root)
        if subfolders is None:
            unexpanded.append(location)
        else:
            pending.extend(subfolders)
            expanded.append(location)
    return [*unexpanded, *pending], expanded


def _subfolders(location: str, *, is_root: bool) -> list[str] | None:
    """Return the subfolders of a folder; None for a file or a folder that is not to be replaced.

    That is a folder with very many children, or one that can't be listed. The root must be
    readable.
    """
    try:
        children = listing.children(location) if storage.is_folder(location) else None
    except listing.UNLISTABLE:
        if is_root:
            raise
        # Listing the section fails for the same reason, and says so in an item.
        return None
    return None if children is None else children[0]
