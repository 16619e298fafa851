"""The sections on whole plans: their KL on held-out sequences, the search, and plans at other budgets."""

from __future__ import annotations

from collections.abc import Sequence

from bitzones.analysis.plan_ranking import NO_BASELINES
from bitzones.analysis.plan_verdicts import Compared, PlanReading, PlansReading, SearchReading, SearchStep
from bitzones.analysis.results import Analysis
from bitzones.report.markdown.tables import ABSENT, bits, details, markdown, milliseconds, more_nats, nats, ratio, table
from bitzones.schema.profile import PLAN, TUNED
from bitzones.stats.intervals import MIN_SEQUENCES

__all__ = ["compared", "frontier", "on_frontier", "outcome", "search"]

MADE = {
    "search": "local search over measured whole plans, starting from the additive one",
    "additive": "lowest sum of separate sensitivities",
    "uniform": "one format for all",
    "contiguous": "the last units in the highest format, all earlier units in the lowest",
    "random": "random, filling the budget",
    "frontier": "lowest sum of separate sensitivities, another budget",
    "foreign": "made by another tool, measured here",
    "stock": "the same search, over uncalibrated formats only",
    "tuned": "the searched plan, its scales and shifts then trained",
    "separate": "the plan's formats, each module rounded on its own",
    "slice": "the same search, on the sequences of one task or text domain",
}


def outcome(plans: PlansReading) -> str:
    """Whether the searched plan wins, as one sentence of plain text."""
    if plans.recommended is None:
        return "No plan within the budget could be measured, so the measurements recommend none"
    if plans.recommended != plans.searched:
        if plans.beaten_by == (TUNED,):
            return "The searched plan, tuned, is recommended: no other plan within the budget measured lower than the searched one"
        if plans.beaten_by:
            return f"The searched plan does not win: {_and(plans.beaten_by)} measured lower, and {plans.recommended} is recommended"
        return f"The searched plan could not be measured, and {plans.recommended} is recommended"
    return _not_beaten(plans)


def _not_beaten(plans: PlansReading) -> str:
    """The sentence where the searched plan is recommended."""
    if plans.not_told:
        return f"No plan within the budget is better than the searched one, but it cannot be told from {_and(plans.not_told)}"
    if not any(_is_baseline(item) for item in plans.plans):
        return "The searched plan is recommended; no other plan within the budget was measured"
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
    baselines = [item for item in plans.plans if item.origin not in ("frontier", "random")]
    baselines.sort(key=lambda item: (item.origin != "search", not item.within_budget, _kl(item)))
    randoms = [item for item in plans.plans if item.origin == "random"]
    head = ["plan", "bits", "stored bytes", "budget", "KL [95%]", "sum [95%]", "second order [95%]", "KL / sum [95%]"]
    head += ["searched minus this [95%]", "searched / this [95%]", "searched plan is"]
    rows = [_row(item) for item in baselines]
    if randoms:
        rows.append(_random_row(randoms))
    sections = [
        "## Measured plans",
        f"**{markdown(outcome(plans), 10**3)}.**{_unmeasured(analysis, plans)}",
        _compared_text(analysis, plans),
        table(head, rows, text=(0, 3, 10)),
        _legend(plans),
    ]
    if randoms:
        sections.append(details(f"Every random plan ({len(randoms)})", table(head, map(_row, randoms), text=(0, 3, 10))))
    return "\n\n".join(sections)


def _unmeasured(analysis: Analysis, plans: PlansReading) -> str:
    """That the accuracy of a recommended plan is unknown, where it is not the searched one."""
    other = plans.recommended not in (None, plans.searched)
    answered = analysis.decision is not None and analysis.decision.plan.accuracy
    return (
        " The recommended plan was not evaluated on any task: variant `plan` is the searched plan."
        if other and PLAN in analysis.variants and not answered
        else ""
    )


