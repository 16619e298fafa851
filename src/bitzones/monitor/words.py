"""A watch in words: Markdown for pasting, from which the page is rendered too, and plain lines for a terminal or a mail from cron."""

from __future__ import annotations

from bitzones.monitor.canary import ALPHA, TESTS
from bitzones.monitor.overview import Overview
from bitzones.monitor.records import CanaryCheck, DomainShadow, DriftFeature, DriftWindow, EvidenceReading
from bitzones.monitor.request_drift import LEAST_DISTANCE
from bitzones.report.markdown.tables import ABSENT, NO_INTERVAL, four_digits, markdown, p_value, plain, table
from bitzones.schema.activation_record import RuleWatch
from bitzones.stats.e_process import evidence_needed

__all__ = ["activations", "canary", "drift", "failures", "lines", "shadow", "summary"]

LISTED = 20
"""Checks in the table: the latest."""

_METHOD = (
    "Deviation: Jensen-Shannon divergence of the likeliest next tokens, in nats, about a quarter of the KL. Evidence: logarithm of a "
    "capital that bets on the mean being above what is allowed; while it is not, the chance that it ever reaches its mark is "
    f"{ALPHA / len(TESTS):.2g} for each row, however many checks there are."
)

AGAINST = {"plan": "the plan's record", "unchanged": "the enrolled answers"}


def lines(found: Overview) -> tuple[str, ...]:
    """What there is to say now, the alarms first."""
    said = [f"ALARM {alarm.kind}: {plain(alarm.what, 1000)}" for alarm in found.alarms]
    if found.checks:
        said.append(plain(_last(found.checks[-1]), 1000))
    for window in found.last_windows:
        named = ", ".join(f"{item.name} {item.distance:.2f}" for item in window.features) or "nothing to compare"
        said.append(plain(f"drift window {window.number}, {window.requests} requests: distances {named}", 1000))
    for batch in found.shadows[-1:]:
        shown = ", ".join(f"{item.domain} {item.kl_nats:.3g} nats/token (n = {item.prompts})" for item in batch.domains)
        said.append(plain(f"shadow: {shown or 'no request was sampled yet'}", 1000))
    return tuple(said) or ("nothing was checked yet",)


def _last(check: CanaryCheck) -> str:
    missing = check.asked - check.answered
    what = "enrolled" if check.kind == "enroll" else "checked"
    tests = "; ".join(
        f"{AGAINST[test.name]}: {_nats(test.mean_nats)} of {_nats(test.bound_nats)} nats allowed, evidence {test.evidence:.1f}"
        for test in check.tests
    )
    return f"{what} {plain(check.model or 'the model')} with {check.answered} answers{f', {missing} missing' if missing else ''}: {tests}"


def _nats(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.2g}"


