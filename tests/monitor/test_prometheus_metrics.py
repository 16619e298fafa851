"""What Prometheus and Grafana get: every exported name, and that dashboard and rules use no other."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import make_canary
import other_server
import pytest

pytest.importorskip("prometheus_client")
pytest.importorskip("httpx")

from prometheus_client.parser import text_string_to_metric_families
from watch_server import checks, good

from bitzones.monitor import dashboards, prometheus_metrics
from bitzones.monitor.records import DomainShadow, DriftFeature, DriftWindow, ShadowBatch
from bitzones.monitor.state import opened
from bitzones.schema.activation_record import RuleWatch, ThresholdReading
from bitzones.schema.errors import ArgumentError

NAME = re.compile(r"\bbitzones_[a-z_]+")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of everything: an enrolled server that broke, drift, a shadowed domain, a threshold."""
    folder = tmp_path_factory.mktemp("state")
    manners = good()
    with other_server.running(manners) as url:
        checks(folder, url, 2)
        manners.predict = partial(make_canary.predict, scale=1.1)
        checks(folder, url, 1)
    feature = DriftFeature(name="characters", requests=60, distance=0.25, p=0.0, p_adjusted=0.0, typical=9, expected=80, drifted=True)
    domain = DomainShadow(
        domain="law", prompts=30, tokens=900, kl_nats=0.2, low=0.1, high=0.3, bound_nats=0.06, evidence=9, peak=9, alarm=True
    )
    rule = RuleWatch(
        rule="magnitude above 4.0", statistic="magnitude", threshold=4, verdict="holds", flagged_in_run=(1,), flagged=(1, 2), crossed=()
    )
    with opened(folder / "monitor.sqlite") as kept:
        kept.record(DriftWindow(number=1, at="2026-11-30T12:00:00+00:00", requests=60, alpha=0.005, features=(feature,)))
        kept.record(ShadowBatch(number=1, at="2026-11-30T12:00:00+00:00", rate=0.01, requests=3000, sampled=30, domains=(domain,)))
        kept.record(ThresholdReading(at="2026-11-30T12:00:00+00:00", rate=0.1, passes=50, sampled=5, rules=(rule,)))
    return folder / "monitor.sqlite"


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Name and label values -> value, as Prometheus itself reads them."""
    return {(one.name, *one.labels.values()): one.value for family in text_string_to_metric_families(text) for one in family.samples}


def test_every_metric_is_exported_with_its_value(state: Path, tmp_path: Path) -> None:
    prometheus_metrics.write(state, tmp_path / "bitzones.prom")
    found = samples((tmp_path / "bitzones.prom").read_text(encoding="utf-8"))
    assert {name for name, *_ in found} == {item.exported for item in prometheus_metrics.METRICS}
    assert found["bitzones_monitor_checks_total", "check"] == 2
    assert found["bitzones_monitor_prompts_total", "answered"] == 60
    assert found["bitzones_canary_alarm", "plan"] == 1
    assert found["bitzones_canary_evidence_needed_nats",] == pytest.approx(7.6, abs=0.01)
    assert found["bitzones_drift_distance", "characters", "log"] == 0.25
    assert found["bitzones_shadow_alarm", "law"] == 1
    assert found["bitzones_activation_flagged_layers", "magnitude above 4.0", "holds"] == 2


def test_a_state_that_is_not_there_exports_nothing(tmp_path: Path) -> None:
    prometheus_metrics.write(tmp_path / "none", tmp_path / "out.prom")
    assert (tmp_path / "out.prom").read_text(encoding="utf-8") == ""
    assert not (tmp_path / "none").exists()


def test_metrics_are_served_on_loopback_while_the_state_is_written(state: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with opened(state), prometheus_metrics.served(state, port):
        with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            found = samples(answer.read().decode())
        with pytest.raises(ArgumentError, match=str(port)), prometheus_metrics.served(state, port):
            pass
    assert found["bitzones_canary_alarm", "plan"] == 1


def exported() -> set[str]:
    return {item.exported for item in prometheus_metrics.METRICS}


def test_the_dashboard_asks_for_names_and_labels_that_are_exported() -> None:
    found = json.loads(dashboards.asset("grafana.json"))
    labels = {item.exported: set(item.labels) for item in prometheus_metrics.METRICS}
    targets = [target for panel in found["panels"] for target in panel["targets"]]
    used = set()
    for target in targets:
        (name,) = set(NAME.findall(target["expr"]))
        used.add(name)
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels[name], target
    assert used == exported(), "every metric has its place on the dashboard"
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])
    places = [
        (panel["gridPos"]["x"] + n, panel["gridPos"]["y"] + m)
        for panel in found["panels"]
        for n in range(panel["gridPos"]["w"])
        for m in range(panel["gridPos"]["h"])
    ]
    assert len(set(places)) == len(places), "no panel lies on another"
    assert max(x for x, _ in places) < 24


def test_the_alert_rules_ask_for_names_that_are_exported() -> None:
    expressions = re.findall(r"^ +expr: (.+)$", dashboards.asset("alerts.yml"), re.MULTILINE)
    assert len(expressions) == len(re.findall(r"- alert:", dashboards.asset("alerts.yml"))) == 5
    used = {name for expression in expressions for name in NAME.findall(expression)}
    assert used <= exported()
    assert {name for name in exported() if name.endswith("_alarm")} <= used


def test_promtool_takes_the_rules(tmp_path: Path) -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed")
    for place in dashboards.write_assets(tmp_path):
        assert place.is_file()
    subprocess.run([promtool, "check", "rules", str(tmp_path / "alerts.yml")], check=True, capture_output=True)
