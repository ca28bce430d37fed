"""Labels as CSV and JSON Lines, for tools that do not read Parquet."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.csv import WriteOptions, write_csv

FORMULA_START = r"^[=+\-@\t\r\n]"
"""Matches the first character of a text that a spreadsheet runs as a formula."""


def to_csv(labels: pa.Table, class_names: Sequence[str], *, with_header: bool = True) -> bytes:
    """Convert rows of ``LABEL_SCHEMA`` to a CSV file.

    The box has one column for each of its fields (``box_x``), and each class has one for its
    probability (``probability_happy``). Null values are empty. A text that a spreadsheet would run
    as a formula gets a leading apostrophe. An ETag or a class name can be such a text; an image's
    location cannot, because it begins with a slash or a scheme.

    Args:
        labels: The rows.
        class_names: Class of each probability.
        with_header: Whether the first line names the columns.
    """
    columns: dict[str, pa.ChunkedArray] = {}
    for name in labels.schema.names:
        column = labels[name]
        if name == "box":
            for field in column.type:
                columns[f"box_{field.name}"] = pc.struct_field(column, field.name)
        elif name == "probabilities":
            for index, emotion in enumerate(class_names):
                columns[f"probability_{emotion}"] = pc.list_element(column, index)
        else:
            columns[name] = _escape_formulas(column) if pa.types.is_string(column.type) else column
    sink = pa.BufferOutputStream()
    write_csv(pa.table(columns), sink, WriteOptions(include_header=with_header))
    return bytes(sink.getvalue())


def to_jsonl(labels: pa.Table, class_names: Sequence[str]) -> bytes:
    """Convert rows of ``LABEL_SCHEMA`` to JSON Lines in ASCII.

    Each column is a key. The box is an object with its fields, and the probabilities are an object
    with one number for each class.

    Args:
        labels: The rows.
        class_names: Class of each probability.
    """
    lines = []
    for row in labels.to_pylist():
        if row["probabilities"] is not None:
            row["probabilities"] = dict(zip(class_names, row["probabilities"], strict=True))
        # Times are float64, and JSON has all their digits.
        time = {"time_seconds": row["time_seconds"]}
        lines.append(json.dumps(_shorten_floats(row) | time) + "\n")
    return "".join(lines).encode()


ENCODERS: dict[str, Callable[[pa.Table, Sequence[str]], bytes]] = {"csv": to_csv, "jsonl": to_jsonl}
"""Functions that convert rows of labels to a file, by the file's suffix."""


def _escape_formulas(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    quoted = pc.binary_join_element_wise("'", texts, "")
    return pc.if_else(pc.match_substring_regex(texts, FORMULA_START), quoted, texts)


def _shorten_floats(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Write float32 numbers with the fewest digits that identify them."""
    if isinstance(value, dict):
        return {name: _shorten_floats(item) for name, item in value.items()}
    return float(str(np.float32(value))) if isinstance(value, float) else value
