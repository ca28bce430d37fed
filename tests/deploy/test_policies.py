"""What reaches the pods, what may move them, and what a policy linter says of the overlays."""

import json
import shutil
import subprocess
from collections import defaultdict

import pytest
import yaml
from manifests import PODS, as_started, build, overlay, pod_templates

ALLOWED = {
    # A pod without a limit uses what its node has left; one with a limit is slowed down at it.
    "CKV_K8S_11": {"head", "cpu", "gpu", "submitter", "submit"},
    # Images are named by version, or by the digest that a team pins (CKV_K8S_43).
    "CKV_K8S_15": {"head", "cpu", "gpu", "submitter", "submit"},
    "CKV_K8S_43": {"head", "cpu", "gpu", "submitter", "submit"},
    # Submitters end by themselves, and KubeRay gives its autoscaler, on the head, no probes.
    "CKV_K8S_8": {"head", "submitter"},
    "CKV_K8S_9": {"head", "submitter"},
    # Ray and the API take their tokens from the environment.
    "CKV_K8S_35": {"head", "cpu", "submit"},
    # The autoscaler calls the Kubernetes API.
    "CKV_K8S_38": {"head"},
}
"""What checkov reports and is meant so: each check with the kinds of pods that it names."""


def named(kind, *folders):
    """Return the manifests of a kind by their names."""
    items = [item for folder in folders for item in build(folder)]
    return {item["metadata"]["name"]: item["spec"] for item in items if item["kind"] == kind}


def selects(selector, labels):
    """Tell whether a selector of labels, of the form that is used here, matches a pod."""
    exists = {expression["key"] for expression in selector.get("matchExpressions", ())}
    return selector.get("matchLabels", {}).items() <= labels.items() and exists <= labels.keys()


def labels_of(name, group):
    return pod_templates(name)[group]["metadata"]["labels"]


# Network.


def test_everything_is_denied_first():
    policy = named("NetworkPolicy", "namespace")["deny-all"]
    assert policy == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_all_pods_may_talk_to_each_other_and_to_nobody_else():
    policy = named("NetworkPolicy", "namespace")["ray"]
    for name, groups in PODS.items():
        for group in groups:
            assert selects(policy["podSelector"], labels_of(name, group)), (name, group)
    among, operator, metrics = policy["ingress"]
    assert among == {"from": [{"podSelector": policy["podSelector"]}]}
    for rule in (operator, metrics):
        assert all("namespaceSelector" in source for source in rule["from"])
        assert rule["ports"]


def test_pods_reach_stores_but_not_the_metadata_service():
    rules = named("NetworkPolicy", "namespace")["ray"]["egress"]
    (block,) = [rule["to"][0]["ipBlock"] for rule in rules if "ipBlock" in rule["to"][0]]
    assert block == {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}
    assert [port for rule in rules for port in rule.get("ports", ())] == [
        {"port": 53, "protocol": "UDP"},
        {"port": 53, "protocol": "TCP"},
        {"port": 443},
        {"port": 6443},
    ]


@pytest.mark.parametrize("name", ["serve", "serve-ha"])
def test_clients_reach_the_pods_that_answer_and_no_head(name):
    policies = named("NetworkPolicy", f"overlays/{name}")
    entrances = {"serve": {"serve"}, "serve-ha": {"serve", "serve-from-gateway"}}[name]
    for entrance in entrances:
        policy = policies[entrance]
        assert selects(policy["podSelector"], labels_of(name, "cpu"))
        assert not selects(policy["podSelector"], labels_of(name, "head"))
        assert [rule["ports"] for rule in policy["ingress"]] == [[{"port": 8000}]]


def test_fault_tolerance_may_reach_redis():
    policy = named("NetworkPolicy", "overlays/serve-ha")["redis"]
    assert selects(policy["podSelector"], labels_of("serve-ha", "head"))
    assert policy["egress"][0]["ports"] == [{"port": 6379}]


# Disruption.


def test_no_head_is_evicted_unless_its_state_is_kept():
    budget = named("PodDisruptionBudget", "namespace")["heads"]
    # Kubernetes takes no percentage here: KubeRay's pods have no controller that it knows.
    assert budget["minAvailable"] == 1000
    for name in PODS:
        head = pod_templates(name)["head"]["metadata"]
        assert selects(budget["selector"], head["labels"]) == (name != "serve-ha")


def test_nodes_are_not_taken_from_heads_and_from_workers_of_jobs():
    """Karpenter and the cluster autoscaler would, to pack pods onto fewer or cheaper nodes."""
    stay = {
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }
    for name, groups in PODS.items():
        for group in set(groups) - {"submitter", "submit"}:
            is_moved = name == "serve-ha" or (name == "serve" and group == "cpu")
            annotations = pod_templates(name)[group]["metadata"].get("annotations", {})
            assert annotations == ({} if is_moved else stay), (name, group)


def test_one_pod_that_answers_is_left():
    budget = named("PodDisruptionBudget", "namespace")["serve"]
    assert budget["minAvailable"] == 1
    for name, groups in PODS.items():
        for group in groups:
            answers = name.startswith("serve") and group == "cpu"
            assert selects(budget["selector"], labels_of(name, group)) == answers


def test_pods_that_answer_spread_over_nodes_and_zones():
    constraints = pod_templates("serve")["cpu"]["spec"]["topologySpreadConstraints"]
    assert [constraint["topologyKey"] for constraint in constraints] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]
    for constraint in constraints:
        assert selects(constraint["labelSelector"], labels_of("serve", "cpu"))


# A policy linter.


@pytest.fixture(scope="module")
def checkov():
    found = shutil.which("checkov")
    if found is None:
        pytest.skip("checkov is not installed: pipx install checkov brings it")

    def run(folder, manifests):
        (folder / "manifests.yaml").write_text(yaml.safe_dump_all(manifests))
        done = subprocess.run(
            [found, "--framework", "kubernetes", "-d", str(folder), "-o", "json"],
            capture_output=True,
            text=True,
            check=False,
        )
        return json.loads(done.stdout)

    return run


def everything():
    """Return what Kubernetes gets: the manifests, and the pods in place of KubeRay's resources."""
    manifests = [*build("namespace")]
    for name, groups in PODS.items():
        manifests += [item for item in overlay(name) if not item["apiVersion"].startswith("ray.io")]
        manifests += [as_started(name, group) for group in groups if group != "submit"]
    return manifests


def kind_of(resource):
    """Return the kind of pod that checkov names: ``head`` for ``Pod.fer-on-ray.label-head``."""
    name = resource.rpartition(".")[2]
    return "submit" if name == "fer-nightly-submit" else name.rpartition("-")[2]


def test_checkov_finds_only_what_is_meant_so(checkov, tmp_path):
    report = checkov(tmp_path, everything())
    found = defaultdict(set)
    for check in report["results"]["failed_checks"]:
        found[check["check_id"]].add(kind_of(check["resource"]))
    assert report["summary"]["passed"] > 1000
    assert report["summary"]["parsing_errors"] == 0
    assert found == ALLOWED


def test_checkov_finds_rights(checkov, tmp_path):
    pod = as_started("label", "cpu")
    pod["spec"] = {**pod["spec"], "hostNetwork": True, "securityContext": {}}
    report = checkov(tmp_path, [pod])
    found = {check["check_id"] for check in report["results"]["failed_checks"]}
    assert {"CKV_K8S_19", "CKV_K8S_31"} <= found
