"""A recipe and a network that are small, and the batches of a recipe."""

import torch
from torch import nn

from fer.models.layers import Network
from fer.models.transforms import AugmentationSettings
from fer.training.batches import InMemoryBatches
from fer.training.recipe import Recipe
from fer.vision.shape import FER2013_SHAPE

CPU = torch.device("cpu")

RECIPE = Recipe(
    num_epochs=2,
    batch_size=16,
    lr=0.02,
    warmup_fraction=0.3,
    gradient_clip=5.0,
    weight_decay=5e-4,
    loss="cross_entropy",
    label_smoothing=0.1,
    votes_weight=0.0,
    votes_head_weight=0.0,
    teacher=None,
    teacher_weight=0.5,
    teacher_view="original",
    class_balance=0.0,
    ema_decay=0.0,
    preprocessing="standardize",
    num_frozen_epochs=0,
    trunk_lr_factor=1.0,
    augmentation=AugmentationSettings(),
    initial_size=None,
    seed=0,
    bfloat16=False,
)


def training_batches(examples, recipe, epoch, rank=0, world_size=1):
    return InMemoryBatches(recipe, examples, examples, rank, world_size).train_batches(epoch)


class SmallNetwork(Network):
    def __init__(self):
        super().__init__(FER2013_SHAPE)
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(48 * 48, 16), nn.ReLU())
        self.output = nn.Linear(16, 7)

    def forward(self, images):
        return self.output(self.hidden(images))


def small_network():
    torch.manual_seed(0)
    return SmallNetwork()
