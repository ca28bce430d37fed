"""Why a file or row is rejected: a code to group rejects by, and a reason in words."""

from typing import Literal

RejectCode = Literal[
    "unreadable",
    "incomplete",
    "encrypted",
    "too_large",
    "crash",
    "nested_archive",
    "not_a_file",
    "unsafe_path",
    "missing_column",
    "row_too_long",
    "field_count",
    "no_class_folder",
    "unknown_class",
    "pixel_count",
    "pixel_range",
    "no_image",
    "no_face",
    "no_split",
]
"""Kinds of rejects. The reason of a reject adds the values that are specific to it."""

UNREAD: tuple[RejectCode, ...] = ("incomplete", "row_too_long", "nested_archive")
"""Kinds of rejects that stand for what was not read of a table or an archive, of unknown size."""


class RejectedError(ValueError):
    """A file, a row or the rest of a table is rejected.

    Attributes:
        code: Kind of the reject.
        reason: Reason in words, with the values that were found and expected.
    """

    def __init__(self, code: RejectCode, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return self.reason
