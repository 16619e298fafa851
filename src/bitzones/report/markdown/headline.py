"""The answer in three lines: which layers stay at 4 bits or more, what the plan saves, and what it costs in accuracy; a fourth where plans
were made by task: whether one serves all.

The first thing that a reader of the page or the terminal sees. Plain text: escape it before it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bitzones.analysis.plan import Around
from bitzones.analysis.results import Analysis, Decision
from bitzones.analysis.task_answers import NORMALIZED, Accuracy
from bitzones.analysis.zones import never_lowest
from bitzones.report.markdown import domain_tables, plan_tables, slice_tables, tuning_tables
from bitzones.report.markdown.caveat_words import layers_in_words
from bitzones.report.markdown.cost_words import budget_words
from bitzones.report.markdown.stability import split_half_in_short
from bitzones.report.markdown.tables import megabytes, nats, percent, plain, points
from bitzones.schema.formats import format_bits
from bitzones.schema.profile import PLAN, TUNED
from bitzones.stats.intervals import MIN_SEQUENCES

__all__ = ["WIDE_BITS", "Answer", "answers"]

WIDE_BITS = 4
"""Bits from which a layer counts as wide: 4-bit kernels are common, and few whole models survive fewer bits."""

MOST_TASKS = 3
"""Most tasks listed here; the accuracy section lists all."""


AROUND: Mapping[Around, str] = {"reference": "from separate sensitivities", "plan": "around the searched plan"}


@dataclass(frozen=True)
class Answer:
    """One question, its answer in a few words, and the details behind it."""

    question: str
    answer: str
    details: tuple[str, ...]


def answers(analysis: Analysis) -> tuple[Answer, ...]:
    """Layers, bytes and accuracy, and plans by task; without a plan, the reason and the accuracy of the uniform formats."""
    decision = analysis.decision
    if decision is None:
        why = plain(analysis.no_decision or "", 1000)
        return (Answer("What does the run recommend?", "No plan", (f"{why[:1].upper()}{why[1:]}.",)), _cost_of_variants(analysis))
    return _kept(analysis, decision), _saved(analysis, decision), _cost(analysis, decision), *_one_plan(analysis)


def _one_plan(analysis: Analysis) -> Iterator[Answer]:
    """Whether one plan serves every task, where that was asked."""
    found = analysis.slices
    if found is not None:
        yield Answer(f"Does one plan serve every {found.by}?", slice_tables.short(found), tuple(slice_tables.details_of(found)))


def _wide(analysis: Analysis, name: str) -> bool:
    return name not in analysis.formats or format_bits(name) >= WIDE_BITS


def _kept(analysis: Analysis, decision: Decision) -> Answer:
    layers = {
        item.layer: [_wide(analysis, unit.format) for unit in decision.units if unit.layer == item.layer] for item in decision.layer_zones
    }
    wholly = tuple(layer for layer, wide in layers.items() if all(wide))
    partly = tuple(layer for layer, wide in layers.items() if any(wide) and not all(wide))
    narrow = tuple(layer for layer, wide in layers.items() if not any(wide))
    details = [f"{len(wholly)} of {len(layers)} layers."]
    if partly:
        details.append(f"Some {analysis.granularity}s of each in {layers_in_words(partly)}.")
    details.append(
        f"Wholly below {WIDE_BITS} bits: {layers_in_words(narrow)}." if narrow else f"No layer is wholly below {WIDE_BITS} bits."
    )
    if analysis.unswept:
        details.append(f"Not swept, kept at {analysis.reference}: {layers_in_words(analysis.unswept)}.")
    details.append(_sure(analysis, decision))
    answer = layers_in_words(wholly).capitalize() if wholly else "No whole layer"
    return Answer(f"Which layers stay at {WIDE_BITS} bits or more?", answer, tuple(details))


def _sure(analysis: Analysis, decision: Decision) -> str:
    settings = analysis.profile.zones
    if analysis.sequences < MIN_SEQUENCES:
        return f"Stability: inconclusive, {analysis.sequences} sensitivity sequences are too few."
    never = never_lowest(decision.layer_zones, settings.agreement)
    plans_ = f"{settings.resamples} resampled plans ({AROUND[decision.around]}, n = {analysis.sequences} sequences)"
    sure = (
        f"Stability: at least {settings.agreement:.0%} of {plans_} keep {layers_in_words(never)} above the lowest format"
        f"{split_half_in_short(decision)}."
    )
    against = len(decision.contradicted)
    layers = "1 layer" if against == 1 else f"{against} layers"
    return f"{sure} The plan differs from the zone in {layers}." if against else sure


def _saved(analysis: Analysis, decision: Decision) -> Answer:
    plan = decision.plan
    saved = plan.reference_bytes - plan.achieved.stored_bytes
    share = percent(saved / plan.reference_bytes) if plan.reference_bytes else "-"
    sizes = (
        f"{megabytes(plan.achieved.stored_bytes)} instead of {megabytes(plan.reference_bytes)} for the quantized units, "
        f"{plan.achieved.average_bits:.2f} bits per weight with scales; the budget was {budget_words(plan.budget)}."
    )
    details = [
        sizes,
        *_whole_model(analysis, decision),
        f"{plan_tables.outcome(analysis.plans)}." if analysis.plans else "Not compared with other plans.",
    ]
    return Answer("What does the plan save?", f"{megabytes(saved)} ({share})", tuple(plain(line, 1000) for line in details))


def _whole_model(analysis: Analysis, decision: Decision) -> Iterator[str]:
    if decision.plan.origin not in ("search", "tuned"):
        return
    stored = {item.variant: item.stored_bytes for item in analysis.memory}
    reference = next((item.stored_bytes for item in analysis.memory if item.format == analysis.reference), None)
    if PLAN in stored and reference is not None:
        yield f"Whole model with embeddings: {megabytes(stored[PLAN])} instead of {megabytes(reference)}."


def _cost(analysis: Analysis, decision: Decision) -> Answer:
    plan, variant = decision.plan, PLAN if decision.plan.tuning is None else TUNED
    measured = [item for item in analysis.accuracy if item.variant == variant and item.metric != NORMALIZED]
    question = "What does it cost in accuracy?"
    domains = [f"{tuning_tables.in_short(analysis.tuning)}."] if analysis.tuning else []
    domains += [f"{said}." for said in [domain_tables.in_short(analysis.domains) if analysis.domains else None] if said]
    if plan.measured_kl is None:
        kl = f"KL predicted {nats(plan.predicted_kl)} nats per token, not measured."
    else:
        kl = f"KL {nats(plan.measured_kl)} nats per token, n = {plan.measured_sequences} held-out sequences."
    if not plan.accuracy or not measured:
        why = "only the searched plan was evaluated" if measured else "the plan was not evaluated on any task"
        return Answer(question, "Not measured", (f"{why[0].upper()}{why[1:]}.", kl, *domains))
    short = "; ".join(f"{plain(item.task, 24)} {_points(item)}" for item in measured[:MOST_TASKS])
    return Answer(question, short, (*(_task(analysis, item) for item in measured[:MOST_TASKS]), kl, *domains))


def _points(item: Accuracy) -> str:
    if item.against is None:
        return percent(item.share.value)
    return f"{100 * item.against.difference.value:+.1f} points: {item.against.verdict}"


def _task(analysis: Analysis, item: Accuracy) -> str:
    reference = next(
        (
            other
            for other in analysis.accuracy
            if (other.task, other.metric) == (item.task, item.metric) and other.format == analysis.reference
        ),
        None,
    )
    now = f"{percent(item.share.value)} [{percent(item.share.low)}, {percent(item.share.high)}]"
    if reference is None or item.against is None:
        return f"{plain(item.task, 24)}: {now} right, n = {item.n}, not paired with the reference."
    return (
        f"{plain(item.task, 24)}: from {percent(reference.share.value)} to {now}, {points(item.against.difference)} points on the same "
        f"n = {item.n} items{_too_few(item)}."
    )


def _too_few(item: Accuracy) -> str:
    """The minimum detectable effect, where the verdict is inconclusive."""
    if item.against is None or item.against.verdict.word != "inconclusive":
        return ""
    drop = item.against.minimum_detectable_effect
    return "; these items can show no loss" if drop is None else f"; the minimum detectable effect is {100 * drop:.1f} points"


def _cost_of_variants(analysis: Analysis) -> Answer:
    shown = [item for item in analysis.accuracy if item.metric != NORMALIZED and item.against is not None]
    details = tuple(f"{plain(item.variant, 24)} on {plain(item.task, 24)}: {_points(item)}, n = {item.n}." for item in shown)
    return Answer("What do the uniform formats cost?", "See below" if details else "Not measured", details)
