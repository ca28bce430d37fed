"""Which of a source's images are asked for: globs that they match, and how many."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from pathspec import GitIgnoreSpec

from fer import storage
from fer.data.sources import MEMBER, Piece, first, is_archive
from fer.errors import InputError


@dataclass(frozen=True)
class Selection:
    """What is asked for of a source.

    Globs are those of ``.gitignore``, and are asked about the path below ``root``, in which an
    archive is a folder: ``*.jpg`` and ``raw/`` match at any depth, ``2024/*.jpg`` from ``root`` on,
    ``**`` any folders; case counts. A location that is not below ``root`` is matched as a whole.

    Attributes:
        root: The folder or archive that paths are below.
        include: An image must match one of these, if there are any.
        exclude: Nothing may match one of these.
        limit: Number of images to stop after.
    """

    root: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: int | None = None

    def check(self) -> None:
        """Refuse a glob that is none.

        Raises:
            InputError: There is one.
        """
        for flag, globs in (("--include", self.include), ("--exclude", self.exclude)):
            for glob in globs:
                if not _is_glob(glob):
                    raise InputError(
                        f"{flag} {glob!r} is no glob as .gitignore has them: expected such as "
                        "*.jpg, raw/ or 2024/**/*.jpg, and \\# where a name begins with #."
                    )

    def of(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Yield the pieces that are asked for; of others, nothing is counted or told."""
        return first(filter(self._asks_for, pieces), self.limit)

    def _asks_for(self, piece: Piece) -> bool:
        if not (self.include or self.exclude):
            return True
        path = self._path(piece.source)
        if _compile(self.exclude).match_file(path):
            return False
        # What an archive holds is not known by its name.
        return not self.include or is_archive(path) or _compile(self.include).match_file(path)

    def _path(self, source: str) -> str:
        below = source.removeprefix(self.root)
        if not below:
            return storage.name(source)
        if not below.startswith(("/", MEMBER)):
            below = source
        # Only of what `.` matches, a newline not being one, can a glob tell folders.
        return _folders(below.removeprefix(MEMBER)).replace("\n", "\r").lstrip("/")


def _folders(path: str) -> str:
    """Return a path in which archives are folders."""
    archive, mark, member = path.rpartition(MEMBER)
    if not mark:
        return path
    return _folders(archive) + ("/" if is_archive(archive) else mark) + member


@lru_cache(maxsize=8)
def _compile(globs: tuple[str, ...]) -> GitIgnoreSpec:
    return GitIgnoreSpec.from_lines(globs)


def _is_glob(glob: str) -> bool:
    """Tell whether a glob can match something: Git passes over comments and open brackets."""
    try:
        return any(pattern.regex for pattern in _compile((glob,)).patterns)
    except ValueError:
        return False
