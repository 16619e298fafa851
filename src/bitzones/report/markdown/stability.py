"""How stable zones and plan are, in sentences: what the zones are based on, where plan and zones differ, split-half reliability, and
whether engines that fuse modules can serve the plan."""

from __future__ import annotations

from collections.abc import Mapping

from bitzones.analysis.plan import Plan, SplitHalf
from bitzones.analysis.results import Analysis, Decision
from bitzones.analysis.zones import SPLIT_HALF_AGREEMENT, ranges
from bitzones.report.markdown.cost_words import budget_words
from bitzones.report.markdown.tables import markdown
from bitzones.stats.intervals import MIN_SEQUENCES

__all__ = ["basis", "budget", "contradicted", "fused", "none_safe", "split_half", "split_half_in_short"]


def budget(plan: Plan) -> str:
    """The budget of the zones, to follow "at"."""
    bits = budget_words(plan.budget)
    if plan.budget.tolerance is None:
        return bits
    return f"a tolerance of {plan.budget.tolerance:.3g} nats per token, {bits}"


def none_safe(decision: Decision) -> str:
    """That no layer is SAFE; empty where one is, or where zones are inconclusive."""
    if {zone.zone for zone in decision.zones} & {"SAFE", "INCONCLUSIVE"}:
        return ""
    return f"**No layer is SAFE** at {budget(decision.plan)}."


def basis(decision: Decision) -> str:
    """What the resampled plans are solved from."""
    if decision.around == "plan":
        return (
            "The resampled plans are solved around the searched plan. A change costs its effect on the plan's KL, with all other units "
            "unchanged, plus a fixed price: the one at which the search itself would have stopped."
        )
    return (
        "The resampled plans minimize the sum of separate sensitivities. There was no sweep around a plan, so zones ignore interactions "
        "between units."
    )


def contradicted(analysis: Analysis, decision: Decision) -> str:
    """In which layers the plan differs from their zone."""
    total = len(decision.layer_zones)
    if not decision.contradicted:
        return f"The plan agrees with the zones of all {total} layers: SAFE layers have the fewest bits, CRITICAL layers the most."
    found = [item for item in decision.layer_zones if item.layer in decision.contradicted]
    said = "; ".join(
        f"layer {item.layer} is {item.zone} and stored as {_stored(item.formats, f'{analysis.granularity}s')}" for item in found
    )
    why = (
        ": the zones were drawn around another plan"
        if decision.plan.origin not in ("search", "tuned") and decision.around == "plan"
        else ""
    )
    return f"**The recommended plan differs from the zones in {len(found)} of {total} layers**{why}. {said}."


def _stored(formats: Mapping[str, int], noun: str) -> str:
    return next(iter(formats)) if sum(formats.values()) == 1 else ", ".join(f"{count} {noun} at {name}" for name, count in formats.items())


def split_half(decision: Decision) -> str:
    """Split-half reliability of the zones; empty where it was not computed."""
    return " ".join(_half(found, first=number == 0) for number, found in enumerate(decision.split_half))


def _half(found: SplitHalf, *, first: bool) -> str:
    total, (one, other) = len(found.layers), found.sequences
    what = "Split-half reliability of the zones"
    if found.agree is None:
        needed = f"n = {one} and {other} sequences, and each half needs at least {MIN_SEQUENCES}"
        return f"{what}: inconclusive, {needed}." if first else ""
    share = f"{len(found.agree)} of {total} layers ({len(found.agree) / total:.0%})"
    others = ranges(tuple(layer for layer in found.layers if layer not in found.agree))
    if not first:
        return f"From separate sensitivities, where the halves share no plan, they agree on {share}" + (
            "." if found.holds else f"; layers {others} differ."
        )
    said = f"{what}: two halves of the sequences agree on {share}, n = {one} and {other} sequences"
    if not found.holds:
        said += f". **Below {SPLIT_HALF_AGREEMENT:.0%}, the zones are not reliable**: those of layers {others} depend on the sample"
    return f"{said}." + (" Both halves are drawn around the same plan, which was found on all sequences." if found.around == "plan" else "")


def split_half_in_short(decision: Decision) -> str:
    """The same in short, for one line of a terminal."""
    first = next(iter(decision.split_half), None)
    if first is None or first.agree is None:
        return ""
    verdict = "" if first.holds else ", so the zones are not reliable"
    return f"; split-half agreement on {len(first.agree)} of {len(first.layers)}{verdict}"


def fused(decision: Decision) -> str:
    """Whether engines that fuse modules can serve the plan; empty where a unit is at least such a group."""
    found = decision.fused
    if found is None or not found.groups:
        return ""
    if not found.split:
        return f"It can be served fused: each of the {found.groups} groups that serving engines fuse has one format."
    layers: dict[str, list[int]] = {}
    for item in found.split:
        layers.setdefault(item.group, []).append(item.layer)
    where = "; ".join(f"{markdown(group)} of layers {ranges(tuple(members))}" for group, members in layers.items())
    return (
        f"**It cannot be served fused**: {len(found.split)} of the {found.groups} groups that serving engines fuse mix formats ({where}). "
        "Set sensitivity.granularity = group for a plan that can."
    )
