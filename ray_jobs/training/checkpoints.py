"""What a training run writes: after each epoch what it resumes from, at its end a checkpoint."""

from collections.abc import Iterator

import torch

from fer.data.dataset import Dataset
from fer.metrics import VAL_SCORES
from fer.models.checkpoint import CONFIG, GRAPH, INT8_GRAPH, WEIGHTS, load_checkpoint
from fer.models.engine import with_graphs
from fer.models.networks import pack_checkpoint
from fer.models.quantization import calibrate_int8
from fer.training.run import Run
from ray_jobs.config import TrainConfig
from ray_jobs.pipeline import outputs
from ray_jobs.training.settings import build_architecture


def checkpoint_files(run: Run, config: TrainConfig, data: Dataset) -> dict[str, bytes]:
    """Return the checkpoint of a run's newest epoch, and what the run needs to be restored.

    Args:
        run: At least one epoch long.
        config: The flags that it was started with, which the checkpoint names.
        data: The dataset that it was trained on.

    Returns:
        Content of each file, by name.
    """
    metrics = run.history[-1]
    checkpoint = pack_checkpoint(
        run.eval_model,
        build_architecture(config, data),
        class_names=data.class_names,
        preprocessing=config.pixel_preprocessing,
        temperature=metrics["temperature"],
        training={
            **outputs.flags_of(config),
            "epoch": metrics["epoch"],
            "torch": torch.__version__,
        },
        data={"location": data.location, "fingerprint": data.summary["fingerprint"]},
        scores={name: metrics[name] for name in ("val_loss", *VAL_SCORES)},
    )
    return {**checkpoint, **run.pack()}


def finished_files(folder: str, data: Dataset | None) -> Iterator[tuple[str, bytes]]:
    """Yield the files by name of a checkpoint to keep, its ``config.json`` last.

    They include its graph and, if there is a dataset to calibrate it on, its int8 form.

    Args:
        folder: Folder or URI of an epoch's checkpoint.
        data: The dataset that the network was trained on, or None.

    Raises:
        JobError: The graph does not answer as the network does.
    """
    (member,) = with_graphs(load_checkpoint(folder)).members
    assert member.graph is not None
    yield WEIGHTS, member.weights
    yield GRAPH, member.graph
    if data:
        yield INT8_GRAPH, calibrate_int8(member, data)
    yield CONFIG, member.config.to_json().encode()
