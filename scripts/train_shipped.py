"""Train the networks that ship on one GPU, in minutes, and the ensemble that teaches them.

    python scripts/train_shipped.py pack runs/fer2013 faces.xz
    python scripts/train_shipped.py train faces.xz runs/shipped

The first command writes a dataset into one small file, which is easily taken to a machine with a
GPU. There the second one needs neither Ray nor the dataset. It trains the teachers, makes them an
ensemble, and trains the students on its answers. The networks of a stage train side by side, each
in a process of its own, because one alone leaves most of a GPU idle. Each measures its own speed
first, and takes as many epochs as end in time.

What the flags in ``STAGES`` mean stands in docs/train.md: they are those of ``fer train``.
"""

import argparse
import dataclasses
import io
import json
import lzma
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer import storage
from fer.data.dataset import Examples, open_dataset
from fer.metrics import VAL_SCORES
from fer.models.ensemble import ensemble_files
from fer.models.layers import Layers
from fer.models.networks import pack_checkpoint
from fer.training.batches import DeviceExamples, InMemoryBatches
from fer.training.history import to_json_lines
from fer.training.run import METRICS, Run
from fer.training.targets import TargetBuilder
from fer.vision.reshape import convert_images
from fer.vision.shape import FER2013_SHAPE, ImageShape
from ray_jobs.config import TrainConfig
from ray_jobs.training.settings import build_recipe

RECIPE: dict[str, Any] = {
    "use_gpu": True,
    "batch_size": 256,
    "lr": 0.15,
    "warmup_fraction": 0.1,
    "weight_decay": 5e-4,
    "dropout": 0.2,
    "label_smoothing": 0.05,
    "ema_decay": 0.998,
    "max_zoom": 0.15,
    "erase_fraction": 0.4,
    "degrade_fraction": 0.15,
    "select_by": "val_accuracy",
}
"""Flags of ``fer train`` that all trainings share, where a stage does not say otherwise."""

TAUGHT = {"teacher": "ensemble", "teacher_view": "augmented", "teacher_weight": 0.8}

PLAIN = {"lr": 0.08, "dropout": 0.25}
"""Flags of the paper's two networks, which have hidden layers and no shortcuts."""

FINE_TUNED = {"model": "efficientnet-lite0", "num_epochs": 12, "lr": 0.05}

STAGES: dict[str, dict[str, dict[str, Any]]] = {
    "teachers": {
        "standardized": {"model": "resnet18-w48", "seed": 1},
        "equalized": {"model": "resnet18-w48", "seed": 2, "preprocessing": "equalize"},
        "mixed": {"model": "resnet14-w48", "seed": 3, "mixup": 0.2},
        "plain": {"model": "deep", "seed": 4, **PLAIN},
    },
    "students": {
        "student": {"model": "resnet10-w48", "seed": 5, "degrade_fraction": 0.3, **TAUGHT},
        "student-2": {
            "model": "resnet10-w48",
            "seed": 6,
            **TAUGHT,
            "teacher_weight": 0.9,
            "erase_fraction": 0.25,
            "degrade_fraction": 0.2,
        },
        "paper-deep": {
            "model": "deep",
            "seed": 7,
            **PLAIN,
            **TAUGHT,
            "lr": 0.05,
            "from_checkpoint": "plain",
        },
        "paper-shallow": {"model": "shallow", "seed": 8, **PLAIN, **TAUGHT, "degrade_fraction": 0},
    },
    "pretrained": {
        "random": {**FINE_TUNED, "preprocessing": "imagenet"},
        "imagenet": {**FINE_TUNED, "pretrained": "imagenet"},
        "residual": {"model": "resnet10-w48", "num_epochs": 12},
    },
}
"""Flags of the networks of each stage, by the name of the folder that takes their checkpoint.

A training without ``num_epochs`` takes as many as end in time.
"""

SECONDS = {"teachers": 600, "students": 1200, "pretrained": 120}
"""How long each stage takes."""

COLOR_SHAPE = ImageShape(112, 3)
"""What the ImageNet networks get: faces of FER2013, enlarged."""

WARM_UP_SECONDS = 6.0
"""For how long a training measures its speed, after a first epoch that does not count."""

MARGIN = 0.95
"""Share of the remaining time that epochs are planned for."""


@dataclass(frozen=True)
class Faces:
    """A dataset in memory.

    Attributes:
        class_names: The classes.
        train: Examples to train on.
        val: Examples to choose by.
        is_copy: bool (N,), whether each image of ``val`` is in ``train`` too.
        fingerprint: The dataset's fingerprint, which checkpoints name.
    """

    class_names: tuple[str, ...]
    train: Examples
    val: Examples
    is_copy: np.ndarray
    fingerprint: str


