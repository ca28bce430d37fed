"""The overlays against KubeRay 1.7: its schemas, and what its controllers refuse beyond these.

Checks that need KubeRay's schemas are skipped where the schemas are missing.
"""

import copy
import re
import shutil
import tomllib

import pytest
import yaml
from manifests import (
    FOLDER,
    PODS,
    ROOT,
    build,
    cluster_of,
    job_of,
    overlay,
    pod_templates,
    pods_of,
    resource,
    run_kustomize,
)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
KINDS = {
    "ingest": "RayJob",
    "train": "RayJob",
    "label": "RayJob",
    "label-spot": "RayJob",
    "nightly": "RayCronJob",
    "standing": "RayCluster",
    "serve": "RayService",
    "serve-ha": "RayService",
}
JOBS = [name for name, kind in KINDS.items() if kind in ("RayJob", "RayCronJob")]


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
            names = {name: {"type": "string"} for name in ("name", "namespace")}
            schema["properties"]["metadata"] = {
                "properties": {**names, "labels": {}, "annotations": {}},
                "required": ["name"],
            }
            validators[kind] = Draft4Validator(closed(schema))
        validators[kind].validate(manifest)

    return validate


def test_every_overlay_has_one_resource_of_kuberay():
    assert {path.name for path in (FOLDER / "overlays").iterdir()} == KINDS.keys()
    assert {name: resource(name)["kind"] for name in PODS} == KINDS
    assert {resource(name)["apiVersion"] for name in PODS} == {"ray.io/v1"}


@pytest.mark.parametrize("name", KINDS)
def test_every_overlay_has_its_pods(name):
    assert pod_templates(name).keys() == set(PODS[name])


@pytest.mark.parametrize("name", ["namespace", *(f"overlays/{name}" for name in KINDS)])
def test_kubernetes_accepts_what_is_not_kuberays(name):
    validator = pytest.importorskip("kubernetes_validate", reason="pip install -e '.[test]'")
    for manifest in build(name):
        if not manifest["apiVersion"].startswith("ray.io/"):
            validator.validate(manifest, validator.latest_version(), strict=True)


@pytest.mark.parametrize("name", KINDS)
def test_kuberay_accepts_it(name, check):
    check(resource(name))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["spec", "entrypont"], "x"),
        (["spec", "backoffLimit"], "none"),
        (["spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "toleration"], []),
        (["spec", "rayClusterSpec", "authOptions", "mode"], "secret"),
        (["spec", "submitterPodTemplate", "spec", "restart"], "x"),
    ],
)
def test_the_schemas_reject_mistakes(path, value, check):
    from jsonschema import ValidationError

    manifest = copy.deepcopy(resource("label"))
    place = manifest
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ValidationError, match=path[-1] if value in ("x", []) else str(value)):
        check(manifest)


def test_templates_are_not_applied():
    kinds = {manifest["kind"] for name in KINDS for manifest in overlay(name)}
    assert "PodTemplate" not in kinds
    applied = [name for name in KINDS for item in overlay(name) if item["kind"] == "RayCluster"]
    assert applied == ["standing"]


@pytest.mark.parametrize("name", KINDS)
def test_everything_is_in_one_namespace(name):
    assert {manifest["metadata"]["namespace"] for manifest in overlay(name)} == {"fer-on-ray"}


@pytest.mark.parametrize("name", KINDS)
def test_the_cluster_scales_and_its_head_runs_no_tasks(name):
    spec = cluster_of(resource(name))
    (pinned,) = [item for item in PROJECT["dependencies"] if item.startswith("ray[")]
    assert pinned.endswith(f"=={spec['rayVersion']}")
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert 0 < spec["autoscalerOptions"]["idleTimeoutSeconds"] <= 900
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] < group["maxReplicas"]
        assert group["minReplicas"] == (2 if name.startswith("serve") else 0)


@pytest.mark.parametrize("name", JOBS)
def test_clusters_of_jobs_are_deleted_when_the_job_ends(name):
    """By rules, which KubeRay refuses beside ``shutdownAfterJobFinishes`` and its TTL."""
    job = job_of(resource(name))
    assert not {"shutdownAfterJobFinishes", "ttlSecondsAfterFinished"} & job.keys()
    delays = {}
    for rule in job["deletionStrategy"]["deletionRules"]:
        condition = dict(rule["condition"])
        seconds = condition.pop("ttlSeconds")
        delays[(*condition.values(), rule["policy"])] = seconds
    assert delays["SUCCEEDED", "DeleteCluster"] == 0
    # Failed covers a deadline that passed while the job ran, which a job's own status does not.
    assert delays["Failed", "DeleteCluster"] <= 600
    for state in ("SUCCEEDED", "Failed"):
        assert delays[state, "DeleteSelf"] >= delays[state, "DeleteCluster"]
    assert 0 < job["activeDeadlineSeconds"] <= 86400


