"""Label files: the rows of one chunk, with a tally of them in the Parquet footer."""

from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fer import storage
from fer.errors import JobError
from fer.labels.export import ENCODERS
from fer.labels.schema import LABEL_SCHEMA
from fer.labels.tally import LabelTally
from fer.storage import parquet

SUFFIX = ".parquet"

TALLY_KEY = b"tally"
"""Key of the tally in the metadata of a file."""


def write_labels(
    output: str,
    file: str,
    rows: Sequence[dict[str, Any]],
    tally: LabelTally,
    class_names: Sequence[str],
    formats: Collection[str] = (),
) -> None:
    """Write rows of ``LABEL_SCHEMA`` to one Parquet file, completely or not at all.

    Copies in other formats are written first, so that they exist wherever the Parquet file does.

    Args:
        output: Folder of the labels.
        file: Name of the file in that folder.
        rows: All rows of the images in a chunk.
        tally: Tally of the rows, which a resumed run reads.
        class_names: Class of each probability.
        formats: Other formats to write, keys of ``ENCODERS``.
    """
    table = pa.Table.from_pylist(list(rows), LABEL_SCHEMA)
    for suffix in formats:
        content = ENCODERS[suffix](table, class_names)
        storage.write_bytes(storage.join(output, export_path(file, suffix)), content)
    metadata = {**LABEL_SCHEMA.metadata, TALLY_KEY: tally.to_json().encode()}
    parquet.write_table(storage.join(output, file), table.replace_schema_metadata(metadata))


def export_path(file: str, suffix: str) -> str:
    """Return the path, in the labels' folder, of a file's copy in another format."""
    return f"{suffix}/{storage.base_name(file).removesuffix(SUFFIX)}.{suffix}"


def read_tally(location: str) -> LabelTally:
    """Read the tally of a label file without reading its rows.

    Raises:
        JobError: It is not a label file.
    """
    store, path = storage.filesystem(location)
    try:
        with store.open_input_file(path) as file:
            return LabelTally.from_json(pq.read_schema(file).metadata[TALLY_KEY])
    except (pa.ArrowInvalid, KeyError, TypeError) as error:
        raise JobError(
            f"{location} is not a file of labels; remove it and continue with --resume."
        ) from error


def read_rows(location: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Read the rows of a label file.

    Args:
        location: The file.
        columns: Columns of ``LABEL_SCHEMA`` to read; None reads all.
    """
    store, path = storage.filesystem(location)
    with store.open_input_file(path) as file:
        rows: list[dict[str, Any]] = pq.read_table(file, columns=columns).to_pylist()
    return rows
