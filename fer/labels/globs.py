"""The selection of a source's images: globs to include and exclude, and a limit."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from pathspec import GitIgnoreSpec

from fer import storage
from fer.data.sources import MEMBER_SEPARATOR, SourceItem, is_archive, take
from fer.errors import InputError


@dataclass(frozen=True)
class Selection:
    """The images of a source to label.

    Globs follow ``.gitignore`` and are matched with the path below ``root``. Archives count as
    folders. ``*.jpg`` and ``raw/`` match at any depth, ``2024/*.jpg`` only directly below ``root``,
    and ``**`` matches any number of folders. Matching is case-sensitive. A location outside
    ``root`` is matched as a whole.

    Attributes:
        root: The folder or archive that paths are relative to.
        include: If there are any, an image must match at least one of these.
        exclude: An image must match none of these.
        limit: Number of images to stop after; None for no limit.
    """

    root: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: int | None = None

    def check(self) -> None:
        """Check that every glob can match something.

        Raises:
            InputError: A glob is invalid.
        """
        for flag, globs in (("--include", self.include), ("--exclude", self.exclude)):
            for glob in globs:
                if not _is_glob(glob):
                    raise InputError(
                        f"{flag} {glob!r} is not a valid glob; use a pattern as in .gitignore, "
                        "such as *.jpg, raw/ or 2024/**/*.jpg, and \\# for a leading #."
                    )

    def select(self, items: Iterable[SourceItem]) -> Iterator[SourceItem]:
        """Yield the selected items. The others are skipped and counted nowhere."""
        return take(filter(self._matches, items), self.limit)

    def _matches(self, item: SourceItem) -> bool:
        if not (self.include or self.exclude):
            return True
        path = self._path_to_match(item.source)
        if _compile(self.exclude).match_file(path):
            return False
        # An archive's name says nothing about its members, which are matched when it is read.
        return not self.include or is_archive(path) or _compile(self.include).match_file(path)

    def _path_to_match(self, source: str) -> str:
        path = source.removeprefix(self.root)
        if not path:
            return storage.base_name(source)
        if not path.startswith(("/", MEMBER_SEPARATOR)):
            path = source
        path = _archives_as_folders(path.removeprefix(MEMBER_SEPARATOR))
        # The patterns end a folder's name with `.*`, which does not match a newline.
        return path.replace("\n", "\r").lstrip("/")


def _archives_as_folders(path: str) -> str:
    """Replace the mark between an archive and its member by a slash."""
    archive, mark, member = path.rpartition(MEMBER_SEPARATOR)
    if not mark:
        return path
    return _archives_as_folders(archive) + ("/" if is_archive(archive) else mark) + member


@lru_cache(maxsize=8)
def _compile(globs: tuple[str, ...]) -> GitIgnoreSpec:
    return GitIgnoreSpec.from_lines(globs)


def _is_glob(glob: str) -> bool:
    """Return whether a glob can match something; Git ignores comments and unclosed brackets."""
    try:
        return any(pattern.regex for pattern in _compile((glob,)).patterns)
    except ValueError:
        return False
