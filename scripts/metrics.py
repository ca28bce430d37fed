"""Writes the table of metrics in docs/metrics.md from ``ray_jobs.cluster.metrics``.

A test compares the table with the metrics, so that neither changes alone.
"""

import re
from pathlib import Path

from ray_jobs.cluster.metrics import METRICS, Metric

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"

HEAD = "| metric | type | labels | what it is |\n|---|---|---|---|\n"


def table() -> str:
    """Return the table: a row a metric, as Prometheus sees it."""
    return HEAD + "".join(map(_row, METRICS))


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{tag}`" for tag in metric.tags)
    return f"| `{metric.exported_name}` | {metric.kind} | {labels} | {metric.description} |\n"


def updated(page: str) -> str:
    """Return the page with the table as it should be."""
    return re.sub(re.escape(HEAD) + r"(\|.*\n)*", lambda _: table(), page)


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text()))
