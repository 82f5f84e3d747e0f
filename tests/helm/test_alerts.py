"""promtool over the rules, a runbook for each, and no metric in rules, dashboard or scaler that nobody exposes."""

import ast
import json
import re
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY, generate_latest

from tests.helm.chart import CHART, one, render
from tests.helm.tools import promtool

with warnings.catch_warnings():
    # vLLM and torch warn, while they are imported, of what others deprecated.
    warnings.simplefilter("ignore")
    from polyad.serve.engine import metrics

ALERTS = yaml.safe_load((CHART / "files/alerts.yaml").read_text())
NAMES = [rule["alert"] for group in ALERTS["groups"] for rule in group["rules"]]
_METRIC = re.compile(r"\b(?:polyad_|vllm:)[a-z_]+")
_SUFFIX = re.compile(r"_(bucket|sum|count|total)$")


def exposed() -> set[str]:
    """polyad's series by the objects that make them, vLLM's by the source that does."""
    ours = {metric._name for metric in vars(metrics).values() if hasattr(metric, "_name")}
    spec = find_spec("vllm.v1.metrics")
    assert spec, "vLLM is missing"
    source = (Path(str((spec.submodule_search_locations or [""])[0])) / "loggers.py").read_text()
    names = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return ours | {name for name in names if isinstance(name, str) and name.startswith("vllm:")}


def used(text: str) -> set[str]:
    return {_SUFFIX.sub("", name) for name in _METRIC.findall(text)}


def test_rules_are_right_by_promtool() -> None:
    done = promtool().run("check", "rules", "--lint-fatal", CHART / "files/alerts.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(NAMES)} rules found" in done.stdout


def test_every_alert_fires_when_it_should_and_not_in_quiet(tmp_path: Path) -> None:
    shutil.copy(CHART / "files/alerts.yaml", tmp_path)
    cases = Path(__file__).parent / "alerts_test.yaml"
    shutil.copy(cases, tmp_path)
    done = promtool().run("test", "rules", tmp_path / cases.name)
    assert done.returncode == 0, done.stdout + done.stderr
    for case in yaml.safe_load(cases.read_text())["tests"]:
        assert {test["alertname"] for test in case["alert_rule_test"]} == set(NAMES)


def test_what_the_server_exposes_is_right_by_promtool() -> None:
    ours = [metric for metric in REGISTRY.collect() if metric.name.startswith("polyad_")]
    assert {metric.name for metric in ours} == {name for name in exposed() if name.startswith("polyad_")}
    text = generate_latest().decode()
    done = promtool().run("check", "metrics", stdin="".join(_lines_of(text, "polyad_")))
    assert done.returncode == 0, done.stdout + done.stderr


def _lines_of(text: str, prefix: str) -> list[str]:
    # prometheus_client's own `_created` gauges are a part of its protocol, not of ours.
    kept, keep = [], False
    for line in text.splitlines(keepends=True):
        if line.startswith("# HELP"):
            keep = line.split()[2].startswith(prefix) and not line.split()[2].endswith("_created")
        if keep:
            kept.append(line)
    return kept


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_has_a_runbook(name: str) -> None:
    page = (CHART / "runbooks" / f"{name}.md").read_text()
    assert page.startswith(f"# {name}\n")
    assert all(f"**{part}.**" in page for part in ("Means", "See", "Mend"))
    for other in re.findall(r"\]\(([^)]+)\)", page):
        assert (CHART / "runbooks" / other).exists(), other


def test_no_runbook_without_an_alert() -> None:
    assert {page.stem for page in (CHART / "runbooks").iterdir()} == set(NAMES)


def test_runbooks_name_panels_and_values_that_exist() -> None:
    panels = {panel["title"] for panel in json.loads((CHART / "files/dashboard.json").read_text())["panels"]}
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for page in (CHART / "runbooks").iterdir():
        text = " ".join(page.read_text().split())
        for sentence in re.findall(r"[Pp]anels? ((?:\"[^\"]+\"(?:, | and )?)+)", text):
            assert set(re.findall(r'"([^"]+)"', sentence)) <= panels, page.name
        for path in re.findall(r"`((?:settings|model|networkPolicy|autoscaling|gpu)\.[A-Za-z_.]+)`", text):
            part: Any = values
            for step in path.split("."):
                assert step in part, (page.name, path)
                part = part[step]


def test_rules_and_dashboard_use_metrics_that_exist() -> None:
    known = exposed()
    for file in ("alerts.yaml", "dashboard.json"):
        found = used((CHART / "files" / file).read_text())
        assert len(found) > 5
        assert found <= known, found - known


@pytest.mark.parametrize("kind", ["hpa", "keda"])
def test_scalers_use_metrics_that_exist(kind: str) -> None:
    manifests = render({"autoscaling": {"kind": kind, "keda": {"prometheus": "http://p"}}})
    scaler = one(manifests, {"hpa": "HorizontalPodAutoscaler", "keda": "ScaledObject"}[kind])
    found = used(json.dumps(scaler["spec"]))
    assert found == {"vllm:num_requests_waiting", "vllm:num_requests_waiting_by_reason"}
    assert found <= exposed()


def test_queries_of_dashboard_and_scaler_are_promql(tmp_path: Path) -> None:
    panels = json.loads((CHART / "files/dashboard.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    scaled = one(render({"autoscaling": {"kind": "keda", "keda": {"prometheus": "http://p"}}}), "ScaledObject")
    queries += [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    rules = [
        {"record": f"q{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries)
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "q", "rules": rules}]}))
    done = promtool().run("check", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_cluster_gets_the_same_rules_and_dashboard() -> None:
    manifests = render({"prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}})
    assert one(manifests, "PrometheusRule")["spec"] == ALERTS
    shipped = one(manifests, "ConfigMap")["data"]["polyad.json"]
    assert json.loads(shipped) == json.loads((CHART / "files/dashboard.json").read_text())
