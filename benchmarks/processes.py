"""Plain processes, one for each CPU, that only decode, detect and classify."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import ray

from fer.models.engine import EngineName
from fer.models.predictor import Predictor
from fer.vision.decode import ImageError, decode_image, decode_photo
from fer.vision.detector import FaceDetector

STAGES = ("decode", "detect", "classify")


@dataclass
class Bare:
    """The network and detector of a plain process."""

    predictor: Predictor
    detector: FaceDetector | None

    def classify(self, crops: np.ndarray) -> float:
        """Classify faces uint8 (N, 48, 48), and return the seconds that it takes."""
        start = time.perf_counter()
        self.predictor.predict_probs(crops)
        return time.perf_counter() - start

    def label(self, files: Sequence[Path]) -> np.ndarray:
        """Label images, and return the seconds of each of the ``STAGES``, (3,)."""
        seconds, crops = np.zeros(3), []
        decode = decode_photo if self.detector else decode_image
        for file in files:
            start = time.perf_counter()
            try:
                image = decode(file.read_bytes())
            except ImageError:
                continue
            decoded = time.perf_counter()
            if self.detector:
                crops += [face.crop for face in self.detector.detect(image)]
            else:
                crops.append(image.pixels)
            seconds[:2] += decoded - start, time.perf_counter() - decoded
        seconds[2] = self.classify(np.stack(crops))
        return seconds


Images = np.ndarray | list[Path]
Work = Callable[[Bare, Any], float | np.ndarray]


class Processes:
    """Plain processes, one for each CPU, that start each piece of work at the same time."""

    def __init__(self, checkpoint: str, engine: EngineName, weights: bytes | None = None) -> None:
        self.number = num_cpus()
        context = multiprocessing.get_context("spawn")
        arguments = (context.Barrier(self.number), checkpoint, engine, weights)
        self._pool = ProcessPoolExecutor(self.number, context, _prepare, arguments)
        # The first batch warms up the network and compiles it.
        self.run(Bare.classify, np.zeros((self.number * 128, 48, 48), np.uint8))

    def run(self, work: Work, images: Images) -> list[Any]:
        """Share out images, every n-th to a process, and return the result of each process."""
        shares = [images[first :: self.number] for first in range(self.number)]
        return list(self._pool.map(_do, [work] * self.number, shares))


_process: dict[str, Any] = {}
"""State of a plain process."""


def _prepare(barrier: Barrier, checkpoint: str, engine: EngineName, weights: bytes | None) -> None:
    predictor = Predictor.load(checkpoint, "cpu", engine, num_threads=1)
    detector = FaceDetector(weights) if weights else None
    _process.update(barrier=barrier, bare=Bare(predictor, detector))


def _do(work: Work, share: Images) -> float | np.ndarray:
    _process["barrier"].wait()
    return work(_process["bare"], share)


def num_cpus() -> int:
    """Return the number of CPUs of the cluster, which limits the processes of label's stages."""
    return int(ray.cluster_resources()["CPU"])
