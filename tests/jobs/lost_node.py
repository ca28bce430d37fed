"""Run a job on a cluster of several nodes, and kill nodes or processes that work for it.

    python lost_node.py NUM_NODES {node,process}[,...] {train,label} OUTPUT FLAGS...

Every node has one CPU. Each kill waits until the job has finished two more epochs or chunks.
"""

import os
import sys
import threading
import time
from pathlib import Path

import psutil
import ray
from ray.cluster_utils import Cluster

from ray_jobs.__main__ import main

WORKERS = {"train": "RayTrainWorker", "label": "MapBatches(_label_chunks)"}


def num_done(job, output):
    if job == "label":
        return len([*Path(output, "faces").glob("*.parquet")])
    metrics = Path(output, "metrics.jsonl")
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def kill_workers(cluster, losses, job, output):
    for number, loss in enumerate(losses, start=1):
        while num_done(job, output) < 2 * number:
            time.sleep(0.02)
        if job == "train":
            # Kill in the middle of the next epoch.
            time.sleep(0.3)
        while not (working := [node for node in cluster.worker_nodes if workers_of(node, job)]):
            time.sleep(0.05)
        if loss == "node":
            cluster.remove_node(working[0], allow_graceful=False)
        else:
            workers_of(working[0], job)[0].kill()
        print(f"killed a {loss}", file=sys.stderr)


def workers_of(node, job):
    raylet = node.all_processes["raylet"][0].process.pid
    try:
        children = psutil.Process(raylet).children(recursive=True)
        return [child for child in children if WORKERS[job] in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []


if __name__ == "__main__":
    num_nodes, losses, job, output, *flags = sys.argv[1:]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(int(num_nodes)):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = cluster.address
    arguments = (cluster, losses.split(","), job, output)
    threading.Thread(target=kill_workers, args=arguments, daemon=True).start()
    code = main([job, "--output", output, *flags])
    # Otherwise this process dies with the raylet that it is bound to, and its exit code is lost.
    ray.shutdown()
    cluster.shutdown()
    sys.exit(code)
