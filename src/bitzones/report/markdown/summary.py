"""summary.md: the report as Markdown, and its headline lines. Every figure has its n, its interval and its unit."""

from __future__ import annotations

from collections.abc import Iterator

from bitzones.analysis.plan_ranking import NO_BASELINES
from bitzones.analysis.plan_verdicts import PlanReading
from bitzones.analysis.results import Analysis, Decision
from bitzones.analysis.task_answers import NORMALIZED, Accuracy
from bitzones.analysis.zones import never_lowest, ranges
from bitzones.report.charts.frontier import frontier
from bitzones.report.markdown import (
    decisions,
    domain_tables,
    fisher_tables,
    measurements,
    method,
    perplexity_tables,
    plan_tables,
    rule_tables,
    slice_tables,
    stability,
    task_tables,
    tuning_tables,
)
from bitzones.report.markdown.caveat_words import caveat_sentence
from bitzones.report.markdown.tables import NO_INTERVAL, details, markdown, megabytes, plain, table
from bitzones.report.terminal import text_map
from bitzones.schema.profile import PLAN
from bitzones.schema.run_record import FILES
from bitzones.stats.intervals import Estimate

__all__ = ["about", "headline", "inconclusive", "summary"]

_LINKS = "[Report with charts](report.html) · [overview diagram](overview_diagram.md) · [technical diagram](technical_diagram.md)"


def headline(analysis: Analysis) -> tuple[str, ...]:
    """The headline as plain text for a terminal: zones and plan, or why there are none, and the accuracy on each task."""
    decision = analysis.decision
    if decision is None:
        return (f"No plan: {plain(analysis.no_decision or '', 1000)}", *_accuracy_lines(analysis))
    return (
        _zones_line(analysis, decision),
        _plan_line(analysis, decision),
        *([tuning_tables.in_short(analysis.tuning)] if analysis.tuning else []),
        *_calibration_line(analysis),
        *_baselines_line(analysis),
        *slice_tables.lines(analysis),
        *domain_tables.lines(analysis),
        *_accuracy_lines(analysis),
    )


def _zones_line(analysis: Analysis, decision: Decision) -> str:
    total, zones = len(decision.layer_zones), {zone.zone: zone.layers for zone in decision.zones}
    if "INCONCLUSIVE" in zones:
        return f"Zones: inconclusive, {analysis.sequences} sensitivity sequences are too few"
    said = [
        f"{len(zones[word])} {word} ({ranges(zones[word])})" if word in zones else f"no layer is {word}"
        for word in ("SAFE", "TRANSITION", "CRITICAL")
    ]
    never = never_lowest(decision.layer_zones, analysis.profile.zones.agreement)
    kept = f"; never at the lowest format: {ranges(never)}" if never else ""
    swept = f"{total} layers" if not analysis.unswept else f"{total} of {total + len(analysis.unswept)} layers (the others were not swept)"
    against = f"; the plan differs from the zone in {len(decision.contradicted)} of them" if decision.contradicted else ""
    firm = f"{against}{stability.split_half_in_short(decision)}"
    return f"Zones of {swept} at {stability.budget(decision.plan)}: {', '.join(said)}{kept}{firm}"


def _plan_line(analysis: Analysis, decision: Decision) -> str:
    plan, n = decision.plan, analysis.sequences
    saved = 1 - plan.achieved.stored_bytes / plan.reference_bytes if plan.reference_bytes else 0.0
    made = " (searched)" if plan.origin == "search" else "" if plan.measured_kl is None else f" ({plain(plan.name)})"
    if plan.measured_kl is None:
        kl = f"predicted KL {_kl(plan.predicted_kl)} nats/token, n = {n} sequences, not measured"
    else:
        kl = f"KL {_kl(plan.measured_kl)} nats/token measured on n = {plan.measured_sequences} held-out sequences, "
        kl += f"predicted {_kl(plan.predicted_kl)} from n = {n} sensitivity sequences"
    return (
        f"Plan{made}: {megabytes(plan.achieved.stored_bytes)} instead of {megabytes(plan.reference_bytes)} for the quantized units "
        f"({saved:.0%} less), "
        f"{plan.achieved.average_bits:.2f} bits per weight; {kl}"
    )


