"""A checkpoint behind HTTP, by replicas that scale with the load.

1. Check: the token, the port, the checkpoint, the detector.
2. Bind: what a replica needs to start anywhere on the cluster.
3. Serve: until it is stopped.

``fer serve`` does all three; ``serve run`` and ``serve deploy`` take ``ray_jobs.serve:app``.
"""

import asyncio
import ipaddress
import logging
import math
import os
import re
import signal
import socket
import sys
import threading
from dataclasses import asdict
from typing import Any

import numpy as np
import pydantic
import ray
import torch
from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig, RequestRouterConfig

from fer.errors import InputError, JobError
from fer.models.checkpoint import load_checkpoint
from fer.models.predictor import Predictor
from fer.serving.app import build_api
from fer.serving.inference import Answerer
from fer.serving.middleware import TOKEN_VARIABLE
from fer.serving.uploads import Limits
from fer.vision.detector import FaceDetector, load_detector_weights
from ray_jobs.cluster import session
from ray_jobs.config import ServeConfig
from ray_jobs.pipeline import locations

APPLICATION = "fer"

BATCHES_IN_HAND, BATCHES_IN_QUEUE = 2, 4
"""Requests of a replica, and those that wait before the next is refused, in full batches of one
face a request: while the network runs one batch the next is decoded."""

TARGET_SHARE = 0.25
"""Of the requests that a replica may have in hand: with more of them replicas are added."""

RETRY_AFTER_SECONDS = 1

_SENDABLE = re.compile(r"[!-~]+")

GRACE_SECONDS = 5.0
"""What the proxy waits longer than the replica, which answers in words."""


def run(config: ServeConfig) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        InputError: The token, the port, the checkpoint, the detector or the cluster is not as it
            must be, or Serve already runs there.
        JobError: No replica can start.
    """
    config = locations.resolve(config)
    token = token_of(config, is_reachable=not _is_loopback(config.host))
    weights = loadable(config)
    _check_port(config)
    session.connect()
    needed = {"CPU": config.cpus_per_replica, "GPU": config.gpus_per_replica}
    replica = {name: number for name, number in needed.items() if number}
    session.require_resources([replica] * config.min_replicas, f"{config.min_replicas} replica(s)")
    if serve.status().proxies:
        raise InputError(
            "Ray Serve already runs on this cluster, at an address of its own: add the application "
            "to it with serve deploy serve.yaml, or end it with serve shutdown."
        )
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # Now, since Ray takes SIGTERM when it starts. In a shell's background SIGINT would be ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    serve.start(
        http_options={
            "host": config.host,
            "port": config.port,
            "request_timeout_s": config.timeout_seconds + GRACE_SECONDS,
        }
    )
    try:
        _deploy(bind(config, weights, token))
        host = f"[{config.host}]" if ":" in config.host else config.host
        print(f"Serving at http://{host}:{config.port}/", file=sys.stderr, flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        # As one asks it to, also before it is ready.
        pass
    finally:
        serve.delete(APPLICATION)
        # On a cluster others may have added theirs.
        if not serve.status().applications:
            serve.shutdown()


def _deploy(application: Application) -> None:
    try:
        serve.run(application, name=APPLICATION, logging_config={"enable_access_log": False})
    except RuntimeError as error:
        told = str(error).strip().splitlines()[-1].strip()
        raise JobError(f"No replica could start: {told}") from error


def app(arguments: dict[str, Any]) -> Application:
    """Return what ``serve run`` and ``serve deploy`` run.

    Args:
        arguments: The flags of ``fer serve`` by name, with underscores; host and port are Serve's.

    Raises:
        InputError: An argument is not as it must be, or there is no token.
    """
    if unknown := set(arguments) - (set(ServeConfig.__dataclass_fields__) - {"host", "port"}):
        raise InputError(
            f"args of ray_jobs.serve:app: {min(unknown)} is none of them; they are the flags of "
            "fer serve, with underscores, but for host and port, which are http_options."
        )
    try:
        given = pydantic.TypeAdapter(ServeConfig).validate_python(arguments)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"args of ray_jobs.serve:app: {where}: {first['msg']}.") from error
    token = token_of(given, is_reachable=True)
    return bind(given, loadable(given), token)


def token_of(config: ServeConfig, *, is_reachable: bool) -> str | None:
    """Return the token that requests must bring, from the environment.

    Raises:
        InputError: Others reach the server, there is none, and nobody said that it is not needed.
    """
    # A secret that was made from a file ends in a newline, which no request can send.
    token = os.environ.get(TOKEN_VARIABLE, "").strip() or None
    if token is not None and not _SENDABLE.fullmatch(token):
        raise InputError(
            f"{TOKEN_VARIABLE} must be of visible ASCII characters without spaces, or no request "
            "can send it: openssl rand -hex 32 makes one."
        )
    if token is None and is_reachable and not config.allow_anonymous:
        raise InputError(
            f"Others than this machine may reach the server, and {TOKEN_VARIABLE} holds no token: "
            "set it to a long random text, or say --allow-anonymous (allow_anonymous: true)."
        )
    return token


def loadable(config: ServeConfig) -> bytes | None:
    """Return the detector's weights, once they and the checkpoint are seen to load.

    Raises:
        InputError: One of them does not.
    """
    load_checkpoint(config.checkpoint)
    weights = load_detector_weights(config.detector_weights) if config.detector == "yunet" else None
    if weights is not None:
        FaceDetector(weights)
    return weights


def bind(config: ServeConfig, weights: bytes | None, token: str | None) -> Application:
    """Return replicas of a configuration, of a detector's weights and of the token to ask for."""
    in_hand = BATCHES_IN_HAND * config.max_batch_size
    replicas = serve.deployment(
        name=APPLICATION,
        ray_actor_options={
            "num_cpus": config.cpus_per_replica,
            "num_gpus": config.gpus_per_replica,
            "runtime_env": _runtime_env(),
        },
        autoscaling_config={
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": max(1.0, TARGET_SHARE * in_hand),
            "upscale_delay_s": 5,
            "downscale_delay_s": 60,
        },
        max_ongoing_requests=in_hand,
        max_queued_requests=BATCHES_IN_QUEUE * config.max_batch_size,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=RETRY_AFTER_SECONDS),
        # Where all replicas are full Serve's router has two requests a replica try again, half a
        # second apart by default: replicas would starve before a full queue.
        request_router_config=RequestRouterConfig(initial_backoff_s=0.01, max_backoff_s=0.02),
        # The new ones are up before the old ones go: an update fails no request.
        max_surge_percent=100,
        graceful_shutdown_timeout_s=config.timeout_seconds + GRACE_SECONDS,
        health_check_period_s=5,
    )(serve.ingress()(Replica))
    return replicas.bind(asdict(config), weights, token)


