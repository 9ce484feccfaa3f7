"""The rules that are shipped: Prometheus takes them, each fires when it should, each figure is one that /metrics has, each is documented."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from config.settings import CHECKOUT
from pipeline.alerts import KINDS
from pipeline.metrics import LatencyHistogram, MetricsSnapshot, render_metrics

RULES = CHECKOUT / "config" / "prometheus-rules.yml"
TESTS = [Path(__file__).parent / "data" / name for name in ("prometheus-rules-test.yml", "prometheus-rules-days-test.yml")]
OPERATING = (CHECKOUT / "docs" / "operating.md").read_text()
promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed (Debian: apt-get install prometheus)")


def rules() -> list[dict]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *words], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@promtool
def test_prometheus_takes_the_rules():
    """`promtool check rules` finds nothing wrong."""
    found = run("check", "rules", str(RULES), folder=CHECKOUT)
    assert found.returncode == 0, found.stdout + found.stderr
    assert f"{len(rules())} rules found" in found.stdout


@promtool
def test_each_rule_fires_when_it_should(tmp_path: Path):
    """`promtool test rules` on series that cross each limit; with one limit changed it fails, so it can."""
    shutil.copy(RULES, tmp_path)
    for path in TESTS:
        shutil.copy(path, tmp_path)
    found = run("test", "rules", *(path.name for path in TESTS), folder=tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr
    (tmp_path / RULES.name).write_text(RULES.read_text().replace("> 93600", "> 99999"))
    assert run("test", "rules", TESTS[0].name, folder=tmp_path).returncode != 0


def test_every_rule_is_tested():
    """Each has a case in which it fires."""
    cases = [case for path in TESTS for test in yaml.safe_load(path.read_text())["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == {rule["alert"] for rule in rules()}


def test_every_figure_is_one_that_metrics_have():
    """A misspelt figure would never fire, and labels that it does not have would match nothing."""
    snapshot = MetricsSnapshot(
        deliveries=[("mail", "applied", "given", 1)],
        dead_letters=[("mail", "withdrawn", "http_400", 1)],
        oldest_untold_withdrawal_seconds={"mail": 1.0},
        last_beat_seconds=1.0,
        accept_to_told=LatencyHistogram(buckets=[(1.0, 1)], count=1),
        waiting=[("mail", "given", 1)],
        breaker_open={"shop": True},
        paused={"mail": True},
        last_heard_seconds={"hub": 1.0},
        key_expires_in_days={"mail": 1},
        quarantined=True,
        ready=True,
        last_backup_seconds=1.0,
        drift=[("mail", "full", "missing", 1)],
    )
    known: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(render_metrics(snapshot).decode()):
        for sample in family.samples:
            known.setdefault(sample.name, set()).update(sample.labels)
    for rule in rules():
        names = re.findall(r"consent_[a-z_]+", rule["expr"])
        assert names, rule["alert"]
        assert set(names) <= known.keys(), rule["alert"]
        wanted = set(re.findall(r"\b([a-z_]+)=~?\"", rule["expr"])) | {
            word.strip() for by in re.findall(r"by \(([^)]*)\)", rule["expr"]) for word in by.split(",")
        }
        assert wanted - {"job"} <= set.union(*(known[name] for name in names)), rule["alert"]


def test_every_alert_is_documented():
    """Those of the rules and those that are logged and posted."""
    for name in [*(rule["alert"] for rule in rules()), *KINDS]:
        assert f"`{name}`" in OPERATING, name


def test_every_alert_that_is_logged_has_words():
    """What the code logs as an alert is one of the kinds that a receiver is told in words."""
    logged = set()
    for path in [*CHECKOUT.glob("pipeline/**/*.py"), *CHECKOUT.glob("workers/**/*.py")]:
        logged.update(re.findall(r"\"alert\": \"([a-z_]+)\"", path.read_text()))
        logged.update(re.findall(r"\balert=\"([a-z_]+)\"", path.read_text()))
    assert logged - KINDS.keys() == set(), "say in pipeline/alerts.py and in docs/operating.md (Alerts) what these mean"
    assert len(logged) > 5
