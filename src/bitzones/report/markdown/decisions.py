"""The sections on zones, plan, the ranking of layers, and whether separate sensitivities add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from bitzones.analysis.plan import Plan, UnitPlan, Zone
from bitzones.analysis.results import Analysis, Decision
from bitzones.analysis.zones import extremes, ranges
from bitzones.report.markdown import stability
from bitzones.report.markdown.tables import ABSENT, fold, markdown, megabytes, milliseconds, nats, percent, ratio, table
from bitzones.schema.profile import PLAN
from bitzones.stats.intervals import MIN_SEQUENCES

__all__ = ["EXTREME_LAYERS", "extreme_layers", "mix", "no_plan", "plan", "unswept", "whole", "zones"]

EXTREME_LAYERS = 3
"""How many layers are listed as most and as least sensitive; the technical diagram lists all."""

MOST_COLUMNS = 8
"""Most columns for the units of a layer in the plan's table: a common layer has seven modules. Beyond it, each unit has a row."""


def no_plan(analysis: Analysis) -> str:
    """Why there is no plan, as one line of Markdown."""
    return f"**No plan:** {markdown(analysis.no_decision or '', 10**3)}."


def unswept(analysis: Analysis) -> str:
    """Which layers were not swept and stay at the reference; empty where none."""
    if not analysis.unswept:
        return ""
    layers = ranges(analysis.unswept)
    one = layers.isdigit()
    return (
        f"{'Layer' if one else 'Layers'} {layers} {'was' if one else 'were'} not swept and {'stays' if one else 'stay'} at "
        f"{analysis.reference}; this section does not count {'it' if one else 'them'}."
    )


def mix(formats: Mapping[str, int], noun: str) -> str:
    """How many units are at each format, fewest bits first; ``formats`` lists most bits first.

    >>> mix({"qint4": 2, "qint2:hqq": 2}, "groups"), mix({"qint4": 4}, "groups"), mix({"qint4": 1}, "layers")
    ('2 of 4 groups at qint2:hqq, 2 at qint4', 'all 4 groups at qint4', 'qint4')
    """
    total, found = sum(formats.values()), list(formats.items())[::-1]
    if len(found) == 1:
        return found[0][0] if total == 1 else f"all {total} {noun} at {found[0][0]}"
    first, *others = found
    return ", ".join((f"{first[1]} of {total} {noun} at {first[0]}", *(f"{count} at {name}" for name, count in others)))


def zones(analysis: Analysis) -> str:
    """The zones, their layers, the formats that the plan gives them, and the bytes saved."""
    decision = analysis.decision
    if decision is None:
        return f"## Zones and plan\n\n{no_plan(analysis)}"
    rows = [_zone_row(analysis, decision, zone) for zone in decision.zones]
    whole, stored = decision.plan.reference_bytes, decision.plan.achieved.stored_bytes
    count = str(len(decision.layer_zones))
    rows.append(("all", "", count, _stored_as(analysis, decision.units), *_bytes(whole, stored)))
    head = ("zone", "layers", "count", "in the plan", analysis.reference, "plan", "saved", "saved share")
    firm = (
        ""
        if analysis.sequences < MIN_SEQUENCES
        else f"{stability.contradicted(analysis, decision)} {stability.split_half(decision)}".strip()
    )
    text = f"{_zones_text(analysis)} {stability.basis(decision)}"
    found = (text, table(head, rows, text=(0, 1, 3)), stability.none_safe(decision), firm, unswept(analysis))
    return "## Zones\n\n" + "\n\n".join(text for text in found if text)


def _zones_text(analysis: Analysis) -> str:
    settings = analysis.profile.zones
    lowest, highest = extremes(analysis.formats, analysis.reference)
    subject = "it is" if analysis.granularity == "layer" else f"all its {analysis.granularity}s are"
    return (
        f"A layer is SAFE if {subject} at {' or '.join(lowest)} in at least {settings.agreement:.0%} of {settings.resamples} "
        f"plans, each solved on a bootstrap resample of the n = {analysis.sequences} sensitivity sequences; CRITICAL if {subject} at "
        f"{' or '.join(highest)} in as many; otherwise TRANSITION. "
        "SAFE layers are those that this budget compresses first; it does not mean that accuracy is unchanged. A tighter budget "
        "makes more layers SAFE. Bytes are stored bytes, including scales and shifts."
    )


