"""Speed of the train job compared with a bare training loop of the same step.

    python benchmarks/train.py                   # the deep network on drawn faces
    python benchmarks/train.py --model shallow
    python benchmarks/train.py --model efficientnet-lite0 --image-size 112 --color --faces 896

The bare loop is a dozen lines of PyTorch over images in memory, with the same network, precision,
augmentation, loss and optimizer, and nothing else. The job runs with one worker on all CPUs, and
with two workers that share them. They take turns on the same cores. The result is the ratio of the
medians.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import ray
import torch
from torch import nn
from turns import Measured, quietly, take_turns, working_folder

from fer.data.dataset import open_dataset
from fer.data.synthetic import Faces, draw_faces, to_csv
from fer.models.architectures import build_model
from fer.models.precision import has_fast_bfloat16
from fer.models.transforms import Augmentation, standardize
from fer.training.batches import InMemoryBatches
from fer.training.run import Run
from ray_jobs import ingest, train
from ray_jobs.config import IngestConfig, TrainConfig
from ray_jobs.training.checkpoints import checkpoint_files
from ray_jobs.training.settings import build_architecture, build_recipe

BATCH_SIZE = 128
CPU = torch.device("cpu")


def make_dataset(folder: Path, num_faces: int, **flags: Any) -> str:  # noqa: ANN401
    images, labels = draw_faces(num_faces, seed=0)
    splits = ["val" if row < BATCH_SIZE else "train" for row in range(num_faces)]
    (folder / "drawn.csv").write_bytes(to_csv(Faces(images, labels, splits)))
    data = str(folder / "data")
    ingest.run(IngestConfig(source=(str(folder / "drawn.csv"),), output=data, **flags))
    return data


def bare_loop(config: TrainConfig) -> float:
    """Return images per second over one epoch, after two warm-up steps."""
    data = open_dataset(config.dataset)
    examples = data.read_split("train")
    images, labels = torch.tensor(examples.images), torch.tensor(examples.labels)
    model = build_model(config.model, shape=data.shape).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), config.lr, momentum=0.9, nesterov=True, weight_decay=config.weight_decay
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(labels)).split(BATCH_SIZE)
    for step, rows in enumerate([*order[:2], *order]):
        if step == 2:
            start = time.perf_counter()
        batch = Augmentation.draw(len(rows), generator).apply(standardize(images[rows]))
        with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16(CPU)):
            logits = model(batch.contiguous(memory_format=torch.channels_last))
        loss = criterion(logits.float(), labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    return len(labels) / (time.perf_counter() - start)


def job(config: TrainConfig) -> float:
    """Run two epochs and return images per second in the second."""
    with quietly():
        train.run(config)
    lines = (Path(config.output) / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["images_per_second"]


def measure_speed(data: str, model: str, folder: Path, repeats: int) -> None:
    flags = {"dataset": data, "model": model, "num_epochs": 2, "batch_size": BATCH_SIZE}

    def loop() -> Measured:
        return {"bare loop": bare_loop(TrainConfig(output="unused", **flags))}

    def workers(name: str, number: str) -> Measured:
        config = TrainConfig(output=mkdtemp(dir=folder), num_workers=number, **flags)
        return {name: job(config)}

    sides = (loop, partial(workers, "1 worker", "1"), partial(workers, "2 workers", "2"))
    medians = take_turns(sides, repeats)
    for name, rate in medians.items():
        ratio = rate / medians["bare loop"]
        print(f"{model}, {name:9} {rate:6.0f} images/s; {ratio:.2f} of the bare loop")
    ratio = medians["2 workers"] / medians["1 worker"]
    print(f"2 workers on half the CPUs each: {ratio:.2f} of 1 worker")


def measure_overhead(data: str, model: str) -> None:
    """Print the share of an epoch that making batches takes, and a checkpoint's time and size."""
    config = TrainConfig(dataset=data, output="unused", model=model, num_epochs=1)
    opened = open_dataset(data)
    run = Run.create(build_recipe(config, CPU), build_architecture(config, opened), CPU)
    batches = InMemoryBatches.load(opened, run.recipe, CPU)
    start = time.perf_counter()
    num_batches = sum(1 for _ in batches.train_batches(epoch=0))
    batches_seconds = time.perf_counter() - start
    (metrics,) = run.epochs(run.trained, batches, advance=lambda _step, _details: None)
    epoch_seconds = num_batches * BATCH_SIZE / metrics["images_per_second"]
    print(f"{model}, making batches: {batches_seconds / epoch_seconds:.2%} of an epoch")
    start = time.perf_counter()
    files = checkpoint_files(run, config, opened)
    size = sum(map(len, files.values())) / 1e6
    print(f"{model}, a checkpoint: {time.perf_counter() - start:.2f} s to pack, {size:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deep")
    parser.add_argument("--image-size", type=int, default=48)
    parser.add_argument("--color", action="store_true")
    parser.add_argument("--faces", type=int, default=2944, help="128 of them are in val")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with working_folder() as folder:
        shape = {"image_size": arguments.image_size, "color": arguments.color}
        data = make_dataset(folder, arguments.faces, **shape)
        measure_speed(data, arguments.model, folder, arguments.repeats)
        ray.shutdown()
        measure_overhead(data, arguments.model)


if __name__ == "__main__":
    main()
