"""The pods of the overlays: their rights, their size, their nodes and their probes."""

import copy
import re
import tomllib

import pytest
from manifests import PODS, ROOT, as_started, build, cluster_of, pod_templates, resource

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONTAINER_RIGHTS = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
POD_RIGHTS = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "runAsGroup": 10001,
    "fsGroup": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
}
GIB = 2**30
NODES = {
    "m7i.xlarge": (3.92, 14162),
    "c7i.4xlarge": (15.89, 27381),
    "c7i.2xlarge": (7.91, 14162),
    "g6.2xlarge": (7.91, 29317),
}
"""CPUs and MiB that Karpenter's reference of instance types leaves for pods."""


def pods(*groups):
    """Run a test on the pods of all overlays, or on those with one of these names."""
    chosen = [
        (name, group)
        for name, names in PODS.items()
        for group in names
        if not groups or group in groups
    ]
    return pytest.mark.parametrize(("name", "group"), chosen, ids=" ".join)


@pytest.fixture
def pod(name, group):
    return pod_templates(name)[group]["spec"]


def bytes_of(quantity):
    assert quantity.endswith(("Mi", "Gi")), quantity
    return int(quantity[:-2]) * (2**20 if quantity.endswith("Mi") else GIB)


@pods()
def test_pods_are_valid(name, group):
    validator = pytest.importorskip("kubernetes_validate", reason="pip install -e '.[test]'")
    validator.validate(as_started(name, group), validator.latest_version(), strict=True)


def test_the_validator_rejects_mistakes():
    validator = pytest.importorskip("kubernetes_validate", reason="pip install -e '.[test]'")
    pod = copy.deepcopy(as_started("label", "head"))
    pod["spec"]["containers"][1]["resource"] = {}
    with pytest.raises(validator.ValidationError, match="resource"):
        validator.validate(pod, validator.latest_version(), strict=True)


@pods()
def test_pods_have_no_rights(name, group, pod):
    (container,) = pod["containers"]
    assert pod["securityContext"] == POD_RIGHTS
    assert container["securityContext"] == CONTAINER_RIGHTS
    assert pod["serviceAccountName"] == "fer-on-ray"
    # The autoscaler on the head changes the cluster by the Kubernetes API. Nobody else calls it.
    assert pod["automountServiceAccountToken"] is (group == "head")
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()


def test_the_autoscaler_has_no_rights_either():
    options = cluster_of(resource("label"))["autoscalerOptions"]
    assert options["securityContext"] == CONTAINER_RIGHTS
    head = cluster_of(resource("label"))["headGroupSpec"]["template"]["spec"]
    assert options["volumeMounts"] == head["containers"][0]["volumeMounts"]


@pods()
def test_two_folders_are_writable(name, group, pod):
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"scratch": "/tmp", "home": "/home/ray"}
    sizes = {volume["name"]: bytes_of(volume["emptyDir"]["sizeLimit"]) for volume in pod["volumes"]}
    assert sizes.keys() == mounts.keys()
    if group in ("head", "submitter", "submit"):
        return
    # Ray spills below /tmp. Its object store, 30 % of the memory, must fit there several times.
    memory = bytes_of(container["resources"]["limits"]["memory"])
    assert sizes["scratch"] > 3 * memory
    assert bytes_of(container["resources"]["requests"]["ephemeral-storage"]) >= sizes["scratch"]


@pods()
def test_images_have_the_version_of_the_package(name, group, pod):
    (container,) = pod["containers"]
    image = "fer-on-ray" if name == "train" else "fer-on-ray-slim"
    assert container["image"] == f"registry.example.com/{image}:{PROJECT['version']}"


@pods()
def test_memory_is_guaranteed_and_cpus_are_not_limited(name, group, pod):
    resources = pod["containers"][0]["resources"]
    assert resources["limits"]["memory"] == resources["requests"]["memory"]
    assert "cpu" in resources["requests"]
    assert "cpu" not in resources["limits"]


def test_ray_sees_the_cpus_and_gpus_that_its_pod_requests():
    for name in ("label", "train", "serve"):
        for group in cluster_of(resource(name))["workerGroupSpecs"]:
            requests = group["template"]["spec"]["containers"][0]["resources"]["requests"]
            assert group["rayStartParams"]["num-cpus"] == requests["cpu"]
            # What was measured is far less: docs/kubernetes.md, "Sizes".
            assert bytes_of(requests["memory"]) >= GIB * int(requests["cpu"])