def _zone_row(analysis: Analysis, decision: Decision, zone: Zone) -> tuple[str, ...]:
    stored_as = _stored_as(analysis, (unit for unit in decision.units if unit.layer in zone.layers))
    return (zone.zone, ranges(zone.layers), str(len(zone.layers)), stored_as, *_bytes(zone.reference_bytes, zone.plan_bytes))


def _stored_as(analysis: Analysis, units: Iterable[UnitPlan]) -> str:
    counts = Counter(unit.format for unit in units)
    ordered = {name: counts[name] for name in (*analysis.formats, analysis.reference) if counts[name]}
    return mix(ordered, f"{analysis.granularity}s")


def _bytes(whole: int, stored: int) -> tuple[str, ...]:
    return megabytes(whole), megabytes(stored), megabytes(whole - stored), percent(1 - stored / whole) if whole else ABSENT


def plan(analysis: Analysis) -> str:
    """The format of every unit, with the share of resampled plans that agree; empty without a plan."""
    decision = analysis.decision
    if decision is None:
        return ""
    plan = decision.plan
    groups = tuple(dict.fromkeys(unit.group for unit in decision.units if unit.group is not None))
    layerwise = bool(groups) and len(groups) <= MOST_COLUMNS
    if analysis.sequences < MIN_SEQUENCES:
        shares = f"The stability of each choice is inconclusive: {analysis.sequences} sequences are too few for a bootstrap."
    elif layerwise:
        shares = f"The percentage after each format is the share of the {analysis.profile.zones.resamples} resampled plans that choose it."
    else:
        shares = f"The shares are of the {analysis.profile.zones.resamples} resampled plans that choose the format."
    return (
        "## Plan\n\n"
        f"{_allowed(plan)} the plan takes {plan.achieved.average_bits:.3f} ({plan.achieved.stored_bytes:,} bytes). "
        f"{_distance(analysis, plan)} {_accuracy(analysis, plan)}{stability.fused(decision)}".rstrip()
        + f" {shares}\n\n"
        + (_by_layer(analysis, decision, groups) if layerwise else _by_unit(analysis, decision))
    )


def _allowed(plan: Plan) -> str:
    bits, stored = f"{plan.budget.average_bits:.4g} average bits", f"{plan.budget.stored_bytes:,} bytes"
    if plan.budget.latency is not None and plan.achieved.latency is not None:
        ms = [milliseconds(item.nanoseconds / 1e9) for item in (plan.budget.latency, plan.achieved.latency)]
        return (
            f"The matrix products of all units may take {plan.budget.latency.share:.3g} of the reference's time in a decode step "
            f"({ms[0]}), by medians of this run; those of the plan take {plan.achieved.latency.share:.3f} ({ms[1]}). In average bits"
        )
    if plan.budget.tolerance is None:
        return f"The budget is {bits} ({stored});"
    return (
        f"The budget is a KL of at most {plan.budget.tolerance:.3g} nats per token on the sensitivity set; the fewest bytes found for it "
        f"are {stored} ({bits});"
    )


def _distance(analysis: Analysis, plan: Plan) -> str:
    predicted = f"{nats(plan.predicted_kl)} nats per token as a sum of separate sensitivities, n = {analysis.sequences} sequences"
    if plan.measured_kl is None:
        return f"Its predicted KL [95%] is {predicted}; its KL was **not measured**."
    return (
        f"It is plan `{markdown(plan.name)}` of the table below. Its measured KL [95%] on n = {plan.measured_sequences} held-out "
        f"sequences is **{nats(plan.measured_kl)}** nats per token; the prediction was {predicted}."
    )


def _accuracy(analysis: Analysis, plan: Plan) -> str:
    """The plan's accuracy with the verdict of each task; empty in a run without tasks."""
    if not analysis.accuracy:
        return ""
    if not plan.accuracy:
        return "Its accuracy was **not measured**. "
    said = (
        f"{markdown(item.task)} ({item.metric}) {percent(item.share.value)} [{percent(item.share.low)}, {percent(item.share.high)}], "
        f"n = {item.n}" + (f", {item.verdict}" if item.verdict else "")
        for item in plan.accuracy
    )
    return f"Its accuracy [95%]: {'; '.join(said)}. "


def _by_unit(analysis: Analysis, decision: Decision) -> str:
    names, enough = (*analysis.formats, analysis.reference), analysis.sequences >= MIN_SEQUENCES
    rows = [
        (
            markdown(unit.unit),
            decision.zone_of(unit.layer) or ABSENT,
            unit.format,
            megabytes(unit.stored_bytes),
            *((percent(unit.shares[name]) if enough else ABSENT) if name in unit.shares else "not offered" for name in names),
        )
        for unit in decision.units
    ]
    return fold("Every unit", len(rows), table(("unit", "zone", "format", "stored", *names), rows, text=(0, 1, 2)))


