"""How firm zones and plan are, in sentences: what they were decided from, where the two contradict each other, what half the data says of
them, and whether a plan of single modules can be served fused.

This module decides nothing: what is too little to tell, the analysis says.
"""

from __future__ import annotations

from collections.abc import Mapping

from bitzones.analysis.plan import Plan, SplitHalf
from bitzones.analysis.results import Analysis, Decision
from bitzones.analysis.zones import SPLIT_HALF_AGREEMENT, ranges
from bitzones.report.markdown.tables import markdown
from bitzones.stats.intervals import MIN_SEQUENCES

__all__ = ["basis", "budget", "contradicted", "fused", "halves", "none_safe", "split_half_in_short"]


def budget(plan: Plan) -> str:
    """The budget that zones belong to, as in ``at 3 average bits``."""
    bits = plan.budget.words
    if plan.budget.tolerance is None:
        return bits
    return f"a tolerance of {plan.budget.tolerance:.3g} nats per token, {bits}"


def none_safe(decision: Decision) -> str:
    """That no layer is safe; empty where one is, or where that cannot be told."""
    if {zone.zone for zone in decision.zones} & {"SAFE", "INCONCLUSIVE"}:
        return ""
    return f"**No layer is safe** at {budget(decision.plan)}."


def basis(decision: Decision) -> str:
    """What the resampled plans are solved from."""
    if decision.around == "plan":
        return (
            "The resampled plans are solved around the plan that the search found: from what changing one part of it does to its KL, "
            "measured with all other units as they are, at the price per change at which the search itself stood still."
        )
    return (
        "The resampled plans are of least sum of separate sensitivities: no sweep around a plan was made, so what units do together is not "
        "in the zones."
    )


def contradicted(analysis: Analysis, decision: Decision) -> str:
    """For how many layers the plan does not do what their zone says, and for which."""
    total = len(decision.layer_zones)
    if not decision.contradicted:
        return f"The plan contradicts the zone of none of the {total} layers: in it SAFE ones have the fewest bits, CRITICAL ones the most."
    found = [item for item in decision.layer_zones if item.layer in decision.contradicted]
    said = "; ".join(
        f"layer {item.layer} is {item.zone} and stored as {_stored(item.formats, f'{analysis.granularity}s')}" for item in found
    )
    why = ": it is not the plan that the zones are about" if decision.plan.origin != "search" and decision.around == "plan" else ""
    return f"**The recommended plan contradicts the zone of {len(found)} of {total} layers**{why}. {said}."


def _stored(formats: Mapping[str, int], noun: str) -> str:
    return next(iter(formats)) if sum(formats.values()) == 1 else ", ".join(f"{count} {noun} at {name}" for name, count in formats.items())


def halves(decision: Decision) -> str:
    """What two disjoint halves of the sequences say of the zones; empty where that was not asked."""
    return " ".join(_half(found, first=number == 0) for number, found in enumerate(decision.halves))


def _half(found: SplitHalf, *, first: bool) -> str:
    total, (one, other) = len(found.layers), found.sequences
    what = "Zones from every other sensitivity sequence and from the rest"
    if found.agree is None:
        needed = f"n = {one} and {other} sequences and at least {MIN_SEQUENCES} are needed in each"
        return f"{what}: cannot tell how far they agree, {needed}." if first else ""
    share = f"{len(found.agree)} of {total} layers ({len(found.agree) / total:.0%})"
    others = ranges(tuple(layer for layer in found.layers if layer not in found.agree))
    if not first:
        return f"From separate sensitivities, where the halves share nothing, they agree on {share}" + (
            "." if found.holds else f": those of layers {others} differ."
        )
    said = f"{what} agree on {share}, n = {one} and {other} sequences"
    if not found.holds:
        said += (
            f": **below {SPLIT_HALF_AGREEMENT:.0%}, the zones do not hold**; those of layers {others} hang on which sequences were drawn"
        )
    return f"{said}." + (" Both halves are about the same plan, which all sequences chose." if found.around == "plan" else "")


def split_half_in_short(decision: Decision) -> str:
    """The same for one line of a terminal."""
    first = next(iter(decision.halves), None)
    if first is None or first.agree is None:
        return ""
    verdict = "" if first.holds else ", so the zones do not hold"
    return f"; two halves of the sequences agree on {len(first.agree)} of {len(first.layers)}{verdict}"


def fused(decision: Decision) -> str:
    """Whether engines that fuse modules can serve the plan; empty where a unit is what they fuse, or more."""
    found = decision.fused
    if found is None or not found.groups:
        return ""
    if not found.split:
        return f"It can be served fused: none of the {found.groups} groups that serving engines fuse holds modules of different formats."
    layers: dict[str, list[int]] = {}
    for item in found.split:
        layers.setdefault(item.group, []).append(item.layer)
    where = "; ".join(f"{markdown(group)} of layers {ranges(tuple(members))}" for group, members in layers.items())
    return (
        f"**It cannot be served fused**: {len(found.split)} of the {found.groups} groups that serving engines fuse hold modules of "
        f"different formats ({where}); sensitivity.granularity = group makes a plan that can."
    )
