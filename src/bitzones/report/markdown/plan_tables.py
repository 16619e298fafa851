"""The sections on whole plans: how each measured on held-out sequences, how the search went, and what other budgets would give.

This module decides nothing: which plan is recommended, and what can be told, is `decide.plans`'.
"""

from __future__ import annotations

from collections.abc import Sequence

from bitzones.analysis.plan_ranking import NO_BASELINES
from bitzones.analysis.plan_verdicts import Compared, PlanReading, PlansReading, SearchReading, SearchStep
from bitzones.analysis.results import Analysis
from bitzones.report.markdown.tables import ABSENT, bits, details, markdown, milliseconds, more_nats, nats, ratio, table
from bitzones.schema.profile import PLAN
from bitzones.stats.intervals import MIN_SEQUENCES

__all__ = ["compared", "frontier", "on_frontier", "outcome", "search"]

MADE = {
    "search": "searched by measuring whole plans, from the additive one",
    "additive": "least sum of separate sensitivities",
    "uniform": "one format for all",
    "contiguous": "the last units in the largest format, all before them in the smallest",
    "random": "random, budget filled",
    "frontier": "least sum of separate sensitivities, another budget",
    "foreign": "made elsewhere and measured here",
    "stock": "searched likewise, among quanto's own formats only",
    "separate": "the plan's formats, without rounding layer after layer",
}


def outcome(plans: PlansReading) -> str:
    """Whether the searched plan wins, as one sentence in plain text."""
    if plans.recommended is None:
        return "No plan within the budget has a KL, so none is recommended by measurement"
    if plans.recommended != plans.searched:
        if plans.beaten_by:
            return f"The searched plan does not win: {_and(plans.beaten_by)} measured lower; {plans.recommended} is recommended"
        return f"The searched plan does not win: it could not be measured; {plans.recommended} is recommended"
    if plans.not_told:
        return f"No plan within the budget is told to be better than the searched one, but it cannot be told from {_and(plans.not_told)}"
    if not any(_is_baseline(item) for item in plans.plans):
        return "The searched plan is recommended without a rival: no other plan within the budget was measured"
    return "The searched plan wins: every other plan within the budget measured higher"


