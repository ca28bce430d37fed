"""The selection of a source's images: globs to include and exclude, and a limit."""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from pathspec import GitIgnoreSpec

from fer import storage
from fer.data.items import MEMBER_SEPARATOR, SourceItem
from fer.data.kinds import is_archive
from fer.data.sources import take
from fer.errors import InputError
from fer.storage import local

_PRIVATE_USE = {0xDC00 + byte: 0xF700 + byte for byte in range(0x80, 0x100)}
"""Characters that stand for surrogates, which pathspec can't match."""


@dataclass(frozen=True)
class Selection:
    """The images of a source to label.

    Globs follow ``.gitignore`` and are matched with the path below ``root``. Archives count as
    folders. ``*.jpg`` and ``raw/`` match at any depth, ``2024/*.jpg`` only directly below ``root``,
    and ``**`` matches any number of folders. Matching is case-sensitive. A location outside
    ``root`` is matched as a whole. Letters with accents match however they are composed.

    Attributes:
        root: The folder or archive that paths are relative to.
        include: If there are any, an image must match at least one of these.
        exclude: An image must match none of these.
        limit: Number of images to stop after; None for no limit.
        all_files: Whether files whose names do not say what they are may be images.
    """

    root: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: int | None = None
    all_files: bool = False

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
        # An archive's name says nothing about its members, which are matched when it is read. The
        # name of a folder that can't be listed says nothing about its files.
        is_folder = is_archive(path) or path.endswith("/")
        return not self.include or is_folder or _compile(self.include).match_file(path)

    def _path_to_match(self, source: str) -> str:
        path = source.removeprefix(self.root)
        if not path:
            return storage.base_name(source)
        if not path.startswith(("/", MEMBER_SEPARATOR)):
            path = source
        path = _archives_as_folders(path.removeprefix(MEMBER_SEPARATOR))
        if not storage.is_uri(source):
            # Globs are typed as names are, not as locations spell them.
            path = local.path_of(path)
        # The patterns end a folder's name with `.*`, which does not match a newline.
        return _comparable(path.replace("\n", "\r").lstrip("/"))


def _archives_as_folders(path: str) -> str:
    """Replace the mark between an archive and its member by a slash."""
    archive, mark, member = path.rpartition(MEMBER_SEPARATOR)
    if not mark:
        return path
    return _archives_as_folders(archive) + ("/" if is_archive(archive) else mark) + member


@lru_cache(maxsize=8)
def _compile(globs: tuple[str, ...]) -> GitIgnoreSpec:
    return GitIgnoreSpec.from_lines(map(_comparable, globs))


def _comparable(text: str) -> str:
    """Return a name or a glob in the form in which they are compared.

    Letters and accents are composed, which macOS takes apart in names and keyboards do not.
    Surrogates, which stand for bytes that are not valid UTF-8, become characters of private use.
    """
    return unicodedata.normalize("NFC", text).translate(_PRIVATE_USE)


def _is_glob(glob: str) -> bool:
    """Return whether a glob can match something; Git ignores comments and unclosed brackets."""
    try:
        return any(pattern.regex for pattern in _compile((glob,)).patterns)
    except ValueError:
        return False
