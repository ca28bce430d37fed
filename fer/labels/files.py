"""Files of labels: the rows of a chunk, and in the footer what was counted of them."""

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

TALLY = b"tally"
"""Names what was counted, in the metadata of a file."""


def write_labels(
    output: str,
    file: str,
    rows: Sequence[dict[str, Any]],
    tally: LabelTally,
    class_names: Sequence[str],
    formats: Collection[str] = (),
) -> None:
    """Write rows of ``LABEL_SCHEMA`` as one Parquet file, all or nothing.

    Its doubles in other formats come first: where it is, they are.

    Args:
        output: What the labels lie in.
        file: Name of the file in it.
        rows: All faces of some images.
        tally: What was counted of them, for the run that goes on after this one.
        class_names: Name of each of the probabilities.
        formats: Keys of ``ENCODERS`` that are written besides.
    """
    table = pa.Table.from_pylist(list(rows), LABEL_SCHEMA)
    for kind in formats:
        content = ENCODERS[kind](table, class_names)
        storage.write_bytes(storage.join(output, twin(file, kind)), content)
    known = {**LABEL_SCHEMA.metadata, TALLY: tally.to_json().encode()}
    parquet.write_table(storage.join(output, file), table.replace_schema_metadata(known))


def twin(file: str, kind: str) -> str:
    """Return the name of a file's double in another format."""
    return f"{kind}/{storage.name(file).removesuffix(SUFFIX)}.{kind}"


def read_tally(location: str) -> LabelTally:
    """Return what was counted of a file of labels, without its rows.

    Raises:
        JobError: It is none.
    """
    store, path = storage.filesystem(location)
    try:
        with store.open_input_file(path) as file:
            return LabelTally.from_json(pq.read_schema(file).metadata[TALLY])
    except (pa.ArrowInvalid, KeyError, TypeError) as error:
        raise JobError(
            f"{location} is no file of labels: take it away, and go on with --resume."
        ) from error


def read_rows(location: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return the rows of a file of labels.

    Args:
        location: The file.
        columns: Those of ``LABEL_SCHEMA`` to read; None reads all.
    """
    store, path = storage.filesystem(location)
    with store.open_input_file(path) as file:
        rows: list[dict[str, Any]] = pq.read_table(file, columns=columns).to_pylist()
    return rows