def _kl(estimate: Estimate) -> str:
    return f"{estimate.value:.3g} " + (NO_INTERVAL if estimate.low is None else f"({estimate.low:.3g} to {estimate.high:.3g})")


def _calibration_line(analysis: Analysis) -> Iterator[str]:
    """KL at the plan's budget with calibrated formats and without."""
    found = analysis.plans
    made = {item.origin: item for item in found.plans if item.measured is not None} if found else {}
    if found is None or "search" not in made or "stock" not in made:
        return
    ours, stock = made["search"], made["stock"]
    words = {"better": "", "worse": "; calibration makes it worse", "inconclusive": "; inconclusive"}
    share = stock.searched.ratio if stock.searched else None
    times = "" if share is None else f" ({_kl(share)} times)"
    at = "the budget" if ours.average_bits is None else f"{ours.average_bits:.2f} bits"
    yield (
        f"Effect of calibration at {at}: KL {_kl(ours.measured)} with it, {_kl(stock.measured)} without{times}, "  # type: ignore[arg-type]
        f"nats/token on n = {found.sequences} held-out sequences{words[stock.searched.word] if stock.searched else ''}"
    )


def _baselines_line(analysis: Analysis) -> Iterator[str]:
    """Whether the searched plan wins, the best baseline within the budget, and every uniform format."""
    found = analysis.plans
    if found is None:
        return
    baselines = [item for item in found.plans if item.measured is not None and item.origin not in (*NO_BASELINES, "uniform")]
    baselines = [item for item in baselines if item.within_budget and item.name != found.recommended]
    best = min(baselines, key=lambda item: item.measured.value if item.measured else 0.0, default=None)
    said = [f"{plain(item.name)} {_beside(item)}" for item in found.plans if item.origin == "uniform" and item.name != found.recommended]
    if best is not None:
        said.insert(0, f"best baseline {plain(best.name)} {_beside(best)}")
    yield f"{plain(plan_tables.outcome(found), 1000)}{'. KL of others: ' if said else ''}{'; '.join(said)}"


def _beside(item: PlanReading) -> str:
    kl = "failed" if item.measured is None else _kl(item.measured)
    bits = "" if item.average_bits is None else f" at {item.average_bits:.2f} bits"
    return f"{kl}{bits}{'' if item.within_budget else ', over the budget'}"


def _rules(analysis: Analysis) -> str:
    audit = analysis.rules
    return rule_tables.rules(audit.rules if audit else (), rule_tables.critical(audit, analysis.profile.zones.resamples))


def _accuracy_lines(analysis: Analysis) -> Iterator[str]:
    shown = [item for item in analysis.accuracy if item.metric != NORMALIZED]
    yield from perplexity_tables.lines(analysis)
    if not shown and analysis.perplexity:
        return
    if not shown:
        yield "Accuracy: not measured"
    elif not any(item.against for item in shown):
        yield "Accuracy: inconclusive, no variant was paired with the reference"
    for task in dict.fromkeys(item.task for item in shown):
        items = [item for item in shown if item.task == task]
        yield f"Accuracy on {plain(task)} (n = {items[0].n}, 95% intervals): {'; '.join(_accuracy_words(analysis, item) for item in items)}"


def _accuracy_words(analysis: Analysis, item: Accuracy) -> str:
    verdict = f", {item.against.verdict}" if item.against else ""
    other = item.variant == PLAN and analysis.decision is not None and analysis.decision.plan.origin not in ("search", "tuned")
    name = plain(item.variant) + (" (searched, not recommended)" if other else "")
    return f"{name} {item.share.value:.1%} ({item.share.low:.1%} to {item.share.high:.1%}){verdict}"