def _and(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"


def _is_baseline(item: PlanReading) -> bool:
    return item.within_budget and item.origin not in NO_BASELINES and item.measured is not None


def _kl(item: PlanReading) -> float:
    return float("inf") if item.measured is None else item.measured.value


def compared(analysis: Analysis) -> str:
    """Every plan made for the budget, and the uniform formats; empty where no plan was measured."""
    plans = analysis.plans
    if plans is None:
        return ""
    rivals = [item for item in plans.plans if item.origin not in ("frontier", "random")]
    rivals.sort(key=lambda item: (item.origin != "search", not item.within_budget, _kl(item)))
    randoms = [item for item in plans.plans if item.origin == "random"]
    head = ["plan", "bits", "stored bytes", "budget", "KL [95%]", "sum [95%]", "second order [95%]", "KL / sum [95%]"]
    head += ["searched less this [95%]", "searched / this [95%]", "searched plan is"]
    rows = [_row(item) for item in rivals]
    if randoms:
        rows.append(_random_row(randoms))
    sections = [
        "## Whole plans, measured",
        f"**{markdown(outcome(plans), 10**3)}.**{_unmeasured(analysis, plans)}",
        _compared_text(analysis, plans),
        table(head, rows, text=(0, 3, 10)),
        _legend(plans),
    ]
    if randoms:
        sections.append(details(f"Every random plan ({len(randoms)})", table(head, map(_row, randoms), text=(0, 3, 10))))
    return "\n\n".join(sections)


def _unmeasured(analysis: Analysis, plans: PlansReading) -> str:
    """What a recommendation of another plan leaves open."""
    other = plans.recommended not in (None, plans.searched)
    answered = analysis.decision is not None and analysis.decision.plan.accuracy
    return (
        " Its accuracy was not measured: variant `plan` is the searched plan."
        if other and PLAN in analysis.variants and not answered
        else ""
    )


def _compared_text(analysis: Analysis, plans: PlansReading) -> str:
    few = f" {plans.sequences} sequences are too few to resample: inconclusive." if plans.sequences < MIN_SEQUENCES else ""
    return (
        f"KL({analysis.reference} || plan) in nats per token on n = {plans.sequences} held-out sequences ({plans.tokens:,} tokens), "
        f"from which no plan was made; the budget is {_budget(plans)}. Sum: of the separate sensitivities on the "
        "sensitivity sequences. "
        "Second order: from the screen's scores, with all interactions. The last three columns set the searched plan beside each other "
        f"one, paired over sequences: below 0, or below 1, it is better.{_alike(plans)}{few}"
    )


def _alike(plans: PlansReading) -> str:
    """What stands beside plans that nobody would apply as they were measured; empty where there is none."""
    alone = [item for item in plans.plans if item.rounded == "alone" and item.origin not in NO_BASELINES]
    if not alone or not any(item.origin == "separate" for item in plans.plans):
        return ""
    random = sum(item.origin == "random" for item in alone)
    named = [markdown(item.name) for item in alone if item.origin != "random"] + (
        [f"{random} random plan{'s' if random > 1 else ''}"] if random else []
    )
    return f" Rounded module by module, which is faster, are {_and(named)}: beside them stands the searched plan rounded so too."


def _budget(plans: PlansReading) -> str:
    """What the plans were allowed."""
    if plans.latency_budget_ns is None:
        return f"{plans.budget_bytes:,} bytes"
    return f"{milliseconds(plans.latency_budget_ns / 1e9)} for the products of the units in a decode step"


def _legend(plans: PlansReading) -> str:
    """How the plans were made, one after the other."""
    origins = dict.fromkeys(item.origin for item in plans.plans if item.origin not in ("frontier", "uniform"))
    several = {"random": "random", "foreign": "others"}
    names = {item.origin: several.get(item.origin, markdown(item.name)) for item in plans.plans}
    return f"How they were made: {'; '.join(f'{names[origin]}: {MADE[origin]}' for origin in origins)}."


def _row(item: PlanReading) -> tuple[str, ...]:
    return (
        markdown(item.name),
        bits(item.average_bits),
        f"{item.stored_bytes:,}",
        "within" if item.within_budget else "over",
        "failed" if item.measured is None else nats(item.measured),
        nats(item.predicted),
        nats(item.fisher),
        ratio(item.ratio),
        *_against(item.searched),
    )


def _against(found: Compared | None) -> tuple[str, ...]:
    return (ABSENT,) * 3 if found is None else (more_nats(found.difference), ratio(found.ratio), f"**{found.word}**")


def _random_row(items: Sequence[PlanReading]) -> tuple[str, ...]:
    """All random plans in one row: from the best to the worst."""
    values = sorted(_kl(item) for item in items if item.measured is not None)
    ratios = sorted(item.searched.ratio.value for item in items if item.searched is not None and item.searched.ratio is not None)
    better = sum(item.searched is not None and item.searched.word == "better" for item in items)
    low, high = min(item.stored_bytes for item in items), max(item.stored_bytes for item in items)
    return (
        f"{len(items)} random plans" if len(items) > 1 else "1 random plan",
        ABSENT,
        f"{low:,} to {high:,}" if low < high else f"{low:,}",
        "within" if all(item.within_budget for item in items) else "over",
        f"{values[0]:.3g} to {values[-1]:.3g}" if values else "failed",
        *(ABSENT,) * 4,
        f"{ratios[0]:.2f} to {ratios[-1]:.2f}" if ratios else ABSENT,
        f"better than {better} of {len(items)}",
    )


def search(analysis: Analysis) -> str:
    """The rounds of the search; empty where none was made."""
    found = analysis.search
    if found is None:
        return ""
    units = len(analysis.decision.units) if analysis.decision else 0
    of = f" of {units}" if units else ""
    noun = f"{analysis.granularity}s" if analysis.granularity else "units"
    kept = found.tolerance is not None
    start = "the smallest plan of the separate sensitivities that keeps the tolerance" if kept else "the plan of the separate sensitivities"
    shrunk = f", and {found.start_bytes:,} stored bytes became {found.found_bytes:,}" if kept else ""
    text = (
        f"From {start}, on the n = {found.sequences} sensitivity sequences: KL {nats(found.start)} became "
        f"{nats(found.found)} nats per token, {ratio(found.ratio)} of it{shrunk}, with {found.changed}{of} {noun} changed. "
        f"{_kept(found)}It ended because "
        f"{found.ended}. These sequences chose the plan, so its KL on them flatters it: how good it is, held-out sequences say."
    )
    rows = [_step(number, step) for number, step in enumerate(found.steps, 1)]
    tried = ("round", "single changes tried", "plans tried", "least KL among them [95%]")
    head = (*tried, "accepted", f"{noun} changed", "KL after [95%]", "stored bytes after")
    return "## How the plan was searched\n\n" + text + ("\n\n" + table(head, rows) if rows else "")


def _kept(found: SearchReading) -> str:
    """What the tolerance asks for; empty where the budget is in bits."""
    if found.tolerance is None:
        return ""
    return (
        f"The tolerance is {found.tolerance:.3g}: each round looks for fewer bytes within it, or for a lower KL at as many bytes, which is "
        "slack for the next. "
    )


def _step(number: int, step: SearchStep) -> tuple[str, ...]:
    accepted = "yes" if step.accepted else "no"
    return (
        str(number),
        str(step.swaps),
        str(step.proposals),
        nats(step.least),
        accepted,
        str(step.changed),
        nats(step.kl),
        f"{step.stored_bytes:,}",
    )


def on_frontier(plans: PlansReading) -> list[PlanReading]:
    """The plans that show what bytes buy, from the fewest bytes up: one budget after another, the uniform formats, and the plan."""
    shown = [item for item in plans.plans if item.origin in ("frontier", "uniform", "additive", "search")]
    return sorted(shown, key=lambda item: (item.stored_bytes, item.name))


def frontier(analysis: Analysis) -> str:
    """Measured KL by stored bytes; empty where no other budget was measured."""
    plans = analysis.plans
    if plans is None or not any(item.origin == "frontier" for item in plans.plans):
        return ""
    rows = [
        (
            f"**{markdown(item.name)}**" if item.name == plans.recommended else markdown(item.name),
            MADE[item.origin],
            bits(item.average_bits),
            f"{item.stored_bytes:,}",
            "failed" if item.measured is None else nats(item.measured),
            nats(item.predicted),
        )
        for item in on_frontier(plans)
    ]
    head = ("plan", "how it was made", "bits", "stored bytes", "KL [95%]", "sum [95%]")
    return (
        "## What other budgets would give\n\n"
        f"From the fewest bytes up; KL in nats per token on n = {plans.sequences} held-out sequences. Only the plan for the budget was "
        "searched: at the others a search might do better. A chart stands in the [technical diagram](technical_diagram.md).\n\n"
        + table(head, rows, text=(0, 1))
    )
