"""Evaluate: score checkpoints on a dataset, and write the paper's tables and figures as a report.

1. Read: the examples of the split.
2. Classify: compute the probabilities of every checkpoint, in one process a CPU.
3. Write: the predictions of every example to Parquet.
4. Report: write scores, pictures and the page.
"""

import dataclasses
import functools
import itertools
import operator
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from fer import storage
from fer.data.dataset import ROWS_PER_FILE, Dataset, images_from_table, open_dataset
from fer.errors import InputError
from fer.models.checkpoint import check_classes, load_checkpoint
from fer.models.engine import with_graphs
from fer.models.ensemble import combine_probs, ensemble_files, fusion_weights
from fer.models.predictor import Predictor
from fer.reports.robustness import NUM_VIEWS, RobustnessTally
from fer.storage import parquet
from fer.vision.conditions import degrade
from fer.vision.shape import ImageShape
from ray_jobs.cluster import session
from ray_jobs.config import EvaluateConfig
from ray_jobs.pipeline import locations, stages
from ray_jobs.pipeline.classify import Inference, classify, images_per_batch
from ray_jobs.pipeline.outputs import OutputSpec
from ray_jobs.pipeline.progress import progress

ENSEMBLE = "ensemble"
"""Name of the ensemble in the report, and the folder of its checkpoint."""

OUTPUT = OutputSpec(
    completed_by="report.json", contents=("predictions", "pictures", "index.html", ENSEMBLE)
)

PREDICTION_SCHEMA = pa.schema(
    [
        ("checkpoint", pa.string()),
        ("source", pa.string()),
        ("sha256", pa.string()),
        ("copy_of_train", pa.bool_()),
        ("label", pa.int8()),
        ("emotion", pa.string()),
        ("predicted", pa.string()),
        ("confidence", pa.float32()),
        ("probabilities", pa.list_(pa.float32())),
    ]
)
"""One row an example and checkpoint: whether ``train`` holds the example's pixels too, its true
``label`` and ``emotion``, and the prediction."""


