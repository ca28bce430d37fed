"""A rival of serve: the bundled network behind plain FastAPI.

    python benchmarks/rival_fastapi.py {fastapi,own} --port 8000

``fastapi`` is what people commonly write: a queue that forms batches, without limits, token or
detector. ``own`` runs serve's own application with the same queue, to separate the cost of the
application from the cost of Ray.
"""

import argparse
import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
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


def to_response(predictor: Predictor, probs: np.ndarray) -> dict[str, Any]:
    by_class = dict(zip(predictor.class_names, probs.tolist(), strict=True))
    return {"emotion": max(by_class, key=by_class.__getitem__), "probabilities": by_class}


class Batches:
    """A queue of crops, and a task that classifies them in batches."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self.network = predictor, ThreadPoolExecutor(1)
        self.queue: asyncio.Queue[tuple[np.ndarray, asyncio.Future[np.ndarray]]] = asyncio.Queue()

    async def probs(self, crop: np.ndarray) -> np.ndarray:
        """Return the probabilities float32 (C,) of a crop when its batch is classified."""
        result: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self.queue.put_nowait((crop, result))
        return await result

    async def work(self) -> None:
        """Classify batches forever."""
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._next_batch()
            crops = np.stack([crop for crop, _ in batch])
            probs = await loop.run_in_executor(self.network, self.predictor.predict_probs, crops)
            for (_, result), row in zip(batch, probs, strict=True):
                if not result.done():
                    result.set_result(row)

    @contextlib.asynccontextmanager
    async def running(self, _app: FastAPI) -> AsyncIterator[None]:
        """Run the task for the lifetime of an application."""
        task = asyncio.create_task(self.work())
        yield
        task.cancel()

    async def _next_batch(self) -> list[tuple[np.ndarray, asyncio.Future[np.ndarray]]]:
        batch = [await self.queue.get()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BATCH_WAIT_SECONDS):
                while len(batch) < MAX_BATCH_SIZE:
                    batch.append(await self.queue.get())
        return batch


def serve_fastapi(port: int) -> None:
    """Run FastAPI in one process, with one thread of the network for each CPU."""
    batches = Batches(Predictor.load())
    batches.predictor.predict_probs(np.zeros((1, 48, 48), np.uint8))

    app = FastAPI(lifespan=batches.running)

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        crop = to_crop(await request.body())
        return to_response(batches.predictor, await batches.probs(crop))

    uvicorn.run(app, port=port, log_level="error")


def serve_own(port: int) -> None:
    """Run serve's own application in one process without Ray, with this file's queue."""
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
