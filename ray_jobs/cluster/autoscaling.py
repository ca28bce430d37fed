"""What a cluster can still add: asked for, waited for with a word, or seen never to come.

It is asked for as a placement group, Ray's public way to want all of something at once, which ends
with the job whatever becomes of that; of ``ray.autoscaler.sdk.request_resources`` a cluster has but
one. The answer is what ``ray status`` shows, from the call that it makes (autoscaler v2, which
``ray up`` and KubeRay start): what the autoscaler launches, what failed, and what it can't place on
any nodes that it may have. ``get_max_resources_from_cluster_config`` would say that in one number,
but nothing in the open-source Ray 2.60 writes the configuration that it reads.
"""

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined] # compiled
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from fer.errors import InputError

POLL_SECONDS, TOLD_EVERY_SECONDS = 1.0, 10.0

AFTER_OTHERS = "other jobs must end first"

Bundle = Mapping[str, float]


def is_autoscaled() -> bool:
    """Tell whether this cluster has an autoscaler that says what it does."""
    return ray.is_initialized() and bool(is_autoscaler_v2())


def wait_for_resources(bundles: Sequence[Bundle], purpose: str) -> None:
    """Return when a cluster has room for bundles at the same time, each on one node.

    Args:
        bundles: Resources that belong together.
        purpose: What needs them, to be read before "need".

    Raises:
        InputError: The autoscaler may not have nodes for them, even when nobody else uses any.
            Without an autoscaler it is for the caller to know that the cluster can hold them.
    """
    waiting = _Waiting(bundles, purpose, refused_from=0 if _is_idle() else None)
    group = placement_group([dict(bundle) for bundle in bundles], strategy="PACK")
    try:
        while not group.wait(POLL_SECONDS):
            if is_autoscaled():
                waiting.look(_state(), group)
            else:
                waiting.tell(AFTER_OTHERS)
    finally:
        remove_placement_group(group)


class _Waiting:
    """What is told while nodes are waited for, and when there is no use in it.

    Attributes:
        refused_from: Version of the autoscaler's state from which a refusal is for ever: from which
            on it has looked at nodes that nobody else used.
    """

    def __init__(
        self, bundles: Sequence[Bundle], purpose: str, *, refused_from: int | None
    ) -> None:
        self.needed, self.purpose, self.refused_from = _in_words(bundles), purpose, refused_from
        self.told = -TOLD_EVERY_SECONDS

    def look(self, state: Any, group: PlacementGroup) -> None:  # noqa: ANN401 - Ray's message
        """Say what is waited for, or raise that it will never come."""
        refused = [each.details for each in state.infeasible_gang_resource_requests]
        if any(details.startswith(group.id.hex()) for details in refused):
            self._consider(state.autoscaler_state_version)
            self.tell(f"no more nodes may be added, {AFTER_OTHERS}")
        else:
            self.refused_from = None if not _is_idle() else self.refused_from
            self.tell(_doing(state))

    def _consider(self, version: int) -> None:
        if not _is_idle():
            self.refused_from = None
        elif self.refused_from is None:
            # The next one may have been begun before.
            self.refused_from = version + 2
        elif version >= self.refused_from:
            raise InputError(
                f"{self.purpose} need {self.needed} at the same time, which this cluster can't "
                "have with all the nodes that its autoscaler may add: ask for less, or raise "
                "max_workers or the size of its nodes."
            )

    def tell(self, doing: str) -> None:
        """Say what is waited for, and why it is not there, every ten seconds."""
        now = time.monotonic()
        if now - self.told >= TOLD_EVERY_SECONDS:
            self.told = now
            told = f"Waiting for room: {self.purpose} need {self.needed}; {doing}"
            print(told, file=sys.stderr, flush=True)


def _state() -> Any:  # noqa: ANN401 - Ray's message
    """Return what the autoscaler says of itself."""
    client = GcsClient(ray.get_runtime_context().gcs_address)
    reply = GetClusterStatusReply()
    reply.ParseFromString(client.get_cluster_status(timeout_s=30))
    return reply.autoscaling_state


def _is_idle() -> bool:
    """Tell whether nobody holds a CPU or a GPU."""
    held, free = ray.cluster_resources(), ray.available_resources()
    return all(free.get(name, 0) == held.get(name, 0) for name in ("CPU", "GPU"))


def _doing(state: Any) -> str:  # noqa: ANN401 - Ray's message
    """Say what the autoscaler does about it."""
    starting = Counter(each.ray_node_type_name for each in state.pending_instances)
    for each in state.pending_instance_requests:
        starting[each.ray_node_type_name] += each.count
    told = [f"{number} {name} starting" for name, number in starting.items()]
    told += [f"{each.ray_node_type_name}: {each.reason}" for each in _newest(state)]
    return ", ".join(told) or "the autoscaler has yet to answer"


def _newest(state: Any) -> list[Any]:  # noqa: ANN401 - Ray's message
    failed = sorted(state.failed_instance_requests, key=lambda each: each.failed_ts)
    return failed[-1:]


def _in_words(bundles: Sequence[Bundle]) -> str:
    """Return bundles as in "4 x (4 CPU, 1 GPU)"."""
    counts = Counter(
        ", ".join(f"{number:g} {name}" for name, number in bundle.items()) for bundle in bundles
    )
    return " and ".join(f"{number} x ({what})" for what, number in counts.items())
