"""Trains on a cluster of several nodes, and takes one that works away after two epochs.

    python lost_node.py NUM_NODES OUTPUT FLAGS...

Every node has one CPU, so that each holds one worker at most.
"""

import os
import sys
import threading
import time
from pathlib import Path

import psutil
from ray.cluster_utils import Cluster

from ray_jobs.__main__ import main


def take_away(cluster, output):
    metrics = Path(output) / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 2:
        time.sleep(0.02)
    time.sleep(0.3)
    while not (working := [node for node in cluster.worker_nodes if is_working(node)]):
        time.sleep(0.1)
    node = working[0]
    cluster.remove_node(node, allow_graceful=False)
    print("took a node away", file=sys.stderr)


def is_working(node):
    raylet = node.all_processes["raylet"][0].process.pid
    try:
        children = psutil.Process(raylet).children(recursive=True)
        return any("RayTrainWorker" in " ".join(child.cmdline()) for child in children)
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    num_nodes, output, *flags = sys.argv[1:]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(int(num_nodes)):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = cluster.address
    threading.Thread(target=take_away, args=(cluster, output), daemon=True).start()
    sys.exit(main(["train", "--output", output, *flags]))
