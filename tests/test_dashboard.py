"""Metrics: named by Prometheus' conventions, documented, and shown by the dashboard."""

import json
import re
import sys
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from ray_jobs.cluster.metrics import MAX_OBSERVED, METRICS, Histogram, stride

ROOT = Path(__file__).parents[1]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "fer.json").read_text())
ALERTS = ROOT / "deploy" / "kubernetes" / "monitoring" / "alerts.yaml"
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ADDED_BY_RAY = {"le"}
"""Labels that the dashboard uses and that no metric declares."""

UNITS = ("_seconds", "_bytes", "_ratio", "_images", "_faces", "_loss", "_per_second", "_workers")


def expressions():
    """Every PromQL expression that users meet, with Grafana's variables filled in."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m")
    (group,) = yaml.safe_load(ALERTS.read_text())["spec"]["groups"]
    for rule in group["rules"]:
        # tests/deploy/test_monitoring.py checks those that read the metrics of others.
        if "ray_fer_" in rule["expr"]:
            yield rule["alert"], rule["expr"]


def exported(metric):
    """Return the names under which Prometheus stores a metric."""
    name = metric.exported_name
    return (
        {f"{name}{end}" for end in ("_bucket", "_count")} if metric.kind == "histogram" else {name}
    )


EXPORTED = {name: metric for metric in METRICS for name in exported(metric)}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_the_conventions(metric):
    assert re.fullmatch(r"fer_(ingest|label|train|serve)_[a-z0-9_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    if metric.kind != "counter":
        assert metric.name.endswith(UNITS)
    assert not metric.description.endswith(".")
    if isinstance(metric, Histogram):
        assert [*metric.bounds] == sorted(set(metric.bounds))


def test_names_are_distinct():
    assert len({metric.name for metric in METRICS}) == len(METRICS) > 20


def test_the_docs_have_the_table(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import metrics

    assert metrics.table() in metrics.PAGE.read_text(), "run python scripts/metrics.py"
    assert metrics.updated(metrics.PAGE.read_text()) == metrics.PAGE.read_text()
    sys.modules.pop("metrics")


@pytest.mark.parametrize(("where", "expression"), [*expressions()])
def test_expressions_use_metrics_and_labels_that_exist(where, expression):
    names = set(re.findall(r"\bray_\w+", expression))
    assert names
    assert names <= EXPORTED.keys(), where
    tags = {tag for name in names for tag in EXPORTED[name].tags} | ADDED_BY_RAY
    groups = re.findall(r"\b(?:by|ignoring) \(([\w, ]+)\)", expression)
    labels = {label for group in groups for label in group.split(", ")}
    labels |= set(re.findall(r"[{,]\s*(\w+)=", expression))
    assert labels <= tags, where


@pytest.mark.parametrize(("where", "expression"), [*expressions()])
def test_expressions_parse(where, expression):
    parser = pytest.importorskip("promql_parser", reason="promql-parser is not installed")
    assert parser.parse(expression), where


def test_a_damaged_expression_does_not_parse():
    parser = pytest.importorskip("promql_parser", reason="promql-parser is not installed")
    with pytest.raises(ValueError, match="."):
        parser.parse("sum by (le (rate(x[5m]))")


def test_every_metric_is_shown():
    shown = {
        name for _, expression in expressions() for name in re.findall(r"\bray_\w+", expression)
    }
    for metric in METRICS:
        assert exported(metric) & shown, metric.name


def test_variables_are_filled_from_labels_that_exist():
    for variable in DASHBOARD["templating"]["list"][1:]:
        name, label = re.fullmatch(
            r"label_values\((\w+), (\w+)\)", variable["query"]["query"]
        ).groups()
        assert label in EXPORTED[name].tags
        assert f"${variable['name']}" in json.dumps(PANELS)


def test_panels_do_not_overlap_and_name_the_chosen_prometheus():
    cells = {
        panel["id"]: {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        for panel in DASHBOARD["panels"]
        if (place := panel["gridPos"])
    }
    assert len(cells) == len(DASHBOARD["panels"])
    assert not any(one & other for one, other in combinations(cells.values(), 2))
    assert max(x for panel in cells.values() for x, _ in panel) == 23
    for panel in PANELS:
        assert {
            source["uid"] for source in (panel["datasource"], panel["targets"][0]["datasource"])
        } == {"${datasource}"}


@pytest.mark.parametrize("number", [0, 1, 63, 64, 65, 128, 129, 4096, 100_000])
def test_at_most_so_many_faces_are_observed(number):
    sample = range(number)[:: stride(number)]
    assert len(sample) <= MAX_OBSERVED
    assert len(sample) >= min(number, MAX_OBSERVED / 2)
