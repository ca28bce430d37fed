"""What the flags of a training say about its recipe, its network and its memory."""

import dataclasses
from typing import Any, TypeVar

import torch

from fer.data.dataset import Dataset
from fer.models.layers import Layers
from fer.models.precision import has_fast_bfloat16
from fer.models.transforms import AugmentationSettings
from fer.training.batches import example_bytes
from fer.training.recipe import Recipe
from ray_jobs.config import TrainConfig

Settings = TypeVar("Settings", Recipe, AugmentationSettings, Layers)

MAX_FAILURES = 3
"""How often lost workers or trials are replaced before the job gives up."""


def build_recipe(config: TrainConfig, device: torch.device) -> Recipe:
    """Return the part of a configuration that fixes a training run, on a device."""
    bfloat16 = {"auto": has_fast_bfloat16(device), "bfloat16": True, "float32": False}
    augmentation = _from_flags(AugmentationSettings, config) if config.augment else None
    return _from_flags(
        Recipe,
        config,
        augmentation=augmentation,
        bfloat16=bfloat16[config.precision],
        preprocessing=config.pixel_preprocessing,
        num_frozen_epochs=config.freeze,
    )


def build_architecture(config: TrainConfig, data: Dataset) -> dict[str, Any]:
    """Return the part of a configuration that fixes a network, for the classes of a dataset.

    Returns:
        ``name`` and ``arguments`` of ``fer.models.architectures.build_model``.
    """
    layers = dataclasses.asdict(_from_flags(Layers, config))
    return {"name": config.model, "arguments": {"num_classes": len(data.class_names), **layers}}


def _from_flags(
    kind: type[Settings],
    config: TrainConfig,
    **derived: Any,  # noqa: ANN401
) -> Settings:
    """Build a dataclass from the flags of the same names, and from values that are no flags."""
    names = {field.name for field in dataclasses.fields(kind)} - derived.keys()
    return kind(**{name: getattr(config, name) for name in names}, **derived)


def is_streamed(config: TrainConfig, data: Dataset) -> bool:
    """Tell whether a dataset exceeds ``--memory-limit``, so that workers stream it."""
    num_examples = sum(sum(data.counts(split).values()) for split in ("train", "val"))
    size = num_examples * example_bytes(len(data.class_names), data.shape)
    return size > config.memory_limit * 2**30
