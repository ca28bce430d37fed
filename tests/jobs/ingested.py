"""A row of a table, and what an ingest says of the dataset that it wrote."""

import json

from fer.data.emotions import SPLITS

ROW = " ".join(["7"] * 2304)
"""The pixels of an example, as a table gives them."""


def summary_of(output):
    return json.loads((output / "summary.json").read_text())


def counts(output):
    by_split = summary_of(output)["counts"]
    return {split: list(by_split[split].values()) for split in SPLITS}