def summary(found: Overview) -> str:
    """All of it, as Markdown."""
    alarms = "\n".join(f"- **{alarm.kind}**: {markdown(alarm.what, 1000)}" for alarm in found.alarms) or "No alarm."
    parts = (
        f"# Watch of {markdown(found.server or 'a served model')}",
        alarms,
        canary(found),
        failures(found),
        drift(found),
        shadow(found),
        activations(found),
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def canary(found: Overview) -> str:
    """The tests after the last check, and the latest checks; empty before the first."""
    if not found.checks:
        return ""
    head = ("held against", "prompts", "mean deviation", "allowed", "evidence", "alarm at", "alarm")
    rows = [_test(test) for test in found.tests]
    latest = tuple(reversed(found.checks[-LISTED:]))
    return "\n\n".join(
        (
            "## Canary",
            f"{sum(found.checks_made.values())} checks; the last one at {markdown(latest[0].at)} asked {latest[0].asked} prompts.",
            table(head, rows),
            table(("check", "at", "model", "answered", *(AGAINST[name] for name in TESTS), "alarm"), map(_check, latest), text=(1, 2, 6)),
            _METHOD,
        )
    )


def _test(test: EvidenceReading) -> tuple[str, ...]:
    needed = evidence_needed(ALPHA / len(TESTS))
    return (
        AGAINST[test.name], str(test.prompts), _nats(test.mean_nats), _nats(test.bound_nats), f"{test.evidence:.1f}", f"{needed:.1f}",
        "**yes**" if test.alarm else "no",
    )  # fmt: skip


def _check(check: CanaryCheck) -> tuple[str, ...]:
    means = {test.name: _nats(test.mean_nats) for test in check.tests}
    alarms = ", ".join(test.name for test in check.tests if test.alarm)
    return (
        f"{check.number}{' (enrolled)' if check.kind == 'enroll' else ''}", markdown(check.at), markdown(check.model, 40),
        f"{check.answered} of {check.asked}", *(means.get(name, ABSENT) for name in TESTS), alarms or ABSENT,
    )  # fmt: skip


def failures(found: Overview) -> str:
    """Prompts without an answer, which are counted and never taken for an alarm; empty where all were answered at once."""
    missing = {reason: count for reason, count in found.prompts.items() if reason != "answered" and count}
    if not (missing or found.retries or found.outages):
        return ""
    named = "; ".join(f"{count} prompts: {markdown(reason)}" for reason, count in missing.items()) or "every prompt was answered in the end"
    return (
        "## Missing answers\n\n"
        f"{found.retries} tries beyond the first, {found.outages} checks stopped by an outage and taken up later; {named}. "
        "A missing answer says nothing about the model."
    )


def drift(found: Overview) -> str:
    """The last windows; empty where no requests were read."""
    return "\n\n".join(("## Requests", *map(_window, found.last_windows))) if found.windows else ""


def _window(last: DriftWindow) -> str:
    head = ("property", "requests", "median", "median then", "distance", "p, corrected", "drifted")
    which = f"{last.requests} requests {'of the log' if last.source == 'log' else 'that were shadowed'}"
    verdict = "differ from" if last.alarm else "are not told from"
    drifted = (
        f"Drifted: p below {last.alpha:.2g}, this window's part of the error that is spent over all windows, and a distance of at least "
        f"{LEAST_DISTANCE:g}."
    )
    malformed = f"; {last.malformed} lines are no requests" if last.malformed else ""
    return "\n\n".join(
        (
            f"Window {last.number} at {markdown(last.at)}: {which} {verdict} the sensitivity set, from which the plan was made{malformed}.",
            table(head, map(_feature, last.features)) if last.features else "No property is in the log of enough requests.",
            drifted,
        )
    )


def _feature(item: DriftFeature) -> tuple[str, ...]:
    medians = (ABSENT if value is None else four_digits(value) for value in (item.typical, item.expected))
    drifted = "**yes**" if item.drifted else "no"
    p = p_value(item.p_adjusted).removeprefix("p = ").removeprefix("p ")
    return item.name, str(item.requests), *medians, f"{item.distance:.2f}", p, drifted


def shadow(found: Overview) -> str:
    """KL by domain of all sampled requests; empty without any."""
    if not found.shadows:
        return ""
    last = found.shadows[-1]
    head = ("domain", "requests", "tokens", "KL [95%], nats/token", "allowed", "evidence", "calibrate again")
    return "\n\n".join(
        (
            "## Shadow",
            f"{last.rate:.2%} of the requests computed by the served model and by the reference, up to {markdown(last.at)}.",
            table(head, map(_domain, last.domains)) if last.domains else "No request was sampled yet.",
        )
    )


def _domain(item: DomainShadow) -> tuple[str, ...]:
    ends = NO_INTERVAL if item.low is None or item.high is None else f"[{item.low:.3g}, {item.high:.3g}]"
    return (
        markdown(item.domain), str(item.prompts), f"{item.tokens:,}", f"{item.kl_nats:.3g} {ends}", f"{item.bound_nats:.3g}",
        f"{item.evidence:.1f}", "**yes**" if item.alarm else "no",
    )  # fmt: skip


def activations(found: Overview) -> str:
    """The thresholds beside the audit's verdicts; empty where no pass was sampled."""
    if not found.thresholds:
        return ""
    last = found.thresholds[-1]
    head = ("rule", "verdict of the audit", "layers in the run", "layers now", "crossed")
    return "\n\n".join(
        (
            "## Thresholds of activations",
            f"{last.sampled} of {last.passes} passes sampled, up to {markdown(last.at)}. A crossing matters as far as its rule holds.",
            table(head, map(_rule, last.rules), text=(0, 1, 2, 3, 4)),
        )
    )


def _rule(item: RuleWatch) -> tuple[str, ...]:
    crossed = ", ".join(f"{one.layer} ({one.run:.3g} to {one.served:.3g})" for one in item.crossed)
    return markdown(item.rule), f"**{item.verdict}**", _layers(item.flagged_in_run), _layers(item.flagged), crossed or ABSENT


def _layers(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers)) or ABSENT
