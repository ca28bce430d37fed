"""The node provider of ``cluster.yaml``: EC2 spot nodes, or on-demand nodes if there are none.

Two node types with priorities would not do. Ray 2.60's autoscaler (``autoscaler/v2/scheduler.py``)
chooses between node types by their utilization, by whether their last launch timed out, and then
by ``priority``. A launch that AWS refuses does not count as timed out
(``CloudResourceMonitor.notify`` handles only ``ALLOCATION_TIMEOUT``), so the autoscaler would
request the spot type of high priority again and again, and never the on-demand type behind it.

Ray's AWS provider tries each availability zone and then raises a ``NodeLaunchException``. The
provider here then tries once more, on demand.
"""

import sys
from typing import Any

from ray.autoscaler.node_launch_exception import NodeLaunchException

from ray_jobs.cluster import internals

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
"""EC2 error codes that an on-demand launch may avoid (EC2 API reference, error codes)."""


class SpotOrOnDemand(internals.aws_node_provider()):  # type: ignore[misc] # Ray's has no types
    """Ray's AWS provider, which launches nodes on demand when no spot capacity is left."""

    def create_node(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int
    ) -> dict[str, Any] | None:
        """Launch nodes, on demand if the spot market refuses them in every availability zone.

        Raises:
            NodeLaunchException: AWS refuses on-demand nodes too, or refuses for another reason.
        """
        try:
            return dict(super().create_node(node_config, tags, count) or {})
        except NodeLaunchException as error:
            if MARKET not in node_config or error.category not in NO_SPOT:
                raise
            print(f"No spot capacity ({error.category}); launching on demand.", file=sys.stderr)
        on_demand = {name: value for name, value in node_config.items() if name != MARKET}
        return dict(super().create_node(on_demand, tags, count) or {})
