"""What the Prometheus endpoint of the shared cluster's node says."""

import time
import urllib.request

import ray
from prometheus_client.parser import text_string_to_metric_families

REPORT_EVERY_SECONDS, WAIT_SECONDS = 10, 40
"""How often processes report what they recorded, and how long to wait for it at most."""


def read(name, **labels):
    """Return the sum of the samples of a name that have these labels; None if there is none."""
    (node,) = (node for node in ray.nodes() if node["Alive"])
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=10) as answer:
        text = answer.read().decode()
    values = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(values) if values else None


def wait_for(expected, name, **labels):
    """Wait until a sum has a value, and return it; at last, whatever it is."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (found := read(name, **labels)) != expected and time.monotonic() < deadline:
        time.sleep(1)
    return found