@dataclasses.dataclass
class Predictions:
    """What the networks predicted for some examples.

    Attributes:
        truth: Table of each example's ``source``, ``sha256``, ``label`` and ``copy_of_train``, N
            rows.
        probs: float32 (N, K, C) of K networks.
        file: Name of the Parquet file that holds them.
        robustness: Counts of what they predicted under conditions; None without.
    """

    truth: pa.Table
    probs: np.ndarray
    file: str
    robustness: RobustnessTally | None = None

    def __len__(self) -> int:
        return len(self.truth)


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate checkpoints.

    Returns:
        What the RESULT line says.

    Raises:
        InputError: The dataset, a checkpoint or the output is not as the job needs it.
    """
    started = time.monotonic()
    config = locations.resolve(config)
    data = open_dataset(config.dataset)
    data.check_split(config.split)
    checkpoints = _check_checkpoints(config, data)
    with OUTPUT.reserve(config, started=started) as output:
        session.connect(session.INFERENCE_MEMORY)
        session.require_resources([{"CPU": 1}], "Tasks")
        output.begin()
        with session.unwrap_errors():
            predictions = _predict(config, data, checkpoints)
        result = _report(config, data, checkpoints, _concatenate(predictions))
    return {**result, "seconds": round(output.elapsed_seconds, 2)}


def _check_checkpoints(config: EvaluateConfig, data: Dataset) -> dict[str, str]:
    """Return the checkpoints as the user named them, by their names in the report."""
    if config.ensemble and len(config.checkpoint) < 2:
        raise InputError(
            "--ensemble averages several checkpoints, but one was given; give two or more."
        )
    named: dict[str, str] = {}
    for checkpoint in config.checkpoint:
        network = load_checkpoint(checkpoint)
        check_classes(checkpoint, network.class_names, data.class_names)
        # A graph that does not open is refused here, not by each process of the cluster.
        Predictor(with_graphs(network), engine="float32", num_threads=1)
        # "shallow-C1" for runs/C1, but only "shallow" for runs/shallow.
        folder = storage.shorten(storage.base_name(checkpoint))
        name = "-".join(dict.fromkeys((network.kind, folder)))
        taken = {*named, ENSEMBLE} if config.ensemble else {*named}
        names = itertools.chain((name,), (f"{name}-{number}" for number in itertools.count(2)))
        named[next(free for free in names if free not in taken)] = checkpoint
    return named


def _predict(
    config: EvaluateConfig, data: Dataset, checkpoints: dict[str, str]
) -> list[Predictions]:
    total = sum(data.counts(config.split).values())
    predictions, done = [], 0
    with progress("Evaluating", "examples", total) as advance:
        for file_predictions in _predict_files(config, data, checkpoints):
            predictions.append(file_predictions)
            done += len(file_predictions)
            advance(done)
    parquet.delete_all_except(config.output, ("predictions",), {item.file for item in predictions})
    return predictions


def _concatenate(predictions: list[Predictions]) -> Predictions:
    """Return all predictions as one that belongs to no file."""
    truth = pa.concat_tables([item.truth for item in predictions])
    tallies = [item.robustness for item in predictions if item.robustness]
    return Predictions(
        truth,
        np.concatenate([item.probs for item in predictions]),
        file="",
        robustness=functools.reduce(operator.add, tallies) if tallies else None,
    )


def _predict_files(
    config: EvaluateConfig, data: Dataset, checkpoints: dict[str, str]
) -> Iterator[Predictions]:
    """Read, classify and write as one stream; yield the predictions of each file."""
    batch_size = images_per_batch(data.shape, NUM_VIEWS if config.robustness else 1)
    faces = (
        stages.read_split(data, config.split, ("image", "label", "source", "sha256"))
        .map_batches(
            partial(
                to_crops,
                shape=data.shape,
                copies=data.copies_of_train(config.split),
                robustness=config.robustness,
            ),
            batch_format="pyarrow",
            batch_size=None,
        )
        .repartition(target_num_rows_per_block=batch_size)
    )
    # The report shows the checkpoint's own scores, not those of a processor's fast arithmetic.
    networks = tuple(with_graphs(load_checkpoint(location)) for location in checkpoints.values())
    inference = Inference(networks, data.shape, engine="float32", tta=config.tta)
    classified = classify(faces, inference, batch_size=batch_size)
    written = classified.map_batches(
        partial(write, output=config.output, names=[*checkpoints], class_names=data.class_names),
        batch_format="pyarrow",
        batch_size=ROWS_PER_FILE,
        num_cpus=0,
        **session.avoid_head(),
    )
    yield from stages.tallies(written)


def to_crops(
    examples: pa.Table, shape: ImageShape, copies: frozenset[str], *, robustness: bool = False
) -> pa.Table:
    """Replace ``image`` with ``crops``, a list of the bytes of crops, for a classifier.

    Args:
        examples: The examples.
        shape: Shape of their images.
        copies: Digests of the images that ``train`` holds too. Add ``copy_of_train`` from them.
        robustness: Whether the image is followed by the image under each of ``CONDITIONS``.
    """
    digests = examples["sha256"].to_pylist()
    crops = [
        [view.tobytes() for view in (image, *(degrade(image, digest) if robustness else ()))]
        for image, digest in zip(images_from_table(examples, shape), digests, strict=True)
    ]
    is_copy = [digest in copies for digest in digests]
    return (
        examples.drop_columns("image")
        .append_column("crops", pa.array(crops, pa.list_(pa.binary())))
        .append_column("copy_of_train", pa.array(is_copy, pa.bool_()))
    )


def write(
    classified: pa.Table, output: str, names: list[str], class_names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Write what every network predicted, and return it as a batch of one row."""
    columns = [name for name in classified.column_names if name.startswith("probs_")]
    views = np.stack(
        [np.array(classified[name].to_pylist(), np.float32) for name in columns], axis=1
    )
    truth, probs = classified.drop_columns(columns), views[:, :, 0]
    tables = [
        _table(truth, name, probs[:, number], class_names) for number, name in enumerate(names)
    ]
    file = parquet.write_keyed_table(output, "predictions", pa.concat_tables(tables), key="source")
    robustness = _count_views(truth, views) if views.shape[2] > 1 else None
    return stages.tally_batch(Predictions(truth, probs, file, robustness))


