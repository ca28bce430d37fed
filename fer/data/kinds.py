"""What a file is by the end of its name, and counts of the files that are of no use to a job."""

import posixpath
import re
from collections.abc import Mapping

from fer.vision.decode import IMAGE_SUFFIXES

TAR_SUFFIXES = (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")
ARCHIVE_SUFFIXES = (".zip", *TAR_SUFFIXES)

VIDEO_SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts"),
        *(".mpg", ".mpeg", ".3gp"),
    )
)

RAW_SUFFIXES = frozenset(
    (
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef"),
        *(".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".sr2", ".srf"),
        *(".srw", ".x3f"),
    )
)
"""Suffixes of cameras' raw files. Many begin like a TIFF file and hold a small preview, which is no
photograph."""

LABEL_LIST = "list_patition_label.txt"
"""Name of the file by which RAF-DB tells the classes of its images, as its authors spell it."""

NO_ENDING = "no ending"
"""Stands for an ending where a file's name has none."""

MAX_COUNTED_ENDINGS = 10
"""Most endings that a summary counts one by one."""

_ENDING = re.compile(r"\.(?=[a-z0-9_-]*[a-z])[a-z0-9_-]{1,12}$")
"""Matches an ending, which has a letter: the end of ``8f3c.0017`` is a number."""


def is_image(name: str) -> bool:
    """Return whether a file name is that of an image."""
    return posixpath.splitext(name.lower())[1] in IMAGE_SUFFIXES


def is_packed_image(name: str) -> bool:
    """Return whether a file name is that of an image that gzip compressed."""
    return name.lower().endswith(".gz") and is_image(name[: -len(".gz")])


def is_archive(name: str) -> bool:
    """Return whether a file name is that of a supported archive."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def is_video(name: str) -> bool:
    """Return whether a file name is that of a video, although ``.ts`` may also be TypeScript."""
    return posixpath.splitext(name.lower())[1] in VIDEO_SUFFIXES


def is_raw(name: str) -> bool:
    """Return whether a file name is that of a camera's raw file."""
    return posixpath.splitext(name.lower())[1] in RAW_SUFFIXES


def is_supported(name: str) -> bool:
    """Return whether a file name is that of an image, a table or an archive."""
    lower = name.lower().removesuffix(".gz")
    suffixes = (".csv", ".parquet", LABEL_LIST, *ARCHIVE_SUFFIXES, *IMAGE_SUFFIXES)
    return lower.endswith(suffixes) or is_archive(name)


def is_unknown(name: str) -> bool:
    """Return whether a file name says nothing about what the file is, or nothing that counts."""
    return not is_supported(name) and not is_raw(name)


def ending(name: str) -> str:
    """Return the end of a file's name in lower case, such as ``.jxl``, or ``NO_ENDING``."""
    match = _ENDING.search(name.lower())
    return match[0] if match else NO_ENDING


def commonest(endings: Mapping[str, int]) -> dict[str, int]:
    """Return the numbers of files with the commonest endings, and of all others together.

    Args:
        endings: Number of files by ending.
    """
    counted = sorted(endings.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(number for _, number in counted[MAX_COUNTED_ENDINGS:])
    return {**dict(counted[:MAX_COUNTED_ENDINGS]), **({"other": rest} if rest else {})}


def describe_ignored(endings: Mapping[str, int], *, all_files: bool) -> str:
    """Say which files were ignored, as the end of a sentence about a source without images.

    Args:
        endings: Number of ignored files by ending.
        all_files: Whether the files were opened to tell what they are.
    """
    if not endings:
        return ""
    kinds = [
        f"{number:,} with {kind}" if kind == NO_ENDING else f"{number:,} {kind}"
        for kind, number in commonest(endings).items()
    ]
    advice = "" if all_files else "; give --all-files to tell images by their content"
    return f" among its files ({', '.join(kinds)}){advice}"
