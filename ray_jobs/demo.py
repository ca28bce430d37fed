"""Demo: run every step once on drawn faces, so that a newcomer sees the whole way in minutes.

1. Draw faces with seven expressions, as a FER2013 CSV file and as an archive of images.
2. Ingest the CSV file.
3. Train the paper's two networks.
4. Evaluate both, and their ensemble.
5. Label the archive.
"""

import dataclasses
import sys
import time
from typing import Any

import numpy as np

from fer import storage
from fer.data.emotions import SPLITS
from fer.data.synthetic import Faces, draw_faces, to_csv, to_zip
from ray_jobs import jobs
from ray_jobs.cluster import session
from ray_jobs.config import DemoConfig, EvaluateConfig, IngestConfig, LabelConfig, TrainConfig
from ray_jobs.pipeline import locations
from ray_jobs.pipeline.outputs import OutputSpec, Reservation

TABLE, ARCHIVE, DATASET, REPORT, LABELS = "fer2013.csv", "faces.zip", "dataset", "report", "labels"
NETWORKS = ("shallow", "deep")
SHARES = (0.8, 0.1, 0.1)
"""Share of each split, as in FER2013."""

OUTPUT = OutputSpec(
    completed_by="summary.json",
    contents=(TABLE, ARCHIVE, DATASET, *NETWORKS, REPORT, LABELS),
)

WELCOME = """The demo takes one to three minutes on two cores. It draws faces with seven
expressions, ingests them, trains two networks, evaluates both, and labels the faces.
At the end you will find
  {output}/report/index.html   how often each network is right, with pictures
  {output}/labels/report.html  a gallery of labeled faces
  {output}/labels/faces/       the labels themselves, in Parquet
"""
"""What a person reads before the wait."""

RECIPE: dict[str, Any] = {
    "batch_size": 32,
    "lr": 0.05,
    "dropout": 0.0,
    "augment": False,
    "ema_decay": 0.9,
}
"""How the networks train, in fifty steps rather than FER2013's thousands: smaller batches, no
regularization, and an average of the weights that forgets faster."""


def run(config: DemoConfig) -> dict[str, Any]:
    """Draw, ingest, train, evaluate and label.

    Returns:
        What the RESULT line says.

    Raises:
        InputError: The output holds something else.
        JobError: A step failed.
    """
    started = time.monotonic()
    config = locations.resolve(config)
    with OUTPUT.reserve(config, started=started) as output:
        return _demonstrate(config, output)


def _demonstrate(config: DemoConfig, output: Reservation) -> dict[str, Any]:
    output.begin()
    _print(WELCOME.format(output=config.output))
    _print(f"1/5 Drawing {config.num_faces:,} faces")
    _write_faces(config)
    session.connect(session.INFERENCE_MEMORY)
    _print("2/5 Ingesting them")
    ingested = _run(_ingest_config(config))
    _print("3/5 Training the shallow network, then the deep one")
    trained = [_run(_train_config(config, model)) for model in NETWORKS]
    _print("4/5 Evaluating both, and their ensemble")
    evaluated = _run(_evaluate_config(config))
    _print("5/5 Labeling the archive")
    labeled = _run(_label_config(config))
    result = {
        "examples": ingested["examples"],
        "checkpoints": [step["checkpoint"] for step in trained],
        "val": {row["name"]: round(row["accuracy"], 4) for row in evaluated["checkpoints"]},
        "labeled": labeled["images"],
        "report": evaluated["report"],
        "gallery": labeled["report"],
        "seconds": round(output.elapsed_seconds, 2),
    }
    output.commit({**result, "config": dataclasses.asdict(config)})
    _print(f"Done. Open {result['report']} and {result['gallery']} in a browser.")
    return result


def _print(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _run(config: Any) -> dict[str, Any]:  # noqa: ANN401 - any job's configuration
    """Run one step and return its RESULT line."""
    result = jobs.run(config)
    assert result is not None
    return result


def _write_faces(config: DemoConfig) -> None:
    images, labels = draw_faces(config.num_faces, config.seed)
    ends = np.cumsum(np.array(SHARES) * config.num_faces).astype(int)
    splits = [SPLITS[np.searchsorted(ends, row, side="right")] for row in range(ends[-1])]
    faces = Faces(images[: ends[-1]], labels[: ends[-1]], splits)
    storage.write_bytes(storage.join(config.output, TABLE), to_csv(faces))
    storage.write_bytes(storage.join(config.output, ARCHIVE), to_zip(faces))


def _at(config: DemoConfig, name: str) -> str:
    return storage.join(config.output, name)


def _ingest_config(config: DemoConfig) -> IngestConfig:
    return IngestConfig(source=(_at(config, TABLE),), output=_at(config, DATASET))


def _train_config(config: DemoConfig, model: Any) -> TrainConfig:  # noqa: ANN401 - a literal
    return TrainConfig(
        dataset=_at(config, DATASET),
        output=_at(config, model),
        model=model,
        num_epochs=config.num_epochs,
        seed=config.seed,
        **RECIPE,
    )


def _evaluate_config(config: DemoConfig) -> EvaluateConfig:
    return EvaluateConfig(
        dataset=_at(config, DATASET),
        checkpoint=tuple(_at(config, model) for model in NETWORKS),
        output=_at(config, REPORT),
        ensemble=True,
    )


def _label_config(config: DemoConfig) -> LabelConfig:
    return LabelConfig(
        images=_at(config, ARCHIVE),
        output=_at(config, LABELS),
        detector="none",
        checkpoint=_at(config, "deep"),
    )
