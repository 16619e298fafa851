"""Everything that a state says, and the alarms in it."""

from __future__ import annotations

from dataclasses import dataclass

from bitzones.monitor.records import CanaryCheck, DriftWindow, EvidenceReading, ShadowBatch
from bitzones.monitor.state import State
from bitzones.schema.activation_record import ThresholdReading

__all__ = ["Alarm", "Overview", "overview"]

SHOWN = 1000
"""Checks and windows that a page shows, the latest."""


@dataclass(frozen=True)
class Alarm:
    """One alarm: what kind of watch raised it, and a clause that says what is wrong, in plain text."""

    kind: str
    what: str


@dataclass(frozen=True)
class Overview:
    """Results in the order of time; counters since the state was begun."""

    server: str
    checks: tuple[CanaryCheck, ...]
    windows: tuple[DriftWindow, ...]
    shadows: tuple[ShadowBatch, ...]
    thresholds: tuple[ThresholdReading, ...]
    checks_made: dict[str, int]
    prompts: dict[str, int]
    retries: int
    outages: int
    requests: dict[str, int]

    @property
    def tests(self) -> tuple[EvidenceReading, ...]:
        """The canary's tests after the last check."""
        return self.checks[-1].tests if self.checks else ()

    @property
    def last_windows(self) -> tuple[DriftWindow, ...]:
        """The last window of the log, and the last of shadowed requests."""
        return tuple({window.source: window for window in self.windows}.values())

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """What is wrong now: the canary's and the shadow's alarms stay until they are taken back, drift is that of the last window."""
        found = [Alarm("canary", _canary(self.checks[-1], test)) for test in self.tests if test.alarm]
        for window in self.last_windows:
            found += [
                Alarm("drift", f"{item.name} of {item.requests} requests differ from the sensitivity set: distance {item.distance:.2f}")
                for item in window.features
                if item.drifted
            ]
        for batch in self.shadows[-1:]:
            found += [
                Alarm("shadow", f"KL {item.kl_nats:.3g} nats/token on {item.domain}, above {item.bound_nats:.3g}: calibrate again on it")
                for item in batch.domains
                if item.alarm
            ]
        return tuple(found)


def _canary(check: CanaryCheck, test: EvidenceReading) -> str:
    seen = "" if test.mean_nats is None else f", {test.mean_nats:.3g} nats on average where {test.bound_nats:.3g} is allowed"
    odd = "; every answer puts all of its mass on one token: the server may not give the model's own log-probabilities"
    against = "what the plan predicts" if test.name == "plan" else "what it answered when it was enrolled"
    return f"the served model does not answer {against}{seen}{odd if check.one_sided else ''}"


def overview(state: State) -> Overview:
    """Read a state."""
    return Overview(
        server=state.value("server") or "",
        checks=state.records(CanaryCheck, SHOWN),
        windows=state.records(DriftWindow, SHOWN),
        shadows=state.records(ShadowBatch, SHOWN),
        thresholds=state.records(ThresholdReading, 1),
        checks_made=state.counts("checks"),
        prompts=state.counts("prompts"),
        retries=state.counts("retries").get("", 0),
        outages=state.counts("outages").get("", 0),
        requests=state.counts("requests"),
    )
