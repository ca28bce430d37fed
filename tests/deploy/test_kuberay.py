"""The manifests in deploy/kubernetes and the Dockerfile of their image.

Checks that need KubeRay's schemas are skipped where the schemas are missing.
"""

import copy
import re
import shlex
import tomllib
from pathlib import Path

import pydantic
import pytest
import yaml

from ray_jobs.__main__ import parse
from ray_jobs.config import LabelConfig, ServeConfig, TrainConfig

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy" / "kubernetes"
MANIFESTS = {file.stem: yaml.safe_load(file.read_text()) for file in FOLDER.glob("*.yaml")}
RAY = {
    name: manifest
    for name, manifest in MANIFESTS.items()
    if manifest["apiVersion"].startswith("ray.io")
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def spec_of(manifest):
    spec = manifest["spec"]
    return spec.get("rayClusterSpec") or spec["rayClusterConfig"]


def pods_of(manifest):
    """Pod templates by the name of their group."""
    spec = spec_of(manifest)
    groups = {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    return {"head": spec["headGroupSpec"]["template"], **groups}


PODS = [
    pytest.param(pod["spec"], id=f"{name} {group}")
    for name, manifest in RAY.items()
    for group, pod in pods_of(manifest).items()
]


def closed(schema):
    """Make a schema reject unknown names, which Kubernetes would drop silently."""
    if isinstance(schema, list):
        return [closed(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: closed(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get(
        "x-kubernetes-preserve-unknown-fields"
    ):
        schema.setdefault("additionalProperties", False)
    return schema


@pytest.fixture(scope="session")
def check(kuberay_schemas):
    """Validate a manifest with the schema of its kind and version."""
    from jsonschema import Draft4Validator

    validators = {}

    def validate(manifest):
        kind = manifest["kind"]
        if kind not in validators:
            file = kuberay_schemas / f"ray.io_{kind.lower()}s.yaml"
            crd = yaml.load(file.read_text(), yaml.CSafeLoader)
            (version,) = [entry for entry in crd["spec"]["versions"] if entry["name"] == "v1"]
            schema = version["schema"]["openAPIV3Schema"]
            schema["properties"]["metadata"] = {
                "properties": {"name": {"type": "string"}, "labels": {}, "annotations": {}},
                "required": ["name"],
            }
            validators[kind] = Draft4Validator(closed(schema))
        validators[kind].validate(manifest)

    return validate


def test_there_are_two_jobs_and_a_service():
    assert {name: manifest["kind"] for name, manifest in MANIFESTS.items()} == {
        "access": "ServiceAccount",
        "train": "RayJob",
        "label": "RayJob",
        "serve": "RayService",
    }
    assert {manifest["apiVersion"] for manifest in RAY.values()} == {"ray.io/v1"}


@pytest.mark.parametrize("name", RAY)
def test_kuberay_accepts_it(name, check):
    check(RAY[name])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["spec", "entrypont"], "x"),
        (["spec", "backoffLimit"], "none"),
        (["spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "toleration"], []),
        (["spec", "rayClusterSpec", "authOptions", "mode"], "secret"),
    ],
)
def test_the_schemas_reject_mistakes(path, value, check):
    from jsonschema import ValidationError

    manifest = copy.deepcopy(RAY["label"])
    place = manifest
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ValidationError, match=path[-1] if value in ("x", []) else str(value)):
        check(manifest)


@pytest.mark.parametrize(("name", "config"), [("train", TrainConfig), ("label", LabelConfig)])
def test_entrypoints_are_command_lines_of_jobs(name, config):
    words = shlex.split(RAY[name]["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "ray_jobs"]
    chosen = parse(words[3:])
    assert isinstance(chosen, config)
    assert chosen.output.startswith("s3://")
    assert RAY[name]["spec"]["shutdownAfterJobFinishes"] is True


def test_training_fits_its_node_pool():
    config = parse(shlex.split(RAY["train"]["spec"]["entrypoint"])[3:])
    (pool,) = spec_of(RAY["train"])["workerGroupSpecs"]
    (container,) = pool["template"]["spec"]["containers"]
    assert config.use_gpu
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert config.worker_range[1] <= pool["maxReplicas"]
    assert config.cpus_per_worker <= int(pool["rayStartParams"]["num-cpus"])


# Ray Serve 2.60's own models use what pydantic 2 deprecates.
@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
def test_ray_serve_accepts_the_service():
    from ray.serve.schema import ServeDeploySchema

    config = yaml.safe_load(RAY["serve"]["spec"]["serveConfigV2"])
    assert config.keys() <= ServeDeploySchema.model_fields.keys()
    (application,) = ServeDeploySchema.model_validate(config).applications
    assert application.import_path == "ray_jobs.serve:app"
    config = pydantic.TypeAdapter(ServeConfig).validate_python(application.args)
    assert config.min_replicas >= 2


@pytest.mark.parametrize("name", RAY)
def test_the_cluster_scales_and_its_head_runs_no_tasks(name):
    spec = spec_of(RAY[name])
    (ray,) = [name for name in PROJECT["dependencies"] if name.startswith("ray[")]
    assert ray.endswith(f"=={spec['rayVersion']}")
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert 0 < spec["autoscalerOptions"]["idleTimeoutSeconds"] <= 900
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] < group["maxReplicas"]
        assert group["minReplicas"] == (1 if name == "serve" else 0)


@pytest.mark.parametrize("pod", PODS)
def test_pods_have_their_node_pool_rights_and_image_version(pod):
    (container,) = pod["containers"]
    assert container["image"].endswith(f"/fer-on-ray:{PROJECT['version']}")
    assert pod["serviceAccountName"] == MANIFESTS["access"]["metadata"]["name"]
    assert pod["nodeSelector"]["fer-on-ray/pool"] in ("head", "cpu", "gpu")
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    limits, requests = container["resources"]["limits"], container["resources"]["requests"]
    assert limits["memory"] == requests["memory"]
    tolerated = {toleration["key"] for toleration in pod.get("tolerations", ())}
    is_head, has_gpu = container["name"] == "ray-head", "nvidia.com/gpu" in limits
    assert ("fer-on-ray/spot" in tolerated) == (not is_head)
    assert ("nvidia.com/gpu" in tolerated) == has_gpu
    assert has_gpu == (pod["nodeSelector"]["fer-on-ray/pool"] == "gpu")


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_contain_no_secrets(name):
    text = (FOLDER / f"{name}.yaml").read_text()
    assert not re.search(r"AKIA|AWS_(ACCESS|SECRET)|password|stringData", text)
    for pod in pods_of(MANIFESTS[name]).values() if name in RAY else ():
        for container in pod["spec"]["containers"]:
            for variable in container.get("env", ()):
                assert "secretKeyRef" in variable["valueFrom"]


def test_every_pod_of_the_service_gets_the_token():
    for pod in pods_of(RAY["serve"]).values():
        (container,) = pod["spec"]["containers"]
        assert [variable["name"] for variable in container["env"]] == ["FER_API_TOKEN"]


# The image.


def test_the_image_is_pinned_and_does_not_run_as_root():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    instructions = [line for line in lines if line and not line.startswith(("#", " "))]
    assert instructions[0].startswith("FROM python:3.11")
    assert [line for line in instructions if line.startswith("USER")] == ["USER 1000"]
    assert any("-c constraints.txt" in line for line in instructions)
    assert f"fer-on-ray:{PROJECT['version']}" in "\n".join(lines)
    assert not any(re.match("(ARG|ENV).*(KEY|TOKEN|SECRET)", line) for line in instructions)


def test_only_the_package_is_copied_into_the_image():
    import pathspec

    lines = (ROOT / ".dockerignore").read_text().splitlines()
    ignored = pathspec.GitIgnoreSpec.from_lines(lines)
    copied = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if "COPY" in line]
    sources = [word.rstrip("/") for line in copied for word in shlex.split(line)[1:-1]]
    assert sorted(sources) == sorted(line[1:] for line in lines if line.startswith("!"))
    for path in (
        ".git/config",
        "tests/conftest.py",
        "fer2013.csv",
        ".env",
        "fer/__pycache__/a.pyc",
    ):
        assert ignored.match_file(path), path
    for path in ("fer/weights/config.json", "ray_jobs/train.py", "pyproject.toml"):
        assert not ignored.match_file(path), path
