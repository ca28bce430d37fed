"""A rival of serve: the bundled network behind LitServe (pip install litserve).

    python benchmarks/rival_litserve.py --port 8000

It accepts images as base64 in JSON, because LitServe reads only JSON and forms.
"""

import argparse
import base64
import os
from typing import Any

import litserve
import numpy as np
from rival_fastapi import BATCH_WAIT_SECONDS, MAX_BATCH_SIZE, to_crop, to_response

from fer.models.predictor import Predictor


class Api(litserve.LitAPI):
    """LitServe's interface of a model. It is at module level because workers import it."""

    def setup(self, device: str) -> None:  # noqa: ARG002, D102 - LitServe's signature
        self.predictor = Predictor.load(device="cpu", num_threads=1)
        self.predictor.predict_probs(np.zeros((1, 48, 48), np.uint8))

    def decode_request(self, request: dict[str, str]) -> np.ndarray:  # noqa: D102
        return to_crop(base64.b64decode(request["data"]))

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:  # noqa: D102
        return np.stack(inputs)

    def predict(self, x: np.ndarray) -> np.ndarray:  # noqa: D102
        return self.predictor.predict_probs(x)

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:  # noqa: D102
        return list(output)

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:  # noqa: D102
        return to_response(self.predictor, output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8000)
    api = Api(max_batch_size=MAX_BATCH_SIZE, batch_timeout=BATCH_WAIT_SECONDS)
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=os.cpu_count(), healthcheck_path="/readyz"
    )
    server.run("127.0.0.1", parser.parse_args().port, log_level="error", generate_client_file=False)
