"""Where items come from: the file or the member of an archive that is being read."""

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import IO

from fer import storage
from fer.data.items import MEMBER_SEPARATOR, SourceItem
from fer.data.kinds import is_image, is_supported, is_unknown, is_video
from fer.data.rejects import RejectCode
from fer.data.tables import ParquetRow
from fer.vision.loading import MAX_IMAGE_BYTES


@dataclass(frozen=True)
class Origin:
    """The file or archive member that is being read, and the items to make of it.

    Attributes:
        depth: Number of archives that contain it.

    The other attributes are those of ``SourceItem`` and ``fer.data.readers.read_items``.
    """

    source: str
    path: str
    etag: str | None
    with_tables: bool
    with_videos: bool
    all_files: bool
    depth: int = 0

    def member(self, name: str) -> "Origin":
        """Return the origin of a member, which has the path ``name`` in this archive."""
        suffix, depth = MEMBER_SEPARATOR + name, self.depth + 1
        path = self.path + compose(suffix)
        return replace(self, source=self.source + suffix, path=path, depth=depth)

    def is_wanted(self, name: str) -> bool:
        """Return whether a file of a name is to be opened."""
        return (
            is_supported(name)
            or (self.with_videos and is_video(name))
            or (self.all_files and is_unknown(name))
        )

    def without_suffix(self, suffix: str) -> "Origin":
        """Return the origin of what a compressed file holds."""
        return replace(self, path=self.path[: -len(suffix)])

    def image(self, data: bytes | None, size_bytes: int) -> SourceItem:
        """Return the file as an image, whose bytes may have yet to be fetched."""
        return SourceItem(
            "image", self.source, self.path, data, size_bytes=size_bytes, etag=self.etag
        )

    def table_image(self, number: int, row: ParquetRow) -> SourceItem:
        """Return the image of a table's row, counted from 1; a row without one is rejected."""
        source = f"{self.source}#{number}"
        if row.image is None:
            return SourceItem("rejected", source, reason="has no image", code="no_image")
        image = replace(self, source=source).image(row.image, len(row.image))
        return replace(image, format="hugging_face", label=row.label, usage=row.usage)

    def rows(self, data: bytes, first_row: int) -> SourceItem:
        """Return a block of a CSV file's rows."""
        return SourceItem("rows", self.source, self.path, data, first_row=first_row)

    def ignore(self) -> SourceItem:
        """Return the file as one of another kind, such as a README."""
        return SourceItem("ignored", self.source)

    def reject(self, reason: str, code: RejectCode = "unreadable") -> SourceItem:
        """Return the file as one that can't be used. The reason continues its name."""
        return SourceItem("rejected", self.source, etag=self.etag, reason=reason, code=code)

    def reject_large_video(self) -> SourceItem:
        """Reject a video of an archive that has more than ``MAX_IMAGE_BYTES``."""
        limit = MAX_IMAGE_BYTES // 2**20
        return self.reject(f"is a video of more than {limit} MiB: unpack the archive first")

    def fail(self, reason: str, error: Exception) -> SourceItem:
        """Reject what could not be read of the file, and leave out its ETag after an I/O error.

        The content was not seen then. Without an ETag, an update reads the file again.
        """
        rejected = self.reject(reason, "unreadable" if is_image(self.source) else "incomplete")
        return replace(rejected, etag=None) if isinstance(error, OSError) else rejected


Reader = Callable[[IO[bytes], Origin], Iterator[SourceItem]]
"""Yields the items of an open file or member."""


def compose(path: str) -> str:
    """Compose letters and accents: macOS takes them apart, and classes are typed as one."""
    return unicodedata.normalize("NFC", path)


def error_text(error: Exception) -> str:
    """Return what an error says, or its class if it says nothing."""
    text = storage.describe_error(error) if isinstance(error, OSError) else str(error)
    return text or type(error).__name__
