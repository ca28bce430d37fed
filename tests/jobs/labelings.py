"""Labelings of crops, as a user starts them, and the row of each image."""

import pyarrow.parquet as pq

from fer.labels.schema import LABEL_SCHEMA


def label(fer, images, checkpoint, output, *flags):
    named = ("--detector", "none", "--checkpoint", checkpoint, "--output", output)
    return fer("label", "--images", images, *named, *flags)


def rows_of(output):
    table = pq.read_table(output / "faces")
    assert table.schema.equals(LABEL_SCHEMA)
    return {row["image"]: row for row in table.to_pylist()}
