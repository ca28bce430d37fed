"""What a checkpoint costs to run: parameters, multiply-adds, and measured speed."""

import time
from dataclasses import dataclass

import numpy as np

from fer.models.architectures import count_multiply_adds, count_parameters
from fer.models.checkpoint import Checkpoint
from fer.models.networks import build_network
from fer.models.onnx_engine import CPU_BATCH_SIZE
from fer.models.predictor import Predictor

NUM_BATCHES = 4
"""Batches of which the fastest counts; other processes slow down the others."""


@dataclass(frozen=True)
class Cost:
    """What a network, or all members of an ensemble together, cost to run.

    Attributes:
        parameters: Number of trainable parameters.
        multiply_adds: Multiply-adds of convolutions and linear layers for one image.
        images_per_second: Speed of one thread on the machine that measured it, in float32 and
            batches of 32.
    """

    parameters: int
    multiply_adds: int
    images_per_second: float


def measure_cost(checkpoint: Checkpoint) -> Cost:
    """Count a checkpoint's parameters and multiply-adds, and measure its speed for a second."""
    networks = [build_network(member) for member in checkpoint.members]
    return Cost(
        parameters=sum(map(count_parameters, networks)),
        multiply_adds=sum(map(count_multiply_adds, networks)),
        images_per_second=_measure_speed(Predictor(checkpoint, engine="float32", num_threads=1)),
    )


def _measure_speed(predictor: Predictor) -> float:
    images = np.zeros((CPU_BATCH_SIZE, *predictor.shape.array), np.uint8)
    predictor.predict_probs(images)
    return len(images) / min(_seconds(predictor, images) for _ in range(NUM_BATCHES))


def _seconds(predictor: Predictor, images: np.ndarray) -> float:
    start = time.perf_counter()
    predictor.predict_probs(images)
    return time.perf_counter() - start
