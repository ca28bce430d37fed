"""EC2 nodes from the spot market, and on demand where that refuses them: for ``cluster.yaml``.

Ray 2.60's autoscaler (``autoscaler/v2/scheduler.py``) chooses between node types by their use, by
whether one timed out lately, and then by ``priority``. A launch that AWS refuses is no time-out
(``CloudResourceMonitor.notify`` hears of ``ALLOCATION_TIMEOUT`` alone), so that a spot type of high
priority is asked for again and again, and an on-demand type behind it never is. The AWS provider
tries each availability zone, and then raises ``NodeLaunchException``: here it tries once more.
"""

import sys
from typing import Any

from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException

MARKET = "InstanceMarketOptions"

NO_SPOT = frozenset(
    (
        "InsufficientInstanceCapacity",
        "InsufficientFreeAddressesInSubnet",
        "MaxSpotInstanceCountExceeded",
        "SpotMaxPriceTooLow",
        "Unsupported",
    )
)
"""Codes of EC2 with which another market may help (EC2 API reference, error codes)."""


class SpotOrOnDemand(AWSNodeProvider):  # type: ignore[misc] # Ray's has no types
    """Ray's AWS provider, whose spot nodes become on-demand ones where there are none to be had."""

    def create_node(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int
    ) -> dict[str, Any] | None:
        """Launch nodes, on demand if the spot market refuses them in every zone.

        Raises:
            NodeLaunchException: They are refused on demand too, or for another reason.
        """
        try:
            return dict(super().create_node(node_config, tags, count) or {})
        except NodeLaunchException as error:
            if MARKET not in node_config or error.category not in NO_SPOT:
                raise
            print(f"No spot capacity ({error.category}): asking on demand.", file=sys.stderr)
        on_demand = {name: value for name, value in node_config.items() if name != MARKET}
        return dict(super().create_node(on_demand, tags, count) or {})