def test_the_nightly_run_has_a_schedule_and_a_time_zone():
    spec = resource("nightly")["spec"]
    assert re.fullmatch(r"\d+ \d+ \* \* \*", spec["schedule"])
    assert spec["timeZone"] == "Etc/UTC"
    assert len(resource("nightly")["metadata"]["name"]) < 40


def test_incremental_upgrades_have_all_that_kuberay_asks_for():
    strategy = resource("serve-ha")["spec"]["upgradeStrategy"]
    assert strategy["type"] == "NewClusterWithIncrementalUpgrade"
    options = strategy["clusterUpgradeOptions"]
    assert 0 < options["stepSizePercent"] <= options["maxSurgePercent"] <= 100
    assert options["intervalSeconds"] > 0
    assert options["gatewayClassName"]
    assert resource("serve")["spec"]["upgradeStrategy"] == {"type": "NewCluster"}


def test_fault_tolerance_keeps_the_state_of_services_in_redis():
    options = cluster_of(resource("serve-ha"))["gcsFaultToleranceOptions"]
    assert options["redisAddress"].startswith("rediss://")
    assert "secretKeyRef" in options["redisPassword"]["valueFrom"]
    others = KINDS.keys() - {"serve-ha"}
    assert not [name for name in others if "gcsFaultToleranceOptions" in cluster_of(resource(name))]


# Names that a team replaces.


def listed_names():
    """Return the names in the table of docs/kubernetes.md with the folders that hold them."""
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    section = page[page.index("## Your names") : page.index("## Every night")]
    rows = re.findall(r"^\| (`.*?) \| .*? \| (.*?) \|$", section, re.MULTILINE)
    return {
        name: re.findall("`(.*?)`", places)
        for names, places in rows
        for name in re.findall("`(.*?)`", names)
    }


def written_names():
    """Return every name in the manifests that is a team's own, by what such names look like."""
    patterns = (
        r"[\w.-]+\.example\.com",
        r"s3://[\w.-]+",
        r"arn:aws:iam::\d+:role/[\w-]+",
        r"kubernetes\.io/metadata\.name: ([\w-]+)",
        r"gatewayClassName: (\w+)",
        r"release: ([\w-]+)",
        r"secretKeyRef: \{name: ([\w-]+)",
        r"imagePullSecrets:\n\s+- name: ([\w-]+)",
        r"^namespace: ([\w-]+)",
        r"timeZone: (\S+)",
    )
    texts = [path.read_text() for path in FOLDER.rglob("*.yaml")]
    return {
        name for text in texts for each in patterns for name in re.findall(each, text, re.MULTILINE)
    }


def test_the_page_lists_every_name_that_a_team_replaces():
    # Kubernetes' own namespace, and the secret that KubeRay makes.
    assert written_names() - {"kube-system", "fer-standing"} == listed_names().keys()


def test_names_are_where_the_page_says():
    for name, places in listed_names().items():
        for place in places:
            if place == "kustomization.yaml":
                continue
            files = (
                [FOLDER / place] if place.endswith(".yaml") else (FOLDER / place).rglob("*.yaml")
            )
            if place == "overlays":
                files = (FOLDER / place).rglob("*job.yaml")
            assert any(name in path.read_text() for path in files), (name, place)


@pytest.fixture
def build_own(tmp_path, check):
    """Build an overlay of a team's own that docs/kubernetes.md shows, beside a checkout."""

    def build_block(begin, resources=()):
        page = (ROOT / "docs" / "kubernetes.md").read_text()
        blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
        (block,) = [block for block in blocks if begin in block]
        # The page leaves out the digits of the digest.
        kustomization = {"resources": resources, **yaml.safe_load(block.replace("…", "0" * 64))}
        (tmp_path / "fer-on-ray").mkdir()
        shutil.copytree(ROOT / "deploy", tmp_path / "fer-on-ray" / "deploy")
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        done = run_kustomize(tmp_path)
        assert done.returncode == 0, done.stderr
        manifest = yaml.safe_load(done.stdout)
        check(manifest)
        return manifest

    return build_block


def test_a_team_names_its_images_and_its_bucket_in_an_overlay_of_its_own(build_own):
    job = build_own("images:")
    assert "s3://photos/" in job["spec"]["entrypoint"]
    for pod in pods_of(job).values():
        assert re.fullmatch(
            r"\d+\.dkr\.ecr\.[\w-]+\.amazonaws\.com/fer-on-ray-slim@sha256:0{64}",
            pod["spec"]["containers"][0]["image"],
        )


def test_a_team_gives_the_head_the_secret_of_notifications(build_own):
    night = build_own("FER_NOTIFY_SECRET", ["fer-on-ray/deploy/kubernetes/overlays/nightly"])
    (variable,) = pods_of(night)["head"]["spec"]["containers"][0]["env"]
    assert variable["name"] == "FER_NOTIFY_SECRET"


def test_the_page_installs_the_version_of_kuberay_that_was_checked():
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    assert "kuberay/kuberay-operator --version 1.7.0" in page
    assert "featureGates[0].name=RayCronJob" in page
