"""The process that answers requests, and what it records of them."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI
from ray import serve

from fer.models.checkpoint import load_checkpoint
from fer.models.engine import add_graphs
from fer.models.predictor import Predictor
from fer.serving.app import build_api
from fer.serving.inference import DEFAULT_VIDEOS, InferenceService
from fer.serving.schemas import DetectorName, PredictResponse
from fer.serving.uploads import Limits, Upload
from fer.serving.videos import VideoOptions
from ray_jobs.cluster import metrics
from ray_jobs.config import ServeConfig


class Replica:
    """A process that answers requests, and classifies faces of several requests in one batch."""

    def __init__(
        self,
        config: dict[str, Any],
        weights: bytes | None,
        token: str | None,
        graphs: Mapping[str, bytes],
    ) -> None:
        """Load the network and the detector.

        Args:
            config: Fields of ``ServeConfig``.
            weights: YuNet's ONNX file, or None to serve crops only.
            token: Token that requests must carry, or None.
            graphs: Graphs that the checkpoint lacks, by the ids of their networks.
        """
        self._config, self._token = ServeConfig(**config), token
        predictor = Predictor(
            add_graphs(load_checkpoint(self._config.checkpoint), graphs),
            "cuda" if self._config.gpus_per_replica else "cpu",
            self._config.engine,
            num_threads=max(1, math.ceil(self._config.cpus_per_replica)),
        )
        self._batched = serve.batch(
            max_batch_size=self._config.max_batch_size,
            batch_wait_timeout_s=self._config.batch_wait_ms / 1000,
            batch_size_fn=_num_crops,
        )(self._classify_together)
        self._network_is_free = asyncio.Event()
        self._network_is_free.set()
        self._num_waiting = 0
        self.service = MeasuredService(
            predictor,
            weights,
            classify=self._classify,
            min_face_size=self._config.min_face_size,
            any_orientation=self._config.any_orientation,
            min_confidence=self._config.min_confidence,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the API; Serve calls this once when it starts a replica."""
        limits = Limits(
            max_body_bytes=int(self._config.max_body_mib * 2**20),
            max_images=self._config.max_images,
            max_frames=self._config.max_frames,
            timeout_seconds=self._config.timeout_seconds,
        )
        return build_api(self.service, limits, self._token)

    async def check_health(self) -> None:
        """Run the network once; Serve calls this regularly and replaces a replica that raises."""
        await self.service.check_health()

    async def _classify(self, crops: np.ndarray) -> np.ndarray:
        """Classify one request's faces, uint8 (N, *shape), together with those of other requests.

        Faces join a batch only once the network is free. Serve closes a batch ``batch_wait_ms``
        after its first face, even while the network is busy, and it would then wait half empty.
        """
        self._count_waiting(len(crops))
        try:
            await self._network_is_free.wait()
        finally:
            # Also if the request was given up meanwhile.
            self._count_waiting(-len(crops))
        size = self._config.max_batch_size
        slices = [crops[start : start + size] for start in range(0, len(crops), size)]
        return np.concatenate(await asyncio.gather(*map(self._batched, slices)))

    async def _classify_together(self, crops: list[np.ndarray]) -> list[np.ndarray]:
        self._network_is_free.clear()
        start = time.perf_counter()
        try:
            probs = await self.service.classify(np.concatenate(crops))
        finally:
            self._network_is_free.set()
        self.service.record_batch(probs, time.perf_counter() - start)
        return np.split(probs, np.cumsum(list(map(len, crops)))[:-1])

    def _count_waiting(self, num_faces: int) -> None:
        """Note that faces wait for the network, or no longer do."""
        self._num_waiting += num_faces
        metrics.SERVE_WAITING.set(self._num_waiting)


class MeasuredService(InferenceService):
    """An ``InferenceService`` that adds its answers and batches to the server's metrics."""

    async def predict_images(
        self,
        uploads: Sequence[Upload],
        detector: DetectorName,
        videos: VideoOptions = DEFAULT_VIDEOS,
    ) -> PredictResponse:
        """Do what the ``InferenceService`` does, and record it."""
        start = time.perf_counter()
        response = await super().predict_images(uploads, detector, videos)
        metrics.SERVE_REQUESTS.observe(time.perf_counter() - start)
        for status, number in Counter(result.status for result in response.results).items():
            metrics.SERVE_IMAGES.add(number, status=status)
        return response

    def record_batch(self, probs: np.ndarray, seconds: float) -> None:
        """Record the probabilities, float32 (N, C), of faces that were classified together."""
        metrics.SERVE_FACES.add(len(probs))
        metrics.SERVE_BATCHES.observe(len(probs))
        metrics.SERVE_SECONDS.add(seconds)
        names = self.predictor.class_names
        faces = [
            (names[int(row.argmax())], float(row.max()))
            for row in probs[:: metrics.stride(len(probs))]
        ]
        metrics.observe_confidences(metrics.SERVE_CONFIDENCE, faces)


def _num_crops(crops: list[np.ndarray]) -> int:
    return sum(map(len, crops))
