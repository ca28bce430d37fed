"""Items: the files of a source, and the blocks of rows of its tables, as jobs receive them."""

from dataclasses import dataclass
from typing import Literal

from fer import storage
from fer.data.kinds import is_archive
from fer.data.rejects import RejectCode
from fer.vision import signatures
from fer.vision.loading import MAX_IMAGE_BYTES, ImageError

MEMBER_SEPARATOR = "!/"
"""Separates an archive from its member in the name of an example."""

ItemKind = Literal[
    "image", "video", "unknown", "rows", "label_list", "archive", "rejected", "ignored"
]


@dataclass(frozen=True)
class SourceItem:
    """A file of a source, or a block of rows of a CSV file.

    Attributes:
        kind: ``image``, ``video`` (if videos are wanted), ``unknown`` (perhaps an image or a video,
            as its content will tell), ``rows``, ``label_list`` (see ``fer.data.annotations``),
            ``archive`` (unopened), ``rejected`` (damaged or unsupported) or ``ignored`` (of another
            kind, such as a README).
        source: Location of the file. A member follows its archive and ``!/``.
        path: The end of ``source`` that starts with the name of the source that the user gave. Its
            folders may name the class and the split.
        data: Encoded image or video, header and rows of the CSV file, or the label list. None if
            the file has yet to be fetched from ``source``.
        first_row: Number of the first row, counted from 1.
        size_bytes: Size of the image file; None if it is unknown before the file is read.
        etag: ETag of the file, or of the archive that contains it.
        reason: Why the item was rejected.
        code: Kind of the reject.
        format: Name of the format that told the class of an image, if it was no folder.
        label: Class name or number of an image in that format.
        usage: What tells the split of an image in a table; empty if no column does.
        frames: Which frames of a video are meant, as ``FrameChunk.to_json`` writes it; empty for
            those that are sampled from all of it.
    """

    kind: ItemKind
    source: str
    path: str = ""
    data: bytes | None = None
    first_row: int = 0
    size_bytes: int | None = None
    etag: str | None = None
    reason: str = ""
    code: RejectCode = "unreadable"
    format: str = ""
    label: str = ""
    usage: str = ""
    frames: str = ""


class NotAnImageError(Exception):
    """A file whose name does not say what it is, and whose content is no image."""


def containing_file(source: str) -> str:
    """Return the outermost archive that contains an item, or ``source`` itself if there is none."""
    segments = source.split(MEMBER_SEPARATOR)
    prefixes = (MEMBER_SEPARATOR.join(segments[:number]) for number in range(1, len(segments)))
    # A folder's name may end in "!", so the prefix must also look like an archive.
    return next(filter(is_archive, prefixes), source)


def fetch_image(item: SourceItem) -> bytes:
    """Return the encoded image of an item, and read it from its source if necessary.

    Raises:
        NotAnImageError: The item is ``unknown``, and its content is no image.
        ImageError: The file is larger than ``MAX_IMAGE_BYTES``.
        OSError: The file cannot be read.
        StoreError: The store refuses access to the whole bucket.
    """
    if item.data is not None:
        return item.data
    if (item.size_bytes or 0) <= MAX_IMAGE_BYTES:
        # The listed size may be outdated or unknown, so the read is limited as well.
        data = storage.read_bytes(item.source, MAX_IMAGE_BYTES + 1)
        if item.kind == "unknown" and not signatures.is_image(data):
            raise NotAnImageError(item.source)
        if len(data) <= MAX_IMAGE_BYTES:
            return data
    elif item.kind == "unknown" and kind_by_content(item.source) not in ("image", "unknown"):
        raise NotAnImageError(item.source)
    raise ImageError("too_large", f"The file has more than {MAX_IMAGE_BYTES:,} bytes.")


def kind_by_content(source: str) -> ItemKind:
    """Return what a file is by its first bytes: ``image``, ``video`` or ``ignored``.

    It stays ``unknown`` if it can't be read to tell.
    """
    try:
        start = storage.read_bytes(source, signatures.VIDEO_SIGNATURE_BYTES)
    except OSError:
        # The problem of a single file is reported later, with that file.
        return "unknown"
    if signatures.is_image(start):
        return "image"
    return "video" if signatures.is_video(start) else "ignored"
