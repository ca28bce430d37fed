"""Read tables of labeled faces: FER2013's CSV files."""

import csv
from collections.abc import Iterator
from typing import IO, NamedTuple

CSV_BLOCK_BYTES = 2**18
"""Size of a block of CSV rows, some 28 rows of FER2013. The block stays in the CPU's cache, and the
arrays that parse it are small enough for the allocator to reuse their memory."""

MAX_ROW_BYTES = 2**16
"""Reading of a CSV file ends at a longer row. A row of 2,304 pixels has at most 9,300 bytes."""


class TableError(ValueError):
    """A table, or the rest of it, can't be read. The message is the reason."""


class Block(NamedTuple):
    """Whole rows of a CSV file, with the header before them.

    Attributes:
        data: Header and rows.
        first_row: Number of the first row, counted from 1.
    """

    data: bytes
    first_row: int


def is_csv(name: str) -> bool:
    """Return whether a file name is that of a CSV file, compressed or not."""
    return name.lower().removesuffix(".gz").endswith(".csv")


def read_csv_blocks(stream: IO[bytes]) -> Iterator[Block]:
    """Yield a CSV file in blocks of whole rows.

    Raises:
        TableError: A column is missing, or a row is too long.
    """
    header = stream.readline(MAX_ROW_BYTES)
    if not {"emotion", "pixels"} <= set(columns := csv_columns(header)):
        names = ", ".join(columns)[:100]
        raise TableError(f"has the columns {names!r}: expected emotion, pixels and perhaps Usage")
    header, row, rest = header.rstrip(b"\r\n") + b"\n", 1, b""
    while block := stream.read(CSV_BLOCK_BYTES):
        # The block ends within a row, whose beginning is kept for the next block.
        rows, _, rest = (rest + block).rpartition(b"\n")
        if len(rest) > MAX_ROW_BYTES:
            raise TableError(
                f"row {row} is longer than {MAX_ROW_BYTES:,} bytes: the rows from there on are "
                "not read"
            )
        if rows:
            yield Block(header + rows, row)
            row += rows.count(b"\n") + 1
    if rest:
        yield Block(header + rest, row)


def csv_columns(header: bytes) -> dict[str, int]:
    """Return the position of each column of a CSV file by its name in lower case."""
    text = header.decode("utf-8-sig", errors="replace").strip()
    names = [name.strip().lower() for name in next(csv.reader([text]), [])]
    return {name: index for index, name in enumerate(names)}
