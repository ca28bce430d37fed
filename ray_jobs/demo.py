"""Everything once on drawn faces, so that a newcomer sees the whole way in minutes.

1. Draw: faces with seven expressions, as a FER2013 CSV file and as an archive of images.
2. Ingest the CSV file.
3. Train both networks.
4. Evaluate both, and their ensemble.
5. Label the archive.
"""

import dataclasses
import json
import sys
import time
from typing import Any

import numpy as np

from fer import storage
from fer.data.emotions import SPLITS
from fer.data.synthetic import Faces, draw_faces, to_csv, to_zip
from ray_jobs import evaluate, ingest, label, train
from ray_jobs.cluster import session
from ray_jobs.config import DemoConfig, EvaluateConfig, IngestConfig, LabelConfig, TrainConfig
from ray_jobs.pipeline import locations, outputs

TABLE, ARCHIVE, DATASET, REPORT, LABELS = "fer2013.csv", "faces.zip", "dataset", "report", "labels"
NETWORKS = ("shallow", "deep")
SHARES = (0.8, 0.1, 0.1)
"""Share of each split, as in FER2013."""

BATCH_SIZE, LR = 32, 0.02
"""Smaller steps than for FER2013, since there are twenty times fewer faces."""


def run(config: DemoConfig) -> dict[str, Any]:
    """Draw, ingest, train, evaluate and label.

    Returns:
        What the RESULT line says.

    Raises:
        InputError: The output holds something else.
        JobError: A step failed.
    """
    start = time.monotonic()
    config = locations.resolve(config)
    made = (TABLE, ARCHIVE, DATASET, *NETWORKS, REPORT, LABELS)
    outputs.claim(config, "summary.json", made).take()
    _say("1/5", f"drawing {config.num_faces:,} faces")
    _write_faces(config)
    session.connect()
    _say("2/5", "ingesting them")
    ingested = ingest.run(_ingest_config(config))
    _say("3/5", "training the shallow network, then the deep one")
    trained = [train.run(_train_config(config, model)) for model in NETWORKS]
    _say("4/5", "evaluating both, and their ensemble")
    evaluated = evaluate.run(_evaluate_config(config))
    _say("5/5", "labeling the archive")
    labeled = label.run(_label_config(config))
    result = {
        "examples": ingested["examples"],
        "checkpoints": [step["checkpoint"] for step in trained],
        "val": {each["name"]: round(each["accuracy"], 4) for each in evaluated["checkpoints"]},
        "labeled": labeled["images"],
        "report": evaluated["report"],
        "seconds": round(time.monotonic() - start, 2),
    }
    summary = json.dumps({**result, "config": dataclasses.asdict(config)}, indent=2)
    storage.write_bytes(storage.join(config.output, "summary.json"), summary.encode())
    _say("Done", f"open {result['report']}")
    return result


def _say(step: str, doing: str) -> None:
    print(f"{step}: {doing}", file=sys.stderr, flush=True)


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
        batch_size=BATCH_SIZE,
        lr=LR,
        seed=config.seed,
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
