"""Placement of training workers: how many to start, with which resources, once there is room."""

from collections.abc import Mapping

import ray
from ray.train import ScalingConfig

from ray_jobs.cluster import autoscaling, session
from ray_jobs.cluster.autoscaling import Bundle
from ray_jobs.config import TrainConfig


def place_workers(config: TrainConfig, reading_cpus: int = 0) -> ScalingConfig:
    """Wait until the cluster has room for training workers, and return their number and resources.

    Args:
        config: Flags of the training: the number of workers, their CPUs and GPUs.
        reading_cpus: CPUs to leave free for tasks that read examples for the workers.

    Raises:
        InputError: The cluster has too few resources and cannot have more, or a worker does not fit
            on any node.
    """
    low, high = config.worker_range
    gpu = {"GPU": 1} if config.use_gpu else {}
    reading: list[Bundle] = [{"CPU": 1}] * reading_cpus
    purpose = f"{low} worker(s)"
    if autoscaling.is_autoscaled():
        least: Bundle = {"CPU": config.cpus_per_worker or 1, **gpu}
        autoscaling.wait_for_resources([least] * low + reading, purpose)
    cpus = config.cpus_per_worker or _even_share(high, gpu, reading_cpus)
    worker: Bundle = {"CPU": cpus, **gpu}
    reserve = f" and {reading_cpus} CPU for reading" if reading_cpus else ""
    session.require_resources([worker] * low + reading, f"{low} worker(s) of {cpus} CPU{reserve}")
    # Wait here, because Ray Train waits without a message and ignores Ctrl-C meanwhile.
    autoscaling.wait_for_resources([worker] * low + reading, purpose)
    if reading_cpus and not autoscaling.is_autoscaled():
        # More workers would take the CPUs of the tasks that read for them, and wait forever.
        free = ray.cluster_resources().get("CPU", 0) - reading_cpus
        high = max(low, min(high, int(free // cpus)))
    return ScalingConfig(
        num_workers=low if low == high else (low, high),
        use_gpu=config.use_gpu,
        resources_per_worker=worker,
    )


def _even_share(num_workers: int, other: Mapping[str, float], reading_cpus: int) -> int:
    """Return the most CPUs that each worker can have so that all fit on the current nodes.

    Args:
        num_workers: Number of workers.
        other: Resources besides CPUs that each worker needs.
        reading_cpus: CPUs to leave free.

    Returns:
        At least 1, even if the workers do not fit then.
    """
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    for cpus in range(int(max(nodes)), 1, -1):
        is_room_left = num_workers * cpus + reading_cpus <= sum(nodes)
        if is_room_left and _num_places({"CPU": cpus, **other}) >= num_workers:
            return cpus
    return 1


def _num_places(worker: Mapping[str, float]) -> int:
    """Return how many workers with the given resources fit on the current nodes."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fitting = [[node.get(name, 0) // number for name, number in worker.items()] for node in nodes]
    return int(sum(map(min, fitting)))