def _by_layer(analysis: Analysis, decision: Decision, groups: tuple[str, ...]) -> str:
    """A row for each layer and a column for each of its units."""
    enough = analysis.sequences >= MIN_SEQUENCES
    cells: dict[int | None, dict[str | None, str]] = {}
    stored: Counter[int | None] = Counter()
    for unit in decision.units:
        share = f" {unit.shares[unit.format]:.0%}" if enough else ""
        cells.setdefault(unit.layer, {})[unit.group] = f"{unit.format}{share}"
        stored[unit.layer] += unit.stored_bytes
    rows = [
        (
            str(item.layer),
            item.zone,
            mix(item.formats, f"{analysis.granularity}s"),
            *(cells[item.layer].get(group, ABSENT) for group in groups),
            megabytes(stored[item.layer]),
        )
        for item in decision.layer_zones
    ]
    rows += [_outside(unit, len(groups), enough=enough) for unit in decision.units if unit.layer is None]
    head = ("layer", "zone", "in the plan", *(markdown(group, 32) for group in groups), "stored")
    return fold("Every layer", len(rows), table(head, rows, text=range(1, len(groups) + 3)))


def _outside(unit: UnitPlan, groups: int, *, enough: bool) -> tuple[str, ...]:
    """The row of a unit after the last layer."""
    share = f" {unit.shares[unit.format]:.0%}" if enough else ""
    return (markdown(unit.unit), ABSENT, f"{unit.format}{share}", *(ABSENT,) * groups, megabytes(unit.stored_bytes))


def extreme_layers(analysis: Analysis) -> str:
    """The most and the least sensitive layers, with the uncertainty of their ranks."""
    ranks = analysis.ranking
    if not ranks:
        why = f"No layer was measured at {analysis.formats[-1]}" if analysis.sensitivity else "No sensitivity was measured"
        return f"## Most and least sensitive layers\n\n{why}: inconclusive."
    count = min(EXTREME_LAYERS, len(ranks) // 2) or 1
    chosen = [("most sensitive", item) for item in ranks[:count]] + [
        ("least sensitive", item) for item in ranks[len(ranks) - count :][::-1]
    ]
    rows = [
        (
            side,
            f"layer {item.layer}",
            nats(item.kl),
            str(item.rank),
            "inconclusive" if item.best_rank is None else f"{item.best_rank} to {item.worst_rank}",
            (analysis.decision and analysis.decision.zone_of(item.layer)) or ABSENT,
            _told(item.told_from_next),
        )
        for side, item in chosen
    ]
    what = "with only that layer" if analysis.granularity == "layer" else f"summed over its {analysis.granularity}s, each measured alone,"
    return (
        "## Most and least sensitive layers\n\n"
        f"KL in nats per token {what} quantized to {analysis.formats[-1]}; 95% bootstrap intervals over "
        f"n = {analysis.sequences} sequences ({analysis.tokens:,} tokens). Rank 1 of {len(ranks)} is the most sensitive.\n\n"
        + table(("", "layer", "KL [95%]", "rank", "rank [95%]", "zone", "told from the next"), rows, text=(0, 1))
    )


def _told(told: bool | None) -> str:
    return ABSENT if told is None else "yes" if told else "inconclusive"


def whole(analysis: Analysis) -> str:
    """Sums of separate sensitivities beside the measured KL of whole variants."""
    rows = [(markdown(w.variant), nats(w.added), nats(w.measured), ratio(w.ratio)) for w in analysis.whole]
    plan = analysis.decision.plan if analysis.decision else None
    if plan is not None and not (plan.origin == "search" and any(w.variant == PLAN for w in analysis.whole)):
        measured = "not measured" if plan.measured_kl is None else f"{nats(plan.measured_kl)}, held-out"
        rows.append(("the plan", nats(plan.predicted_kl), measured, ABSENT))
    if not rows:
        return ""
    return (
        "## Do the separate sensitivities add up?\n\n"
        f"KL in nats per token, n = {analysis.sequences} sequences, 95% intervals. If the interval of the ratio lies above 1, the sum is "
        "too low; below 1, it is too high. The plan's prediction is such a sum.\n\n"
        + table(("variant", "sum of the units", "measured", "measured / sum"), rows)
    )