def _compared_text(analysis: Analysis, plans: PlansReading) -> str:
    few = f" {plans.sequences} sequences are too few for a bootstrap: inconclusive." if plans.sequences < MIN_SEQUENCES else ""
    return (
        f"KL({analysis.reference} || plan) in nats per token on n = {plans.sequences} held-out sequences ({plans.tokens:,} tokens), "
        f"which no plan has seen; the budget is {_budget(plans)}. Sum: the sum of separate sensitivities, on the sensitivity set. "
        "Second order: the estimate from Fisher scores, with all interactions. The last three columns compare the searched plan with each "
        f"other plan, paired over sequences: a difference below 0 and a ratio below 1 mean that it is better.{_alike(plans)}{few}"
    )


def _alike(plans: PlansReading) -> str:
    """Which plans were rounded module by module, and what they are compared with; empty where there are none."""
    alone = [item for item in plans.plans if item.rounded == "alone" and item.origin not in NO_BASELINES]
    if not alone or not any(item.origin == "separate" for item in plans.plans):
        return ""
    random = sum(item.origin == "random" for item in alone)
    named = [markdown(item.name) for item in alone if item.origin != "random"] + (
        [f"{random} random plan{'s' if random > 1 else ''}"] if random else []
    )
    return f" To save time, {_and(named)} were rounded module by module; they are compared with the searched plan rounded the same way."


def _budget(plans: PlansReading) -> str:
    """The budget of the plans."""
    if plans.latency_budget_ns is None:
        return f"{plans.budget_bytes:,} bytes"
    return f"{milliseconds(plans.latency_budget_ns / 1e9)} for the matrix products of all units in a decode step"


def _legend(plans: PlansReading) -> str:
    """How each plan was made."""
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
    """All random plans in one row, as ranges."""
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
    start = "the smallest additive plan within the tolerance" if kept else "the additive plan"
    shrunk = f", stored bytes from {found.start_bytes:,} to {found.found_bytes:,}" if kept else ""
    text = (
        f"Starting from {start}, on n = {found.sequences} sensitivity sequences, the search changed {found.changed}{of} {noun} and took "
        f"the KL from {nats(found.start)} to {nats(found.found)} nats per token, a ratio of {ratio(found.ratio)}{shrunk}. "
        f"{_kept(found)}It ended because {_ended(found)}. The search chose the plan on these sequences, so this KL is optimistic: judge "
        "the plan by the held-out KL."
    )
    rows = [_step(number, step) for number, step in enumerate(found.steps, 1)]
    tried = ("round", "single changes tried", "plans tried", "lowest KL of these [95%]")
    head = (*tried, "accepted", f"{noun} changed", "KL after [95%]", "stored bytes after")
    return "## Search\n\n" + text + ("\n\n" + table(head, rows) if rows else "")


def _ended(found: SearchReading) -> str:
    """Why the search ended, as a clause."""
    better = "fewer bytes within the tolerance, or a lower KL at as many" if found.tolerance is not None else "a lower KL"
    rounds = len(found.steps)
    return {
        "no_rounds": "no round was asked for",
        "rounds_done": f"it ran the {rounds} allowed {'round' if rounds == 1 else 'rounds'}",
        "stopped": "it was stopped before the allowed rounds were done",
        "nothing_proposed": "the last round proposed no new plan",
        "no_improvement": f"no plan of the last round had {better}",
    }[found.ended]


def _kept(found: SearchReading) -> str:
    """The tolerance; empty where the budget is in bits."""
    if found.tolerance is None:
        return ""
    return (
        f"The tolerance is {found.tolerance:.3g} nats per token: each round looks for fewer bytes within it, or for a lower KL at the same "
        "bytes, which leaves room for the next round. "
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
    """The plans of the KL-by-bytes frontier, fewest bytes first: plans at other budgets, uniform formats, and the plan."""
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
        "## Other budgets\n\n"
        f"Fewest bytes first; KL in nats per token on n = {plans.sequences} held-out sequences. The search ran at the profile's budget "
        "only; at other budgets it might do better. The [technical diagram](technical_diagram.md) charts this table.\n\n"
        + table(head, rows, text=(0, 1))
    )
