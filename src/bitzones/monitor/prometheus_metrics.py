"""The state as Prometheus metrics: read from the file at each scrape, so that a restart loses no counter.

`METRICS` is the one list of names. The dashboard and the alert rules beside this module may use no others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bitzones.monitor.canary import ALPHA, TESTS
from bitzones.monitor.overview import Overview, overview
from bitzones.monitor.state import opened
from bitzones.schema.errors import ArgumentError, OutputError
from bitzones.schema.files import write_text
from bitzones.stats.e_process import evidence_needed

__all__ = ["METRICS", "MetricName", "StateCollector", "families", "served", "write"]


@dataclass(frozen=True)
class MetricName:
    """A metric family; a counter is exported with ``_total`` behind its name."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    labels: tuple[str, ...] = ()

    @property
    def exported(self) -> str:
        return f"{self.name}_total" if self.kind == "counter" else self.name


METRICS = (
    MetricName("bitzones_monitor_checks", "counter", "Canary checks that were finished.", ("kind",)),
    MetricName("bitzones_monitor_prompts", "counter", "Canary prompts, answered or by the reason why not.", ("outcome",)),
    MetricName("bitzones_monitor_retries", "counter", "Tries of canary prompts beyond the first."),
    MetricName("bitzones_monitor_outages", "counter", "Checks that stopped because the server did not answer."),
    MetricName("bitzones_monitor_last_check_timestamp_seconds", "gauge", "When the last canary check was finished."),
    MetricName("bitzones_canary_deviation_nats", "gauge", "Mean deviation in the last check.", ("test",)),
    MetricName("bitzones_canary_bound_nats", "gauge", "Largest mean deviation of a good server.", ("test",)),
    MetricName("bitzones_canary_evidence_nats", "gauge", "Evidence against the bound, a logarithm.", ("test",)),
    MetricName("bitzones_canary_evidence_needed_nats", "gauge", "Evidence at which there is an alarm."),
    MetricName("bitzones_canary_alarm", "gauge", "1 from an alarm of the canary until the server is enrolled again.", ("test",)),
    MetricName("bitzones_drift_requests", "counter", "Requests read from the log, well formed or not.", ("outcome",)),
    MetricName("bitzones_drift_distance", "gauge", "Distance of the last window from the sensitivity set.", ("source", "feature")),
    MetricName("bitzones_drift_alarm", "gauge", "1 where the last window drifted.", ("source", "feature")),
    MetricName("bitzones_shadow_prompts", "gauge", "Requests computed by both models.", ("domain",)),
    MetricName("bitzones_shadow_kl_nats", "gauge", "KL of the reference to the served model per token.", ("domain",)),
    MetricName("bitzones_shadow_bound_nats", "gauge", "KL above which a domain should be calibrated on.", ("domain",)),
    MetricName("bitzones_shadow_alarm", "gauge", "1 where a domain should be calibrated on.", ("domain",)),
    MetricName("bitzones_activation_flagged_layers", "gauge", "Layers beyond a rule's threshold.", ("rule", "verdict")),
    MetricName("bitzones_activation_crossed_layers", "gauge", "Layers on another side of it than in the run.", ("rule", "verdict")),
)


class StateCollector(Collector):
    """Collects from a state's file, which another process may be writing."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def collect(self) -> Iterator[Metric]:
        """Every family; none while there is no state."""
        with suppress(OutputError), opened(self._path, alone=False) as state:
            yield from families(overview(state))


def families(found: Overview) -> Iterator[Metric]:
    """All metrics of an overview, in the order of `METRICS`."""
    values = _values(found)
    for item in METRICS:
        family = (CounterMetricFamily if item.kind == "counter" else GaugeMetricFamily)(item.name, item.help, labels=item.labels)
        for labels, value in values[item.name].items():
            family.add_metric(labels, value)
        yield family


Samples = dict[tuple[str, ...], float]


def _values(found: Overview) -> dict[str, Samples]:
    """Metric -> its samples by label values."""
    tests, last = found.tests, found.checks[-1] if found.checks else None
    drifted = {(window.source, item.name): item for window in found.last_windows for item in window.features}
    domains = found.shadows[-1].domains if found.shadows else ()
    rules = found.thresholds[-1].rules if found.thresholds else ()
    return {
        "bitzones_monitor_checks": {(kind,): found.checks_made.get(kind, 0) for kind in ("enroll", "check")},
        "bitzones_monitor_prompts": {(outcome,): count for outcome, count in {"answered": 0, **found.prompts}.items()},
        "bitzones_monitor_retries": {(): found.retries},
        "bitzones_monitor_outages": {(): found.outages},
        "bitzones_monitor_last_check_timestamp_seconds": {(): datetime.fromisoformat(last.at).timestamp()} if last else {},
        "bitzones_canary_deviation_nats": {(test.name,): test.mean_nats for test in tests if test.mean_nats is not None},
        "bitzones_canary_bound_nats": {(test.name,): test.bound_nats for test in tests},
        "bitzones_canary_evidence_nats": {(test.name,): test.evidence for test in tests},
        "bitzones_canary_evidence_needed_nats": {(): evidence_needed(ALPHA / len(TESTS))},
        "bitzones_canary_alarm": {(test.name,): float(test.alarm) for test in tests},
        "bitzones_drift_requests": {(outcome,): count for outcome, count in {"read": 0, "malformed": 0, **found.requests}.items()},
        "bitzones_drift_distance": {key: item.distance for key, item in drifted.items()},
        "bitzones_drift_alarm": {key: float(item.drifted) for key, item in drifted.items()},
        "bitzones_shadow_prompts": {(item.domain,): item.prompts for item in domains},
        "bitzones_shadow_kl_nats": {(item.domain,): item.kl_nats for item in domains},
        "bitzones_shadow_bound_nats": {(item.domain,): item.bound_nats for item in domains},
        "bitzones_shadow_alarm": {(item.domain,): float(item.alarm) for item in domains},
        "bitzones_activation_flagged_layers": {(item.rule, item.verdict): len(item.flagged) for item in rules},
        "bitzones_activation_crossed_layers": {(item.rule, item.verdict): len(item.crossed) for item in rules},
    }


def write(state: Path, file: Path) -> None:
    """Write the metrics as a file for node_exporter's textfile collector.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(file, generate_latest(_registry(state)).decode("utf-8"))


@contextmanager
def served(state: Path, port: int | None) -> Iterator[None]:
    """A block in which the metrics are served on this machine's loopback address; without a port, nothing is.

    Raises:
        ArgumentError: the port is taken.
    """
    if port is None:
        yield
        return
    try:
        server, thread = start_http_server(port, "127.0.0.1", _registry(state))
    except OSError as error:
        raise ArgumentError(f"--metrics-port {port}: {error.strerror or error}") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _registry(state: Path) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(StateCollector(state))
    return registry