def summary(analysis: Analysis) -> str:
    """The whole of summary.md."""
    model = analysis.model
    name = markdown(model.source) if model else "model not recorded"
    files = (
        f"`analysis.json` · `plan.json`{' · `plans/`' if analysis.slices else ''}"
        if analysis.decision
        else "`analysis.json` (no `plan.json`, because there is no plan)"
    )
    sections = (
        f"# bitzones: {name}",
        "\n".join(f"- {markdown(line, 10**4)}" for line in headline(analysis)),
        f"{_LINKS} · {files}",
        about(analysis),
        text_map.markdown_map(analysis),
        decisions.zones(analysis),
        decisions.plan(analysis),
        slice_tables.by_slice(analysis),
        *(details(markdown(title), body) for title, body in slice_tables.folded(analysis)),
        tuning_tables.tuning(analysis),
        domain_tables.by_domain(analysis),
        domain_tables.folded(analysis),
        plan_tables.compared(analysis),
        plan_tables.search(analysis),
        plan_tables.frontier(analysis),
        _picture(analysis),
        task_tables.accuracy(analysis),
        decisions.extreme_layers(analysis),
        decisions.whole(analysis),
        fisher_tables.fisher_proxy(analysis),
        _rules(analysis),
        measurements.memory(analysis),
        measurements.latency(analysis),
        measurements.unit_latency(analysis),
        measurements.attention(analysis),
        measurements.activations(analysis),
        measurements.failures(analysis),
        measurements.took(analysis),
        method.methodology(analysis),
        inconclusive(analysis),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _picture(analysis: Analysis) -> str:
    """The frontier as an image; empty where there is none to draw."""
    return "" if frontier(analysis) is None else "![KL and accuracy by stored bytes, with 95% intervals](frontier.svg)"


def inconclusive(analysis: Analysis) -> str:
    """The section on limits of the data, one line each."""
    return "## Limits\n\nWhat these data do not show:\n\n" + "\n".join(
        f"- {markdown(caveat_sentence(item, analysis), 10**4)}" for item in analysis.inconclusive
    )


def about(analysis: Analysis) -> str:
    """Which model, on what machine, with which versions: a table."""
    model, env = analysis.model, analysis.environment
    rows = []
    if model:
        size = f"{model.layers} layers, {model.parameters:,} parameters"
        rows.append(("model", f"{markdown(model.architecture)}, {size}, stored in {markdown(model.dtype)}"))
        if model.random_weights:
            rows.append(("weights", "**random**, not trained: only latency and memory are meaningful"))
        if model.revision is not None:
            rows.append(("revision", markdown(model.revision)))
        rows.append(("configuration sha256" if model.random_weights else "model sha256", markdown(model.sha256[:16])))
        if model.placement:
            places = ", ".join(
                f"layers {layers} {'in' if device == FILES else 'on'} {markdown(device)}" for layers, device in model.placement.items()
            )
            streamed = "too large for memory; sensitivities and plans only" if FILES in model.placement.values() else ""
            why = streamed or "too large for the GPU; times include moving weights or activations there"
            rows.append(("placement", f"{places}: {why}"))
        if model.not_quantizable:
            kinds = ", ".join(f"{markdown(kind)} ({count:,} parameters)" for kind, count in model.not_quantizable.items())
            rows.append(("not quantizable", f"{kinds}: inside the decoder layers, left as they are"))
        if model.staying:
            counts = ", ".join(f"{sum(map(len, reasons.values()))} at {markdown(name)}" for name, reasons in model.staying.items())
            rows.append(("modules without a kernel", f"{counts}: left as they are in that format, for the reasons given below"))
    if env:
        versions = ", ".join(f"{markdown(name)} {markdown(version)}" for name, version in env.versions.items())
        rows += [
            ("device", f"{markdown(env.device)}, {markdown(env.device_name)}, {env.threads} threads, computing in {_compute(analysis)}"),
            ("versions", f"bitzones {markdown(analysis.bitzones)}, Python {markdown(env.python)}, {versions}"),
            ("quanto extension", markdown(env.quanto_extension)),
        ]
    rows.append(("measured", f"{markdown(analysis.measured_at or 'time not recorded')}, profile {analysis.profile.sha256[:16]}"))
    return table(("", "this run"), rows, text=(0, 1))


def _compute(analysis: Analysis) -> str:
    return markdown(analysis.model.compute_dtype) if analysis.model else "a type not recorded"
