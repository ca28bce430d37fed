"""Waiting for nodes that the cluster's autoscaler can still add, or finding out that it cannot.

The nodes are requested as a placement group, Ray's public way to ask for several resources at once.
A placement group is removed with the job that made it, however that job ends. The alternative,
``ray.autoscaler.sdk.request_resources``, is one request for the whole cluster, which jobs would
take from each other.

The autoscaler's answer is what ``ray status`` shows: which nodes it launches, which launches
failed, and which requests it cannot place on any nodes that it may add. This needs autoscaler v2,
which ``ray up`` and KubeRay start. ``get_max_resources_from_cluster_config`` would give the limits
of the cluster directly, but nothing in the open-source Ray 2.60 writes the configuration that it
reads.
"""

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from fer.errors import InputError
from ray_jobs.cluster import internals

POLL_SECONDS, REPORT_EVERY_SECONDS = 1.0, 10.0

OTHERS_FIRST = "other jobs must end first"

Bundle = Mapping[str, float]
"""Resources that one process needs on one node, such as ``{"CPU": 4, "GPU": 1}``."""


def is_autoscaled() -> bool:
    """Tell whether this process is connected to a cluster whose autoscaler reports its state."""
    return ray.is_initialized() and internals.has_autoscaler_v2()


def wait_for_resources(bundles: Sequence[Bundle], purpose: str) -> None:
    """Wait until a cluster has room for all bundles at the same time, each on one node.

    Without an autoscaler, the caller must make sure that the cluster can hold them.

    Args:
        bundles: Resources of each process.
        purpose: What needs the resources, in words that precede "need".

    Raises:
        InputError: The autoscaler may not add enough nodes, even when no other job uses any.
    """
    wait = _Wait(bundles, purpose, final_from=0 if _is_idle() else None)
    group = placement_group([dict(bundle) for bundle in bundles], strategy="PACK")
    try:
        while not group.wait(POLL_SECONDS):
            if is_autoscaled():
                wait.check(internals.autoscaling_state(), group)
            else:
                wait.report(OTHERS_FIRST)
    finally:
        remove_placement_group(group)


class _Wait:
    """Reports what a job waits for, and decides when waiting is useless.

    The autoscaler also refuses nodes that it could add if other jobs ended. A refusal is therefore
    final only if it considered a cluster in which no other job held resources.

    Attributes:
        final_from: Version of the autoscaler's state from which on a refusal is final; None while
            other jobs hold resources.
    """

    def __init__(self, bundles: Sequence[Bundle], purpose: str, *, final_from: int | None) -> None:
        self.needed, self.purpose, self.final_from = _describe(bundles), purpose, final_from
        self.reported, self.reported_at = "", -REPORT_EVERY_SECONDS

    def check(self, state: Any, group: PlacementGroup) -> None:  # noqa: ANN401 - Ray's message
        """Report what the autoscaler does, or raise an error if its refusal is final."""
        refused = [request.details for request in state.infeasible_gang_resource_requests]
        if any(details.startswith(group.id.hex()) for details in refused):
            self._check_refusal(state.autoscaler_state_version)
            self.report(f"no more nodes may be added, so {OTHERS_FIRST}")
        else:
            self.final_from = self.final_from if _is_idle() else None
            self.report(_activity(state))

    def _check_refusal(self, version: int) -> None:
        if not _is_idle():
            self.final_from = None
        elif self.final_from is None:
            # The next version may have been computed before the other jobs ended.
            self.final_from = version + 2
        elif version >= self.final_from:
            raise InputError(
                f"{self.purpose} need {self.needed} at the same time, but this cluster cannot have "
                "that even with all the nodes that its autoscaler may add. Ask for less, or raise "
                "max_workers or the size of the nodes."
            )

    def report(self, activity: str) -> None:
        """Print what is needed and what is done about it: if it changed, or every ten seconds."""
        now = time.monotonic()
        if activity != self.reported or now - self.reported_at >= REPORT_EVERY_SECONDS:
            self.reported, self.reported_at = activity, now
            message = f"Waiting for resources: {self.purpose} need {self.needed}; {activity}"
            print(message, file=sys.stderr, flush=True)


def _is_idle() -> bool:
    """Tell whether all CPUs and GPUs of the cluster are free."""
    total, free = ray.cluster_resources(), ray.available_resources()
    return all(free.get(name, 0) == total.get(name, 0) for name in ("CPU", "GPU"))


def _activity(state: Any) -> str:  # noqa: ANN401 - Ray's message
    """Describe which nodes the autoscaler starts, and its latest failure."""
    starting = Counter(instance.ray_node_type_name for instance in state.pending_instances)
    for request in state.pending_instance_requests:
        starting[request.ray_node_type_name] += request.count
    activity = [f"{number} {node_type} starting" for node_type, number in starting.items()]
    failures = sorted(state.failed_instance_requests, key=lambda request: request.failed_ts)
    activity += [f"{failure.ray_node_type_name}: {failure.reason}" for failure in failures[-1:]]
    return ", ".join(activity) or "the autoscaler has not answered yet"


def _describe(bundles: Sequence[Bundle]) -> str:
    """Return bundles in words, such as "4 x (4 CPU, 1 GPU)"."""
    counts = Counter(
        ", ".join(f"{number:g} {name}" for name, number in bundle.items()) for bundle in bundles
    )
    return " and ".join(f"{number} x ({resources})" for resources, number in counts.items())
