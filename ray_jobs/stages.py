"""Stages that several jobs are built from: read pieces, run networks, hand back counts."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch

from fer.predictor import Predictor
from fer.sources import Piece, read_pieces

BLOCK_BYTES = 16 * 2**20
"""Size of the blocks of pieces that a task takes at once: some 1,800 rows of FER2013's CSV."""

MAX_PIECES = 256
"""Pieces a batch, however small: a task on files that are still to be fetched stays short."""

BATCH_SIZE = 512
"""Images that are handed to a network's process at once."""

DECODE_CPUS, CLASSIFY_CPUS = 0.25, 0.75
"""What decoding and classifying reserve: together one CPU, so that each CPU runs one of each."""

PIECE_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("data", pa.binary()),
        ("first_row", pa.int64()),
        ("size_bytes", pa.int64()),
        ("etag", pa.string()),
        ("reason", pa.string()),
    ]
)


def read(locations: Sequence[str], limit: int | None = None) -> ray.data.Dataset:
    """Return the pieces of sources as rows of ``PIECE_SCHEMA``, read in one task a source.

    Args:
        locations: What ``fer.sources.read_pieces`` reads.
        limit: Number of pieces of each source to stop after, without those that are ignored.
    """
    sources = ray.data.from_arrow(pa.table({"location": list(locations)}))
    sources.context.target_max_block_size = BLOCK_BYTES
    return sources.repartition(len(locations)).map_batches(
        _read,
        fn_kwargs={"limit": limit},
        batch_format="pyarrow",
        batch_size=1,
        # A reader waits more than it computes, and another need keeps it apart from what follows.
        num_cpus=0,
    )


def _read(sources: pa.Table, limit: int | None) -> Iterator[pa.Table]:
    for location in sources["location"].to_pylist():
        for pieces in _batched(_first(read_pieces(location), limit)):
            yield pa.Table.from_pylist([vars(piece) for piece in pieces], PIECE_SCHEMA)


def _first(pieces: Iterator[Piece], limit: int | None) -> Iterator[Piece]:
    taken = 0
    while taken != limit and (piece := next(pieces, None)):
        taken += piece.kind != "ignored"
        yield piece


def _batched(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size_bytes = 0
    for piece in pieces:
        batch.append(piece)
        size_bytes += len(piece.data or b"")
        if len(batch) >= MAX_PIECES or size_bytes >= BLOCK_BYTES // 4:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch


class Classifier:
    """A process that keeps networks in memory and adds their probabilities to tables of faces.

    It takes a column ``pixels`` (2,304 bytes, or null) away and adds one column a network,
    ``probs_0`` and so on: float32 lists (C,), null where there were no pixels.
    """

    def __init__(self, checkpoints: Sequence[str], *, tta: bool = False) -> None:
        # There is a process for each CPU: threads of its own would get in the others' way.
        torch.set_num_threads(1)
        self.predictors = [Predictor.load(checkpoint) for checkpoint in checkpoints]
        self.tta = tta

    def __call__(self, faces: pa.Table) -> pa.Table:
        """Classify a table of faces."""
        pixels = faces["pixels"].to_pylist()
        known = np.array([face is not None for face in pixels], bool)
        images = np.frombuffer(b"".join(filter(None, pixels)), np.uint8).reshape(-1, 48, 48)
        rest = faces.drop_columns("pixels")
        for index, predictor in enumerate(self.predictors):
            probs: list[Any] = [None] * len(pixels)
            predicted = predictor.predict_probs(images, tta=self.tta)
            for row, values in zip(np.flatnonzero(known), predicted, strict=True):
                probs[row] = values
            column = pa.array(probs, pa.list_(pa.float32()))
            rest = rest.append_column(f"probs_{index}", column)
        return rest


def classify(
    faces: ray.data.Dataset, checkpoints: Sequence[str], *, tta: bool = False
) -> ray.data.Dataset:
    """Add the probabilities of networks to faces, with one ``Classifier`` a CPU of the cluster."""
    num_cpus = int(ray.cluster_resources().get("CPU", 1))
    return faces.map_batches(
        Classifier,
        fn_constructor_kwargs={"checkpoints": list(checkpoints), "tta": tta},
        batch_format="pyarrow",
        batch_size=BATCH_SIZE,
        num_cpus=CLASSIFY_CPUS,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, num_cpus)),
    )


def tally_batch(tally: object) -> dict[str, np.ndarray]:
    """Return what a task counted as a batch of one row."""
    column = np.empty(1, object)
    column[0] = tally
    return {"tally": column}


def tallies(counted: ray.data.Dataset) -> Iterator[Any]:
    """Run a pipeline that ends in ``tally_batch`` and yield what was counted as it comes."""
    for batch in counted.iter_batches(batch_size=None, batch_format="numpy"):
        yield from batch["tally"]
