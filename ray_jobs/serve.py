"""Serve: answer over HTTP, with replicas that scale with the load.

1. Check: the token, the port, the checkpoint, the detector.
2. Bind: describe a replica so that it can start on any node.
3. Serve until stopped.

``fer serve`` does all three; ``serve run`` and ``serve deploy`` take ``ray_jobs.serve:app``.
"""

import ipaddress
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pydantic
import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig, RequestRouterConfig

from fer import extras
from fer.errors import InputError, JobError, last_line
from fer.models.checkpoint import load_checkpoint
from fer.models.engine import add_graphs, make_graphs
from fer.models.predictor import Predictor
from fer.serving.middleware import TOKEN_VARIABLE
from fer.vision.detector import FaceDetector, load_detector_weights
from ray_jobs.cluster import internals, session
from ray_jobs.config import ServeConfig
from ray_jobs.pipeline import locations
from ray_jobs.serving.replica import Replica

APPLICATION = "fer"

BATCHES_IN_HAND, BATCHES_IN_QUEUE = 2, 4
"""Full batches of one-face requests that a replica handles at once, and that may wait before
further requests are refused. While the network runs one batch, the next is decoded."""

TARGET_SHARE = 0.25
"""Share of the requests that a replica can handle at once above which replicas are added."""

RETRY_AFTER_SECONDS = 1

_SENDABLE = re.compile(r"[!-~]+")

GRACE_SECONDS = 5.0
"""How much longer the proxy waits than the replica, so that the replica answers first."""


def run(config: ServeConfig) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        InputError: The token, the port, the checkpoint, the detector or the cluster is not as the
            job needs it, or Serve already runs there.
        JobError: No replica could start.
    """
    config = locations.resolve(config)
    token = read_token(config, is_reachable=not _is_loopback(config.host))
    graphs, weights = load_graphs(config), load_weights(config)
    _check_port(config)
    _connect(config)
    _serve(config, bind(config, weights, token, graphs))


def _connect(config: ServeConfig) -> None:
    """Join a cluster that has room for the replicas and does not run Serve yet."""
    session.connect()
    needed = {"CPU": config.cpus_per_replica, "GPU": config.gpus_per_replica}
    replica = {name: number for name, number in needed.items() if number}
    session.require_resources([replica] * config.min_replicas, f"{config.min_replicas} replica(s)")
    if serve.status().proxies:
        raise InputError(
            "Ray Serve already runs on this cluster at another address; add the application to it "
            "with serve deploy serve.yaml, or stop it with serve shutdown."
        )


def _serve(config: ServeConfig, application: Application) -> None:
    """Run an application until SIGINT or SIGTERM, then remove it."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # After Ray has started, which handles SIGTERM itself. A shell's background job ignores SIGINT.
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
        _deploy(application)
        host = f"[{config.host}]" if ":" in config.host else config.host
        print(f"Serving at http://{host}:{config.port}/", file=sys.stderr, flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        # The normal way to stop, even before the server is ready.
        pass
    finally:
        serve.delete(APPLICATION)
        # Others may have added their applications on a shared cluster.
        if not serve.status().applications:
            internals.silence_pushed_errors()
            serve.shutdown()


def _deploy(application: Application) -> None:
    try:
        serve.run(application, name=APPLICATION, logging_config={"enable_access_log": False})
    except RuntimeError as error:
        raise JobError(f"No replica could start: {last_line(error)}.") from error


def app(arguments: dict[str, Any]) -> Application:
    """Build the application that ``serve run`` and ``serve deploy`` run.

    Args:
        arguments: The flags of ``fer serve`` by name, with underscores. Host and port belong to
            Serve's own options.

    Raises:
        InputError: An argument is unknown or out of range, or there is no token.
    """
    if unknown := set(arguments) - (set(ServeConfig.__dataclass_fields__) - {"host", "port"}):
        raise InputError(
            f"args of ray_jobs.serve:app: {min(unknown)} is unknown; give the flags of fer serve "
            "with underscores, and host and port as http_options."
        )
    try:
        config = pydantic.TypeAdapter(ServeConfig).validate_python(arguments)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"args of ray_jobs.serve:app: {where}: {first['msg']}.") from error
    token = read_token(config, is_reachable=True)
    graphs, weights = load_graphs(config), load_weights(config)
    return bind(config, weights, token, graphs)


