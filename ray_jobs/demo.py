"""Everything once on drawn faces, so that a newcomer sees the whole way in minutes.

1. Draw: faces with seven expressions, as a FER2013 CSV file and as an archive of images.
2. Ingest the CSV file.
3. Train both networks.
4. Evaluate both, and their committee.
5. Label the archive.
"""

import csv
import dataclasses
import io
import json
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from fer import storage
from fer.drawings import draw_faces
from fer.emotions import EMOTIONS, SPLITS
from ray_jobs import cluster, evaluate, ingest, label, locations, outputs, train
from ray_jobs.config import DemoConfig, EvaluateConfig, IngestConfig, LabelConfig, TrainConfig

TABLE, ARCHIVE, DATASET, REPORT, LABELS = "fer2013.csv", "faces.zip", "dataset", "report", "labels"
NETWORKS = ("shallow", "deep")
USAGES = dict(zip(SPLITS, ("Training", "PublicTest", "PrivateTest"), strict=True))
SHARES = (0.8, 0.1, 0.1)
"""Share of each split, as in FER2013."""

BATCH_SIZE, LR = 32, 0.02
"""Smaller steps than for FER2013, since there are twenty times fewer faces."""


@dataclass(frozen=True)
class Faces:
    """Drawn faces: images uint8 (N, 48, 48), labels int (N,), and the split of each."""

    images: np.ndarray
    labels: np.ndarray
    splits: list[str]

    def __iter__(self) -> Iterator[tuple[np.ndarray, int, str]]:
        return iter(zip(self.images, self.labels.tolist(), self.splits, strict=True))


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
    cluster.connect()
    _say("2/5", "ingesting them")
    ingested = ingest.run(_ingest_config(config))
    _say("3/5", "training the shallow network, then the deep one")
    trained = [train.run(_train_config(config, model)) for model in NETWORKS]
    _say("4/5", "evaluating both, and their committee")
    evaluated = evaluate.run(_evaluate_config(config))
    _say("5/5", "labelling the archive")
    labelled = label.run(_label_config(config))
    result = {
        "examples": ingested["examples"],
        "checkpoints": [step["checkpoint"] for step in trained],
        "val": {each["name"]: round(each["accuracy"], 4) for each in evaluated["checkpoints"]},
        "labelled": labelled["images"],
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


def to_csv(faces: Faces) -> bytes:
    """Return faces as FER2013's CSV file writes them: ``emotion,pixels,Usage``."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["emotion", "pixels", "Usage"])
    for image, emotion, split in faces:
        rows.writerow([emotion, " ".join(map(str, image.ravel())), USAGES[split]])
    return text.getvalue().encode()


def to_zip(faces: Faces) -> bytes:
    """Return faces as an archive of PNG files in folders by split and class."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (image, emotion, split) in enumerate(faces):
            png = io.BytesIO()
            Image.fromarray(image).save(png, "PNG")
            archive.writestr(f"{split}/{EMOTIONS[emotion]}/{number:05d}.png", png.getvalue())
    return buffer.getvalue()


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
        committee=True,
    )


def _label_config(config: DemoConfig) -> LabelConfig:
    return LabelConfig(
        images=_at(config, ARCHIVE),
        output=_at(config, LABELS),
        detector="none",
        checkpoint=_at(config, "deep"),
    )
