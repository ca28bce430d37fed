"""How training's workers find room on the nodes of a cluster, before any of them is started."""

from collections.abc import Mapping

import ray
from ray.train import ScalingConfig

from ray_jobs.cluster import autoscaling, session
from ray_jobs.cluster.autoscaling import Bundle
from ray_jobs.config import TrainConfig


def place_workers(config: TrainConfig, reading_cpus: int = 0) -> ScalingConfig:
    """Return how many workers of which resources a training asks for, once there is room.

    Args:
        config: Says how many workers, and with what.
        reading_cpus: CPUs that must be left for tasks that read for the workers.

    Raises:
        InputError: The cluster has not enough in all and can't have, or no node has room for a
            worker.
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
    more = f" and {reading_cpus} more to read for them" if reading_cpus else ""
    session.require_resources([worker] * low + reading, f"{low} worker(s) of {cpus} CPU{more}")
    # Ray Train alone waits without a word, and without an ear for Ctrl-C.
    autoscaling.wait_for_resources([worker] * low + reading, purpose)
    if reading_cpus and not autoscaling.is_autoscaled():
        # Workers that came later would take the last CPU, and wait for what nobody reads.
        free = ray.cluster_resources().get("CPU", 0) - reading_cpus
        high = max(low, min(high, int(free // cpus)))
    return ScalingConfig(
        num_workers=low if low == high else (low, high),
        use_gpu=config.use_gpu,
        resources_per_worker=worker,
    )


def _even_share(num_workers: int, besides: Mapping[str, float], reading_cpus: int) -> int:
    """Return how many CPUs a worker gets so that all fit on the nodes at hand, at least 1.

    Args:
        num_workers: How many are to fit.
        besides: What else each of them needs.
        reading_cpus: CPUs that must be left.
    """
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    for cpus in range(int(max(nodes)), 1, -1):
        is_room_left = num_workers * cpus + reading_cpus <= sum(nodes)
        if is_room_left and _num_places({"CPU": cpus, **besides}) >= num_workers:
            return cpus
    return 1


def _num_places(worker: Mapping[str, float]) -> int:
    """Return how many workers of some resources the nodes at hand have room for."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    rooms = [[node.get(name, 0) // number for name, number in worker.items()] for node in nodes]
    return int(sum(map(min, rooms)))
