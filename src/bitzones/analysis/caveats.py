"""Inconclusive, one sentence each, so that a reader does not have to know statistics to know where to stop.

Sentences come from the analysis alone. This module does not know which of them matter to whom: it leaves out nothing that applies. Task and
variant names stand in them as the run file has them: whoever shows a sentence escapes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bitzones.analysis.results import Analysis
from bitzones.analysis.task_answers import NORMALIZED
from bitzones.analysis.zones import ranges
from bitzones.stats.intervals import ALPHA, MIN_SEQUENCES

__all__ = ["inconclusive"]


def inconclusive(analysis: Analysis) -> tuple[str, ...]:
    """Every limit that applies to this analysis."""
    return (
        *_plan(analysis),
        *_sensitivity(analysis),
        *_whole(analysis),
        *_plans(analysis),
        *_screen(analysis),
        *_accuracy(analysis),
        *_missing(analysis),
    )


def _named(layers: Iterable[int]) -> str:
    """``layer 1`` or ``layers 0-2``."""
    place = ranges(tuple(layers))
    return f"layer {place}" if place.isdigit() else f"layers {place}"


def _some(modules: tuple[str, ...]) -> str:
    """The first module by name, and how many more."""
    return modules[0] if len(modules) == 1 else f"{modules[0]} and {len(modules) - 1} more"


def _plan(analysis: Analysis) -> Iterator[str]:
    if analysis.no_decision is not None:
        yield f"Which layers are safe, and what to store them in: no plan was made, for {analysis.no_decision}."
    if analysis.unswept:
        yield (
            f"What {_named(analysis.unswept)} would lose: not swept, so the plan leaves them as they are, and neither its bytes nor "
            "its bits count them."
        )
    for kind, count in analysis.model.not_quantizable.items() if analysis.model else ():
        yield (
            f"What {kind} would lose: quanto has no quantized counterpart for it, and its {count:,} parameters inside the decoder layers "
            f"stay at {analysis.reference}."
        )
    for format_, reasons in analysis.model.staying.items() if analysis.model else ():
        for why, modules in reasons.items():
            stay = "it stays" if len(modules) == 1 else "they stay"
            yield f"What {_some(modules)} would lose at {format_}: {stay} at {analysis.reference}; {why}."


def _sensitivity(analysis: Analysis) -> Iterator[str]:
    if not analysis.sensitivity:
        return
    n = analysis.sequences
    if n < MIN_SEQUENCES:
        yield (
            f"Zones and the order of layers: inconclusive. The sensitivity set has {n} sequences; below {MIN_SEQUENCES} resampling "
            "understates how much the numbers vary, so no interval is given."
        )
    tied = [item.layer for item in analysis.ranking if item.told_from_next is False]
    if n >= MIN_SEQUENCES and tied:
        yield (
            f"The exact order of layers: {_named(tied)} cannot be told from the next less sensitive one "
            f"(the paired 95% interval of the difference holds 0, n = {n} sequences)."
        )
    unmeasured = {item.layer for item in analysis.sensitivity if item.kl is None and item.layer is not None}
    if unmeasured:
        yield f"What {_named(unmeasured)} would lose at every format: at least one could not be measured there and is not in the plan."
    yield (
        f"Sensitivity on other text: it was measured on {analysis.tokens:,} tokens in {n} sequences from the train splits of the tasks, "
        "and the intervals cover the choice of such sequences only."
    )


def _whole(analysis: Analysis) -> Iterator[str]:
    if analysis.decision is None:
        return
    plan = analysis.decision.plan
    if plan.measured_kl is None:
        what = "KL" if plan.accuracy else "KL and accuracy"
        yield f"The plan's {what} as a whole: its KL is predicted as a sum of separate sensitivities and was not measured."
    elif not plan.accuracy:
        yield "The plan's accuracy: the model was not asked any task with its weights stored as the plan says."
    if not plan.accuracy:
        yield (
            "Whether a SAFE layer does no harm: it is what the budget squeezes first, and what the whole plan does to accuracy was not "
            "measured."
        )
    else:
        yield "Whether a SAFE layer does no harm by itself: accuracy was measured of the whole plan, not of one layer."
    ratios = [(item.variant, item.ratio) for item in analysis.whole if item.ratio is not None]
    for variant, ratio in ratios:
        if ratio.low is None or ratio.high is None:
            yield (
                f"How far that sum can be trusted: for {variant} the measured KL is {ratio.value:.2f} times the sum, "
                f"and {analysis.sequences} sequences give no interval."
            )
        elif not ratio.low <= 1 <= ratio.high:
            yield (
                f"How far that sum can be trusted: for {variant} the measured KL is {ratio.value:.2f} times the sum "
                f"(95% interval {ratio.low:.2f} to {ratio.high:.2f}, n = {analysis.sequences} sequences)."
            )
    if not ratios:
        yield "How far that sum can be trusted: no whole variant was measured beside its units."


def _plans(analysis: Analysis) -> Iterator[str]:
    found = analysis.plans
    if analysis.search is not None and found is None:
        yield "Whether the search gained anything: its plan was measured on the sequences that chose it, and on no others."
    if found is None:
        return
    if found.sequences < MIN_SEQUENCES:
        yield (
            f"Which plan is better: {found.sequences} held-out sequences are fewer than {MIN_SEQUENCES}, so no interval is given and "
            "no plan "
            "is told from another."
        )
    elif found.not_told:
        yield (
            f"Whether the searched plan is better than {', '.join(found.not_told)}: the paired 95% interval of the difference holds 0 "
            f"(n = {found.sequences} held-out sequences)."
        )
    yield (
        f"How plans fare on other text: the n = {found.sequences} held-out sequences come from the same tasks as the calibration "
        "sequences, "
        "and the intervals cover the choice of such sequences only."
    )
    compared = [item for item in found.plans if item.searched is not None]
    if len(compared) > 1 and found.sequences >= MIN_SEQUENCES:
        yield (
            f"All {len(compared)} comparisons with the searched plan at once: each stands on its own 95% interval, which allows one "
            "false word "
            "in twenty."
        )
    randoms = sum(item.origin == "random" for item in found.plans)
    if randoms:
        yield f"How good a lucky plan can be: {randoms} random {'plans are' if randoms > 1 else 'plan is'} no bound."
    if analysis.search is not None:
        yield "Whether there is a still better plan: the search follows what measures lower around the plan at hand, and tries few of all."


def _screen(analysis: Analysis) -> Iterator[str]:
    unsure = [item.format for item in analysis.fisher_proxy if item.spearman is None]
    if unsure:
        yield f"Whether the Fisher proxy ranks as the measurement does at {', '.join(unsure)}: too few units or sequences for an interval."


def _accuracy(analysis: Analysis) -> Iterator[str]:
    pairs = [(item, item.against) for item in analysis.accuracy if item.against is not None]
    open_: dict[tuple[str, str, str], list[str]] = {}
    for item, against in pairs:
        if against.verdict.word == "inconclusive":
            drop = against.minimum_detectable_effect
            could = f"{item.n} items show a loss of {drop:.1%} or more" if drop is not None else f"{item.n} items can show no loss"
            open_.setdefault((item.task, item.metric, could), []).append(item.variant)
    for (task, metric, could), variants in open_.items():
        yield (
            f"Whether {' or '.join(variants)} {'are' if len(variants) > 1 else 'is'} worse on {task} by {metric}: {could} "
            "(80% power at the gains seen, in the first step of Holm's method)."
        )
    for item in analysis.accuracy:
        if item.variant == analysis.reference and item.metric != NORMALIZED and (item.above_chance_p or 0) >= ALPHA:
            yield f"Losses on {item.task}: the reference itself ({item.k}/{item.n}) is not above chance ({item.chance:.1%})."
    for likelihood in analysis.likelihood:
        if likelihood.against and likelihood.against.verdict.word == "inconclusive":
            yield (
                f"Whether {likelihood.variant} finds the right answers of {likelihood.task} less likely: {likelihood.n} items do not "
                "exclude a loss."
            )
    families = len({(item.task, item.metric) for item, _ in pairs}) + len({item.task for item in analysis.likelihood if item.against})
    if families > 1:
        yield (
            f"All verdicts at once: they are corrected for the variants within one task and metric, and each of the {families} such "
            "families allows one false alarm in twenty; 'non-inferior' stands on an interval of its own."
        )


def _missing(analysis: Analysis) -> Iterator[str]:
    for name, found in (
        ("accuracy", analysis.accuracy),
        ("latency", analysis.latency),
        ("memory", analysis.memory),
        ("sensitivity", analysis.sensitivity),
        ("activation and attention statistics", analysis.layers),
    ):
        if not found:
            yield f"Anything about {name}: the run holds no such cell."
    rounds = min((item.rounds for item in analysis.latency), default=MIN_SEQUENCES)
    if rounds < MIN_SEQUENCES:
        yield f"How much latency varies: {rounds} rounds are fewer than {MIN_SEQUENCES}, so no interval is given."
    if analysis.latency:
        yield "Latency elsewhere: the rounds come from one process on one machine, and their intervals cover no other."
    if count := len(analysis.failures):
        yield f"What {count} {'cells' if count > 1 else 'cell'} without a result would have shown: listed with reasons under Failed cells."
    if analysis.layers:
        yield "Why a layer is sensitive: activation and attention statistics describe the reference, and no cause is claimed."
