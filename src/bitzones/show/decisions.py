"""The sections on what was decided: zones, plan, accuracy, ranking, and whether the parts add up.

This module decides nothing: where the analysis says "cannot tell", so does the section.
"""

from __future__ import annotations

from collections.abc import Iterable

from bitzones.decide.analysis import Accuracy, Analysis
from bitzones.decide.zones import extremes, ranges
from bitzones.show.tables import ABSENT, fold, markdown, megabytes, nats, p_value, percent, points, ratio, table
from bitzones.stats import ALPHA

__all__ = ["EXTREME_LAYERS", "accuracy", "extreme_layers", "plan", "whole", "zones"]

EXTREME_LAYERS = 3
"""How many layers are named as most and as least sensitive: enough to look at; all of them stand in the technical diagram."""


def zones(analysis: Analysis) -> str:
    """The zones, their layers, and the stored bytes that the plan saves in each."""
    rows: list[tuple[str, ...]] = [
        (
            zone.zone,
            ranges(zone.layers),
            str(len(zone.layers)),
            megabytes(zone.reference_bytes),
            megabytes(zone.plan_bytes),
            megabytes(zone.reference_bytes - zone.plan_bytes),
            percent(1 - zone.plan_bytes / zone.reference_bytes) if zone.reference_bytes else ABSENT,
        )
        for zone in analysis.zones
    ]
    whole, plan = analysis.plan.reference_bytes, analysis.plan.achieved.stored_bytes
    saved = percent(1 - plan / whole) if whole else ABSENT
    rows.append(("all", "", str(len(analysis.layer_zones)), megabytes(whole), megabytes(plan), megabytes(whole - plan), saved))
    words = {zone.zone for zone in analysis.zones}
    answer = "" if words & {"SAFE", "CANNOT TELL"} else f"\n\n**No layer is safe** at {analysis.plan.budget.average_bits:g} average bits."
    settings = analysis.profile.zones
    lowest, highest = extremes(analysis.formats, analysis.reference)
    return (
        "## Zones\n\n"
        f"A layer is SAFE where all its parts are at {' or '.join(lowest)} in at least {settings.agreement:.0%} of {settings.resamples} "
        f"plans, each solved on a resample of the n = {analysis.sequences} calibration sequences; CRITICAL where all are at "
        f"{' or '.join(highest)} in as many; else TRANSITION. "
        "SAFE says what this budget squeezes first, not that accuracy survives: the tighter the "
        "budget, the more layers are squeezed. Bytes are stored bytes, scales and shifts counted.\n\n"
        + table(("zone", "layers", "count", analysis.reference, "plan", "saved", "saved share"), rows, text=(0, 1))
        + answer
    )


def plan(analysis: Analysis) -> str:
    """The format of every part, and how many resampled plans agree."""
    plan, names = analysis.plan, (*analysis.formats, analysis.reference)
    rows = [
        (
            markdown(part.part),
            _zone_of(analysis, part.layer),
            part.format,
            megabytes(part.stored_bytes),
            *(percent(part.shares[name]) if name in part.shares else "not offered" for name in names),
        )
        for part in analysis.parts
    ]
    return (
        "## Plan\n\n"
        f"At most {plan.budget.average_bits:g} average bits are allowed ({plan.budget.stored_bytes:,} bytes); the plan takes "
        f"{plan.achieved.average_bits:.3f} ({plan.achieved.stored_bytes:,} bytes). Its predicted KL is {nats(plan.predicted_kl)} nats "
        f"per token (95% interval, n = {analysis.sequences} sequences): a sum of separate sensitivities, **not measured** as a whole. "
        f"The shares say in how many of the {analysis.profile.zones.resamples} resampled plans the part is at that format.\n\n"
        + fold("Every part", len(rows), table(("part", "zone", "format", "stored", *names), rows, text=(0, 1, 2)))
    )


def _zone_of(analysis: Analysis, layer: int) -> str:
    return next(item.zone for item in analysis.layer_zones if item.layer == layer)


