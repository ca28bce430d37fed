"""What Prometheus reads of the pods, and the alerts: their metrics exist, and they fire."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from manifests import FOLDER, PODS, ROOT, build, pod_templates

RULES = yaml.safe_load((FOLDER / "monitoring" / "alerts.yaml").read_text())["spec"]
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}

FOREIGN = {
    "kuberay_job_info": {"name", "namespace"},
    "kuberay_job_deployment_status": {"name", "namespace", "deployment_status"},
    "kuberay_service_condition_ready": {"name", "namespace", "condition"},
    "kube_cronjob_created": {"cronjob", "namespace"},
    "kube_cronjob_status_last_successful_time": {"cronjob", "namespace"},
}
"""Metrics of KubeRay and kube-state-metrics with their labels, as their documentation has them."""


def monitor():
    (found,) = [item for item in build("monitoring") if item["kind"] == "PodMonitor"]
    return found["spec"]


def head_ports():
    ports = pod_templates("label")["head"]["spec"]["containers"][0]["ports"]
    return {port["name"]: port["containerPort"] for port in ports}


def test_prometheus_finds_both_by_their_label():
    for item in build("monitoring"):
        assert item["metadata"]["labels"] == {"release": "prometheus"}
        assert item["metadata"]["namespace"] == "fer-on-ray"


def test_prometheus_reads_the_metrics_of_all_ray_pods():
    read = {endpoint["port"] for endpoint in monitor()["podMetricsEndpoints"]}
    labels = monitor()["selector"]["matchLabels"].items()
    for name, groups in PODS.items():
        for group in set(groups) - {"submitter", "submit"}:
            pod = pod_templates(name)[group]
            named = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
            assert labels <= pod["metadata"]["labels"].items()
            assert read & named == (read if group == "head" else {"metrics"})


def test_the_network_lets_prometheus_read_them():
    (policy,) = [item for item in build("namespace") if item["metadata"]["name"] == "ray"]
    allowed = {rule["port"] for rule in policy["spec"]["ingress"][-1]["ports"]}
    read = [endpoint["port"] for endpoint in monitor()["podMetricsEndpoints"]]
    assert {head_ports()[name] for name in read} == allowed


def test_rays_processes_export_at_these_ports():
    from ray.autoscaler._private.constants import AUTOSCALER_METRIC_PORT
    from ray.dashboard.consts import DASHBOARD_METRIC_PORT

    assert head_ports()["as-metrics"] == AUTOSCALER_METRIC_PORT
    assert head_ports()["dash-metrics"] == DASHBOARD_METRIC_PORT


@pytest.mark.parametrize("name", ALERTS)
def test_alerts_read_metrics_and_labels_that_exist(name):
    expression = ALERTS[name]["expr"]
    names = set(re.findall(r"\b(?:kube|kuberay)_\w+", expression))
    # tests/test_dashboard.py checks the metrics of fer.
    assert names <= FOREIGN.keys()
    assert names or "ray_fer_" in expression
    known = {label for name in names for label in FOREIGN[name]}
    assert set(re.findall(r"[{,]\s*(\w+)=", expression)) <= known | {"le"}


@pytest.mark.parametrize("name", ALERTS)
def test_alerts_parse_and_say_what_happened(name):
    parser = pytest.importorskip("promql_parser", reason="promql-parser is not installed")
    assert parser.parse(ALERTS[name]["expr"])
    assert ALERTS[name]["annotations"]["summary"].endswith(".")


def test_alerts_are_about_what_the_overlays_start():
    started = [item["metadata"]["name"] for name in PODS for item in build(f"overlays/{name}")]
    # KubeRay appends five letters to the runs of a RayCronJob.
    started += [f"{name}-abcde" for name in started]
    for alert in ALERTS.values():
        for pattern in re.findall(r'(?:name|cronjob)=~?"(.+?)"', alert["expr"]):
            assert any(re.fullmatch(pattern, name) for name in started), pattern


def test_the_page_lists_the_alerts():
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert re.findall(r"^\| `(Fer\w+)` ", page, re.MULTILINE) == [*ALERTS]


def test_alerts_fire(tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus brings it")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULES))
    played = (Path(__file__).parent / "alerts.yaml").read_text()
    (tmp_path / "tests.yaml").write_text(played)
    done = subprocess.run(
        [promtool, "test", "rules", "tests.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"alertname: (\w+)", played)) == ALERTS.keys()