def _runtime_env() -> dict[str, Any]:
    """Return this job's runtime environment and what is set besides: Serve passes on either one."""
    ours = dict(ray.get_runtime_context().runtime_env) if ray.is_initialized() else {}
    variables = {**ours.get("env_vars", {}), **session.INFERENCE_MEMORY["env_vars"]}
    return {**ours, "env_vars": variables}


class Replica:
    """A process that answers requests, those of several at once where they come together."""

    def __init__(self, config: dict[str, Any], weights: bytes | None, token: str | None) -> None:
        self._config, self._token = ServeConfig(**config), token
        torch.set_num_threads(max(1, math.ceil(self._config.cpus_per_replica)))
        device = "cuda" if self._config.gpus_per_replica else "cpu"
        predictor = Predictor.load(self._config.checkpoint, device, self._config.engine)
        self._batched = serve.batch(
            max_batch_size=self._config.max_batch_size,
            batch_wait_timeout_s=self._config.batch_wait_ms / 1000,
            batch_size_fn=_num_crops,
        )(self._classify_together)
        self._network_is_free = asyncio.Event()
        self._network_is_free.set()
        self.answerer = Answerer(
            predictor,
            weights,
            classify=self._classify,
            min_face_size=self._config.min_face_size,
            min_confidence=self._config.min_confidence,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the API, as Serve asks for it once a replica is made."""
        limits = Limits(
            max_body_bytes=int(self._config.max_body_mib * 2**20),
            max_images=self._config.max_images,
            timeout_seconds=self._config.timeout_seconds,
        )
        return build_api(self.answerer, limits, self._token)

    async def check_health(self) -> None:
        """Run the network once, as Serve asks for it now and then; raises where that fails."""
        await self.answerer.check()

    async def _classify(self, crops: np.ndarray) -> np.ndarray:
        """Classify one request's faces, uint8 (N, 48, 48), together with others'.

        Serve makes a batch of what came within ``batch_wait_ms``, also while the network works on
        another: one that waits for it would stay as small as it began.
        """
        await self._network_is_free.wait()
        size = self._config.max_batch_size
        parts = [crops[start : start + size] for start in range(0, len(crops), size)]
        return np.concatenate(await asyncio.gather(*map(self._batched, parts)))

    async def _classify_together(self, crops: list[np.ndarray]) -> list[np.ndarray]:
        self._network_is_free.clear()
        try:
            probs = await self.answerer.classify(np.concatenate(crops))
        finally:
            self._network_is_free.set()
        return np.split(probs, np.cumsum([len(part) for part in crops])[:-1])


def _num_crops(crops: list[np.ndarray]) -> int:
    return sum(map(len, crops))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_port(config: ServeConfig) -> None:
    """Refuse an address that can't be had: Serve would try again and again."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            raise InputError(
                f"{config.host}:{config.port} can't be listened at ({error.strerror}): choose "
                "another --port or --host."
            ) from error