def accuracy(analysis: Analysis) -> str:
    """Every task by every variant, and every variant against the reference."""
    if not analysis.accuracy:
        return "## Accuracy\n\nNot measured."
    head = ("task", "variant", "format", "right", "accuracy [95%]", "chance", "above chance", "time", "tokens/s")
    rows = table(head, map(_accuracy_row, analysis.accuracy), text=(0, 1, 2))
    sections = ("## Accuracy", rows, _against(analysis.accuracy), _dropped(analysis))
    return "\n\n".join(section for section in sections if section)


def _accuracy_row(item: Accuracy) -> tuple[str, ...]:
    share = item.share
    return (
        f"{markdown(item.task)} ({item.metric})",
        markdown(item.variant),
        markdown(item.format),
        f"{item.k}/{item.n}",
        f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]",
        percent(item.chance),
        ("yes" if item.above_chance_p < ALPHA else "cannot tell") + f" ({p_value(item.above_chance_p)})",
        f"{item.seconds_s:.2f} s",
        f"{item.tokens_per_s:,.0f}" if item.tokens_per_s is not None else ABSENT,
    )


def _against(items: Iterable[Accuracy]) -> str:
    rows = [
        (
            markdown(item.task),
            markdown(item.variant),
            f"**{item.against.verdict}**",
            points(item.against.difference),
            f"{item.against.lost} / {item.against.gained}",
            p_value(item.against.p_value),
            percent(item.against.smallest_drop) if item.against.smallest_drop is not None else "none",
            str(item.n),
        )
        for item in items
        if item.against is not None
    ]
    if not rows:
        return "No variant can be paired with the reference: cannot tell what quantization costs."
    head = ("task", "variant", "verdict", "points [95%]", "lost / gained", "McNemar", "smallest drop shown", "n")
    return "Against the reference on the same items (smallest drop: at 80% power):\n\n" + table(head, rows, text=(0, 1, 2))


def _dropped(analysis: Analysis) -> str:
    counts = {item.task: item.dropped for item in analysis.accuracy if item.dropped}
    return "\n".join(f"{markdown(task)}: {count} malformed items were not asked." for task, count in counts.items())


def extreme_layers(analysis: Analysis) -> str:
    """The most and the least sensitive layers, with the uncertainty of their ranks."""
    ranks = analysis.ranking
    if not ranks:
        return f"## Most critical and safest layers\n\nNo layer was measured at {analysis.formats[-1]}: cannot tell."
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
            f"{item.best_rank} to {item.worst_rank}",
            _zone_of(analysis, item.layer),
            _told(item.told_from_next),
        )
        for side, item in chosen
    ]
    return (
        "## Most critical and safest layers\n\n"
        f"KL in nats per token when only that layer is stored in {analysis.formats[-1]}; 95% bootstrap intervals over "
        f"n = {analysis.sequences} sequences ({analysis.tokens:,} tokens). Rank 1 of {len(ranks)} is the most sensitive.\n\n"
        + table(("", "layer", "KL [95%]", "rank", "rank [95%]", "zone", "more sensitive than the next"), rows, text=(0, 1))
    )


def _told(told: bool | None) -> str:
    return ABSENT if told is None else "yes" if told else "cannot tell"


def whole(analysis: Analysis) -> str:
    """Sums of separate sensitivities beside what whole variants measured."""
    rows = [(markdown(w.variant), nats(w.added), nats(w.measured), ratio(w.ratio)) for w in analysis.whole]
    plan = analysis.plan
    rows.append(("the plan", nats(plan.predicted_kl), "not measured" if plan.measured_kl is None else nats(plan.measured_kl), ABSENT))
    return (
        "## Do the separate sensitivities add up?\n\n"
        f"KL in nats per token, n = {analysis.sequences} sequences, 95% intervals. A ratio whose interval lies above 1 means that the "
        "sum is too low, one below 1 that it is too high; the plan's prediction is such a sum.\n\n"
        + table(("variant", "sum of the parts", "measured as a whole", "measured / sum"), rows)
    )
