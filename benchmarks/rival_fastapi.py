"""The bundled network behind FastAPI alone: what serve is measured against.

    python benchmarks/rival_fastapi.py {fastapi,own} --port 8000

``fastapi`` is as people write it: a queue that fills batches, and no limits, token or detector.
``own`` is serve's own application in its place, to tell what that costs from what Ray costs.
"""

import argparse
import asyncio
import contextlib
import io
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image

from fer.models.predictor import Predictor
from fer.serving.app import build_api
from fer.serving.inference import InferenceService
from fer.serving.uploads import Limits

MAX_BATCH_SIZE, BATCH_WAIT_SECONDS = 32, 0.002


def to_crop(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("L").resize((48, 48)))


def to_answer(predictor: Predictor, probs: np.ndarray) -> dict[str, Any]:
    named = dict(zip(predictor.class_names, probs.tolist(), strict=True))
    return {"emotion": max(named, key=named.__getitem__), "probabilities": named}


class Batches:
    """A queue, and a task that empties it a batch at a time."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self.network = predictor, ThreadPoolExecutor(1)
        self.queue: asyncio.Queue[tuple[np.ndarray, asyncio.Future[np.ndarray]]] = asyncio.Queue()

    async def probs(self, crop: np.ndarray) -> np.ndarray:
        """Return probabilities float32 (C,) of a crop, when its batch is done."""
        answer: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self.queue.put_nowait((crop, answer))
        return await answer

    async def work(self) -> None:
        """Classify batches for ever."""
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._take()
            crops = np.stack([crop for crop, _ in batch])
            probs = await loop.run_in_executor(self.network, self.predictor.predict_probs, crops)
            for (_, answer), row in zip(batch, probs, strict=True):
                if not answer.done():
                    answer.set_result(row)

    @contextlib.asynccontextmanager
    async def running(self, _app: FastAPI) -> AsyncIterator[None]:
        """Work beside an application."""
        working = asyncio.create_task(self.work())
        yield
        working.cancel()

    async def _take(self) -> list[tuple[np.ndarray, asyncio.Future[np.ndarray]]]:
        batch = [await self.queue.get()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BATCH_WAIT_SECONDS):
                while len(batch) < MAX_BATCH_SIZE:
                    batch.append(await self.queue.get())
        return batch


def serve_fastapi(port: int) -> None:
    """FastAPI in one process, its network on as many threads as there are CPUs."""
    torch.set_num_threads(os.cpu_count() or 1)
    batches = Batches(Predictor.load())
    batches.predictor.predict_probs(np.zeros((1, 48, 48), np.uint8))

    app = FastAPI(lifespan=batches.running)

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        crop = to_crop(await request.body())
        return to_answer(batches.predictor, await batches.probs(crop))

    uvicorn.run(app, port=port, log_level="error")


def serve_own(port: int) -> None:
    """Serve's own application in one process without Ray, with this file's queue."""
    torch.set_num_threads(os.cpu_count() or 1)
    batches = Batches(Predictor.load())

    async def classify(crops: np.ndarray) -> np.ndarray:
        return np.stack(await asyncio.gather(*map(batches.probs, crops)))

    app = build_api(InferenceService(batches.predictor, None, classify=classify), Limits())
    app.router.lifespan_context = batches.running
    uvicorn.run(app, port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rival", choices=["fastapi", "own"])
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    {"fastapi": serve_fastapi, "own": serve_own}[arguments.rival](arguments.port)