def read_token(config: ServeConfig, *, is_reachable: bool) -> str | None:
    """Return the token that requests must carry, from the environment.

    Raises:
        InputError: Other machines can reach the server, there is no token, and
            ``--allow-anonymous`` was not given; or no request could carry the token.
    """
    # A secret read from a file may end in a newline, which no request can send.
    token = os.environ.get(TOKEN_VARIABLE, "").strip() or None
    if token is not None and not _SENDABLE.fullmatch(token):
        raise InputError(
            f"{TOKEN_VARIABLE} must consist of visible ASCII characters without spaces, so that "
            "requests can send it; make one with openssl rand -hex 32."
        )
    if token is None and is_reachable and not config.allow_anonymous:
        raise InputError(
            f"Other machines can reach the server, but {TOKEN_VARIABLE} is not set; set it to a "
            "long random text, or give --allow-anonymous (allow_anonymous: true)."
        )
    return token


def load_graphs(config: ServeConfig) -> dict[str, bytes]:
    """Return the graphs that the checkpoint lacks, after checking that it can be run.

    They are made here once, not by each replica, which then needs no torch.

    Raises:
        InputError: The checkpoint can't be run, or torch is missing for a GPU or for a graph.
        JobError: A graph does not answer as its network does.
    """
    checkpoint = load_checkpoint(config.checkpoint)
    if config.gpus_per_replica:
        extras.require_torch("--gpus-per-replica")
        return {}
    graphs = make_graphs(checkpoint)
    # A graph that does not open is refused here, not by each replica.
    Predictor(add_graphs(checkpoint, graphs), engine=config.engine, num_threads=1)
    return graphs


def load_weights(config: ServeConfig) -> bytes | None:
    """Return the detector's weights, after checking that they load.

    Raises:
        InputError: They do not load.
    """
    weights = load_detector_weights(config.detector_weights) if config.detector == "yunet" else None
    if weights is not None:
        FaceDetector(weights)
    return weights


def bind(
    config: ServeConfig, weights: bytes | None, token: str | None, graphs: Mapping[str, bytes]
) -> Application:
    """Return the application: replicas with what ``Replica`` takes."""
    max_ongoing = BATCHES_IN_HAND * config.max_batch_size
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
            "target_ongoing_requests": max(1.0, TARGET_SHARE * max_ongoing),
            "upscale_delay_s": 5,
            "downscale_delay_s": 60,
        },
        max_ongoing_requests=max_ongoing,
        max_queued_requests=BATCHES_IN_QUEUE * config.max_batch_size,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=RETRY_AFTER_SECONDS),
        # When all replicas are full, Serve's router retries two requests a replica, by default half
        # a second apart: replicas would run idle in front of a full queue.
        request_router_config=RequestRouterConfig(initial_backoff_s=0.01, max_backoff_s=0.02),
        # New replicas start before old ones stop, so that an update fails no request.
        max_surge_percent=100,
        graceful_shutdown_timeout_s=config.timeout_seconds + GRACE_SECONDS,
        health_check_period_s=5,
    )(serve.ingress()(Replica))
    return replicas.bind(asdict(config), weights, token, graphs)


def _runtime_env() -> dict[str, Any]:
    """Return the job's runtime environment plus our variables: Serve passes on only one of them."""
    inherited = dict(ray.get_runtime_context().runtime_env) if ray.is_initialized() else {}
    variables = {**inherited.get("env_vars", {}), **session.INFERENCE_MEMORY["env_vars"]}
    return {**inherited, "env_vars": variables}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_port(config: ServeConfig) -> None:
    """Refuse an address that is taken: Serve would retry it without end."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            raise InputError(
                f"Cannot listen at {config.host}:{config.port} ({error.strerror}); choose another "
                "--port or --host."
            ) from error