def _count_views(truth: pa.Table, views: np.ndarray) -> RobustnessTally:
    """Count predictions float32 (N, K, V, C) of the images that ``train`` does not hold."""
    rows = ~truth["copy_of_train"].to_numpy()
    return RobustnessTally.count(truth["label"].to_numpy().astype(int)[rows], views[rows])


def _table(truth: pa.Table, name: str, probs: np.ndarray, class_names: tuple[str, ...]) -> pa.Table:
    names = np.asarray(class_names, object)
    columns = {
        "checkpoint": [name] * len(truth),
        "source": truth["source"],
        "sha256": truth["sha256"],
        "copy_of_train": truth["copy_of_train"],
        "label": truth["label"],
        "emotion": names[truth["label"].to_numpy()],
        "predicted": names[probs.argmax(axis=1)],
        "confidence": probs.max(axis=1),
        "probabilities": list(probs),
    }
    return pa.table(columns, schema=PREDICTION_SCHEMA)


def _write_ensemble(
    config: EvaluateConfig,
    data: Dataset,
    checkpoints: dict[str, str],
    predictions: Predictions,
    rows: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Write an ensemble of all networks as a checkpoint, and its predictions beside theirs.

    Args:
        config: The flags of the job.
        data: The dataset.
        checkpoints: The checkpoints by their names in the report.
        predictions: What they predicted, N examples.
        rows: Indices of the examples by which the networks' weights are chosen.

    Returns:
        The weight of each network, float (K,), and the ensemble's probabilities, float32 (N, C).
    """
    labels = predictions.truth["label"].to_numpy()
    weights = fusion_weights(predictions.probs[rows], labels[rows], config.fusion)
    for name, content in ensemble_files([*checkpoints.values()], weights.tolist()):
        storage.write_bytes(storage.join(config.output, ENSEMBLE, name), content)
    fused = combine_probs(predictions.probs, weights)
    table = _table(predictions.truth, ENSEMBLE, fused, data.class_names)
    parquet.write_keyed_table(config.output, "predictions", table, key="checkpoint")
    return weights, fused


def _report(
    config: EvaluateConfig,
    data: Dataset,
    checkpoints: dict[str, str],
    predictions: Predictions,
) -> dict[str, Any]:
    """Compute the scores, draw the pictures, and write the report, ``report.json`` last."""
    from fer.reports import evaluation  # noqa: PLC0415 - workers need no matplotlib

    locations_by_name = dict(checkpoints)
    probs, weights = [*np.moveaxis(predictions.probs, 1, 0)], np.empty(0)
    truth = evaluation.GroundTruth(
        labels=predictions.truth["label"].to_numpy().astype(int),
        digests=predictions.truth["sha256"].to_pylist(),
        is_copy=predictions.truth["copy_of_train"].to_numpy(),
    )
    if config.ensemble:
        rows = truth.rows_without_copies()
        weights, fused = _write_ensemble(config, data, checkpoints, predictions, rows)
        locations_by_name[ENSEMBLE] = storage.join(config.output, ENSEMBLE)
        probs.append(fused)
    evaluations = [
        evaluation.evaluate(evaluation.Network.load(name, location), truth, network_probs, data)
        for (name, location), network_probs in zip(locations_by_name.items(), probs, strict=True)
    ]
    if tally := predictions.robustness:
        # The ensemble, which comes last, was not asked about degraded faces.
        for number in range(len(checkpoints)):
            scores = tally.scores(number, data.class_names)
            evaluations[number] = dataclasses.replace(evaluations[number], robustness=scores)
    context = evaluation.EvaluationContext(
        dataset=config.dataset,
        fingerprint=data.summary["fingerprint"],
        split=config.split,
        copies_of_train=int(truth.is_copy.sum()),
        tta=config.tta,
        fusion=config.fusion if config.ensemble else None,
        weights=tuple(weights.tolist()),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    faces = data.read_images(truth.digests[: evaluation.NUM_SHOWN])
    for name, content in evaluation.evaluation_report(evaluations, context, faces).items():
        storage.write_bytes(storage.join(config.output, name), content)
    report = storage.join(config.output, "index.html")
    headlines = [network.headline() for network in evaluations]
    return {"report": report, "split": config.split, "checkpoints": headlines}