@pytest.mark.parametrize(
    ("row", "name", "group"),
    [
        ("head", "label", "head"),
        ("CPU worker", "label", "cpu"),
        ("GPU worker", "train", "gpu"),
        ("worker of a service", "serve", "cpu"),
    ],
)
def test_pods_have_the_size_that_the_page_says_and_fit_its_node(row, name, group, pod):
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    pattern = rf"^\| {row} \| (\d+) \| (\d+) GiB \| (\d+) GiB \| ([\w.]+)"
    ((cpus, memory, disk, node),) = re.findall(pattern, page, re.MULTILINE)
    requests = pod["containers"][0]["resources"]["requests"]
    assert requests["cpu"] == cpus
    assert (requests["memory"], requests["ephemeral-storage"]) == (f"{memory}Gi", f"{disk}Gi")
    # Half a CPU and 512 MiB remain for the pods that every node has. Beside the head are the
    # autoscaler and the submitter.
    beside = 2 if group == "head" else 0
    most_cpus, most_memory = NODES[node]
    assert int(cpus) + 0.2 * beside + 0.5 <= most_cpus
    assert 1024 * int(memory) + 512 * beside + 512 <= most_memory


@pods("cpu", "gpu")
def test_pods_outlive_the_draining_of_their_node(name, group, pod):
    from ray._private.ray_constants import RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S

    # Less than the two minutes that a preempted node has.
    assert RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S < pod["terminationGracePeriodSeconds"] < 120


def test_the_disk_of_a_head_is_limited():
    """The volume that KubeRay mounts there at ``/tmp/ray`` has no limit of its own."""
    resources = pod_templates("label")["head"]["spec"]["containers"][0]["resources"]
    assert resources["limits"]["ephemeral-storage"] == resources["requests"]["ephemeral-storage"]


@pods()
def test_pods_go_to_their_pool(name, group, pod):
    pool = pod["nodeSelector"]["fer-on-ray/pool"]
    tolerated = {toleration["key"] for toleration in pod.get("tolerations", ())}
    has_gpu = "nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]
    is_worker = group in ("cpu", "gpu")
    assert pool == (group if is_worker else "head")
    assert has_gpu == (group == "gpu") == ("nvidia.com/gpu" in tolerated)
    on_spot = name in ("train", "label-spot", "nightly", "standing") and is_worker
    assert ("fer-on-ray/spot" in tolerated) == on_spot
    assert ("affinity" in pod) == on_spot


@pods("head", "cpu", "gpu")
def test_probes_ask_the_agent_of_the_node(name, group, pod):
    (container,) = pod["containers"]
    alive = {"path": "/api/healthz", "port": 52365}
    assert container["startupProbe"]["httpGet"] == container["livenessProbe"]["httpGet"] == alive
    answers = name.startswith("serve") and group == "cpu"
    ready = {"path": "/-/healthz", "port": 8000} if answers else alive
    assert container["readinessProbe"]["httpGet"] == ready
    for kind in ("startupProbe", "livenessProbe"):
        probe = container[kind]
        assert probe["failureThreshold"] * probe["periodSeconds"] >= 300


def test_rays_agent_answers_the_probes_without_a_token():
    from ray.dashboard.http_server_agent import PUBLIC_EXACT_PATHS

    assert "/api/healthz" in PUBLIC_EXACT_PATHS


@pods("head", "cpu", "gpu")
def test_version_2_of_the_autoscaler_never_restarts_containers(name, group, pod):
    assert pod["restartPolicy"] == "Never"


@pods("submitter", "submit")
def test_submitters_end(name, group, pod):
    assert pod["restartPolicy"] == "Never"


@pods()
def test_every_pod_of_a_service_gets_the_token(name, group, pod):
    (container,) = pod["containers"]
    names = [variable["name"] for variable in container.get("env", ())]
    assert ("FER_API_TOKEN" in names) == name.startswith("serve")


@pods()
def test_secrets_are_named_and_not_contained(name, group, pod):
    for variable in pod["containers"][0].get("env", ()):
        if "TOKEN" in variable["name"] or "PASSWORD" in variable["name"]:
            assert "secretKeyRef" in variable["valueFrom"]
            assert "value" not in variable


def test_the_namespace_refuses_pods_with_rights():
    manifests = {item["kind"]: item for item in build("namespace")}
    labels = manifests["Namespace"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    account = manifests["ServiceAccount"]
    assert account["imagePullSecrets"] == [{"name": "registry-credentials"}]
    assert "eks.amazonaws.com/role-arn" in account["metadata"]["annotations"]
    assert account["automountServiceAccountToken"] is False
