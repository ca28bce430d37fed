"""Labels as CSV and as JSON lines, for those who don't read Parquet."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.csv import write_csv

FORMULA = r"^[=+\-@\t\r\n]"
"""How a text begins that a spreadsheet runs when it opens a CSV file."""


def to_csv(labels: pa.Table, class_names: Sequence[str]) -> bytes:
    """Return rows of ``LABEL_SCHEMA`` as a CSV file with a header.

    The box has a column for each side (``box_x``), and each class one for its probability
    (``probability_happy``); what is null is empty. A text that a spreadsheet would take for a
    formula is given an apostrophe in front: an ETag or a class can be one, an image's location,
    which begins with a slash or a scheme, can't.

    Args:
        labels: The rows.
        class_names: Name of each of the probabilities.
    """
    columns: dict[str, pa.ChunkedArray] = {}
    for name in labels.schema.names:
        column = labels[name]
        if name == "box":
            for side in column.type:
                columns[f"box_{side.name}"] = pc.struct_field(column, side.name)
        elif name == "probabilities":
            for number, emotion in enumerate(class_names):
                columns[f"probability_{emotion}"] = pc.list_element(column, number)
        else:
            columns[name] = _harmless(column) if pa.types.is_string(column.type) else column
    sink = pa.BufferOutputStream()
    write_csv(pa.table(columns), sink)
    return bytes(sink.getvalue())


def to_jsonl(labels: pa.Table, class_names: Sequence[str]) -> bytes:
    """Return rows of ``LABEL_SCHEMA`` as JSON lines, in ASCII.

    Every column is a key, the box an object of its sides, the probabilities one by class.

    Args:
        labels: The rows.
        class_names: Name of each of the probabilities.
    """
    lines = []
    for row in labels.to_pylist():
        if row["probabilities"] is not None:
            row["probabilities"] = dict(zip(class_names, row["probabilities"], strict=True))
        lines.append(json.dumps(_shortest(row)) + "\n")
    return "".join(lines).encode()


ENCODERS: dict[str, Callable[[pa.Table, Sequence[str]], bytes]] = {"csv": to_csv, "jsonl": to_jsonl}
"""What turns rows of labels into a file, by the suffix that names it."""


def _harmless(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    quoted = pc.binary_join_element_wise("'", texts, "")
    return pc.if_else(pc.match_substring_regex(texts, FORMULA), quoted, texts)


def _shortest(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a value whose float32 numbers have no more digits than tell them apart."""
    if isinstance(value, dict):
        return {name: _shortest(each) for name, each in value.items()}
    return float(str(np.float32(value))) if isinstance(value, float) else value