def pack(dataset: str, file: Path) -> None:
    """Write the images and labels of a dataset into one small file."""
    data = open_dataset(dataset)
    train, val, copies = (
        data.read_split("train"),
        data.read_split("val"),
        data.copies_of_train("val"),
    )
    assert val.digests is not None
    description = {"class_names": data.class_names, "fingerprint": data.summary["fingerprint"]}
    arrays = {
        "train_images": train.images,
        "train_labels": train.labels,
        "val_images": val.images,
        "val_labels": val.labels,
        "is_copy": np.array([digest in copies for digest in val.digests]),
        "description": np.array(json.dumps(description)),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    # A pixel is most like the one above it, which is a row's length away.
    filters = [
        {"id": lzma.FILTER_DELTA, "dist": train.images.shape[1]},
        {"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 4, "lp": 0, "pb": 0},
    ]
    file.write_bytes(lzma.compress(buffer.getvalue(), filters=filters))


def unpack(file: Path) -> Faces:
    """Read what ``pack`` wrote."""
    arrays = np.load(io.BytesIO(lzma.decompress(file.read_bytes())))
    description = json.loads(str(arrays["description"]))
    train, val = (
        Examples(arrays[f"{split}_images"], arrays[f"{split}_labels"], [], None, None)
        for split in ("train", "val")
    )
    class_names = tuple(description["class_names"])
    return Faces(class_names, train, val, arrays["is_copy"], description["fingerprint"])


def reshaped(faces: Faces, shape: ImageShape) -> Faces:
    """Return faces of another size or color."""
    train, val = (
        dataclasses.replace(examples, images=convert_images(examples.images, shape))
        for examples in (faces.train, faces.val)
    )
    return dataclasses.replace(faces, train=train, val=val)


@dataclass
class Training:
    """One training: its run, its batches, and what its checkpoint says of it."""

    config: TrainConfig
    faces: Faces
    architecture: dict[str, Any]
    run: Run
    batches: InMemoryBatches

    @classmethod
    def begin(cls, config: TrainConfig, faces: Faces, device: torch.device) -> "Training":
        """Create a training on a device."""
        num_classes = len(faces.class_names)
        recipe = build_recipe(config, device)
        names = [field.name for field in dataclasses.fields(Layers)]
        layers = {name: getattr(config, name) for name in names}
        architecture = {"name": config.model, "arguments": {"num_classes": num_classes, **layers}}
        shape = ImageShape.of(faces.train.images)
        run = Run.create(recipe, architecture, device, shape=shape)
        if config.from_checkpoint is not None:
            run.load_weights(config.from_checkpoint, faces.class_names)
        elif config.pretrained is not None:
            run.load_pretrained(config.pretrained)
        targets = TargetBuilder.fit(recipe, faces.train.labels, None, num_classes, device)
        train = DeviceExamples.from_examples(faces.train, num_classes, device)
        train = dataclasses.replace(train, targets=targets.build(faces.train).to(device))
        val = DeviceExamples.from_examples(faces.val, num_classes, device)
        val = dataclasses.replace(val, is_copy=torch.from_numpy(faces.is_copy).to(device))
        return cls(config, faces, architecture, run, InMemoryBatches(recipe, train, val))

    def epochs(self) -> Iterator[dict[str, Any]]:
        """Train, and yield each epoch's metrics."""
        return self.run.epochs(self.run.trained, self.batches, lambda _step, _details: None)

    def checkpoint(self) -> dict[str, bytes]:
        """Return the files by name of the newest epoch's checkpoint."""
        metrics = self.run.history[-1]
        flags = dataclasses.asdict(self.config)
        return pack_checkpoint(
            self.run.eval_model,
            self.architecture,
            class_names=self.faces.class_names,
            preprocessing=self.config.pixel_preprocessing,
            temperature=metrics["temperature"],
            training={**flags, "epoch": metrics["epoch"], "torch": torch.__version__},
            data={"location": self.config.dataset, "fingerprint": self.faces.fingerprint},
            scores={name: metrics[name] for name in ("val_loss", *VAL_SCORES)},
        )


def epochs_in(seconds: float, config: TrainConfig, faces: Faces, device: torch.device) -> int:
    """Return how many epochs of a training end in time, by training some."""
    start = time.monotonic()
    trial = dataclasses.replace(config, num_epochs=10_000)
    epochs = Training.begin(trial, faces, device).epochs()
    next(epochs)
    measured, number = time.monotonic(), 0
    while time.monotonic() - measured < WARM_UP_SECONDS:
        next(epochs)
        number += 1
    per_epoch = (time.monotonic() - measured) / number
    return max(1, int(MARGIN * (seconds - (time.monotonic() - start)) / per_epoch))


def train_one(file: Path, folder: Path, stage: str, name: str, deadline: float) -> None:
    """Train one network of a stage until a time, and keep the checkpoint of its best epoch."""
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    flags = {**RECIPE, **STAGES[stage][name]}
    for start in flags.keys() & {"teacher", "from_checkpoint"}:
        flags[start] = str(folder / flags[start])
    config = TrainConfig(dataset=str(file), output=str(folder / name), **flags)
    is_color = stage == "pretrained" and config.model == FINE_TUNED["model"]
    faces = reshaped(unpack(file), COLOR_SHAPE if is_color else FER2013_SHAPE)
    if "num_epochs" not in flags:
        number = epochs_in(deadline - time.time(), config, faces, device)
        config = dataclasses.replace(config, num_epochs=number)
    training, best = Training.begin(config, faces, device), 0.0
    for metrics in training.epochs():
        score = metrics["val_accuracy_without_copies"]
        if score > best and 2 * metrics["epoch"] > config.num_epochs:
            best = score
            write(
                folder / name,
                {**training.checkpoint(), METRICS: to_json_lines(training.run.history)},
            )
        print(_line(metrics, config), flush=True)
    write(folder / name, {METRICS: to_json_lines(training.run.history)})


def _line(metrics: Mapping[str, Any], config: TrainConfig) -> str:
    scores = [f"{name} {metrics[name]:.4f}" for name in VAL_SCORES]
    speed = f"{metrics['images_per_second']:.0f} images/s"
    return f"{metrics['epoch']}/{config.num_epochs} {', '.join(scores)}, {speed}"


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder."""
    for name, content in files.items():
        storage.write_bytes(str(folder / name), content)


def train_stage(
    file: Path, folder: Path, stage: str, names: Collection[str], seconds: float
) -> None:
    """Train networks of a stage side by side."""
    deadline, running = time.time() + seconds, {}
    for name in names:
        command = [sys.executable, __file__, "one", file, folder, stage, name, deadline]
        with (folder / f"{name}.log").open("w") as log:
            running[name] = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)
    for name, process in running.items():
        status = process.wait()
        lines = (folder / f"{name}.log").read_text().splitlines()
        print(f"{stage} {name}: exit status {status}; {lines[-1] if lines else ''}", flush=True)


def write_ensemble(folder: Path) -> None:
    """Make an ensemble of the teachers that have been trained, all with the same weight."""
    members = [str(folder / name) for name in STAGES["teachers"]]
    trained = [member for member in members if storage.exists(f"{member}/config.json")]
    for name, content in ensemble_files(trained, [1.0] * len(trained)):
        storage.write_bytes(str(folder / "ensemble" / name), content)


def parse() -> argparse.Namespace:
    """Return the command and its arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="write a dataset into one small file")
    packing.add_argument("dataset")
    packing.add_argument("file", type=Path)
    training = commands.add_parser("train", help="train the networks of all stages")
    training.add_argument("file", type=Path)
    training.add_argument("folder", type=Path)
    for stage, seconds in SECONDS.items():
        help_ = f"seconds that the stage takes, {seconds} by default; 0 leaves it out"
        training.add_argument(f"--{stage}", type=float, default=seconds, help=help_)
    names = [name for stage in STAGES.values() for name in stage]
    help_ = f"networks to train, by default all of {', '.join(names)}"
    training.add_argument(
        "--networks", nargs="+", default=names, choices=names, metavar="NAME", help=help_
    )
    one = commands.add_parser("one", help="train one network of a stage")
    for argument, kind in (("file", Path), ("folder", Path), ("stage", str), ("name", str)):
        one.add_argument(argument, type=kind)
    one.add_argument("deadline", type=float)
    return parser.parse_args()


def train_stages(arguments: argparse.Namespace) -> None:
    """Train the networks that were asked for, stage by stage."""
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for stage, networks in STAGES.items():
        names = [name for name in networks if name in arguments.networks]
        if seconds := getattr(arguments, stage):
            train_stage(arguments.file, arguments.folder, stage, names, seconds)
        if stage == "teachers":
            write_ensemble(arguments.folder)


def main() -> None:
    """Do what the command says."""
    arguments = parse()
    if arguments.command == "pack":
        pack(arguments.dataset, arguments.file)
    elif arguments.command == "train":
        train_stages(arguments)
    else:
        paths = (arguments.file, arguments.folder)
        train_one(*paths, arguments.stage, arguments.name, arguments.deadline)


if __name__ == "__main__":
    main()
