"""Which questions an analysis leaves open, so that a reader need not know statistics to know where to stop.

Every caveat that applies is listed; none is dropped for brevity.
"""

from __future__ import annotations

from collections.abc import Iterator

from bitzones.analysis.caveat_records import Caveat
from bitzones.analysis.results import Analysis
from bitzones.analysis.task_answers import NORMALIZED
from bitzones.stats.intervals import ALPHA, MIN_SEQUENCES

__all__ = ["inconclusive"]


def inconclusive(analysis: Analysis) -> tuple[Caveat, ...]:
    """Every caveat that applies to this analysis, in the order of the report."""
    return (
        *_model(analysis),
        *_sensitivity(analysis),
        *_plan(analysis),
        *_sums(analysis),
        *_whole_plans(analysis),
        *_fisher(analysis),
        *_accuracy(analysis),
        *_likelihood(analysis),
        *_families(analysis),
        *_missing(analysis),
    )


def _model(analysis: Analysis) -> Iterator[Caveat]:
    if analysis.no_decision is not None:
        yield Caveat(code="no_plan")
    if analysis.unswept:
        yield Caveat(code="layers_not_swept", layers=analysis.unswept)
    for kind, count in analysis.model.not_quantizable.items() if analysis.model else ():
        yield Caveat(code="not_quantizable", names=(kind,), count=count)
    for format_, reasons in analysis.model.staying.items() if analysis.model else ():
        for reason, modules in reasons.items():
            yield Caveat(code="modules_stay", names=(format_, modules[0], reason), count=len(modules))


def _sensitivity(analysis: Analysis) -> Iterator[Caveat]:
    if not analysis.sensitivity:
        return
    n = analysis.sequences
    if n < MIN_SEQUENCES:
        yield Caveat(code="few_sensitivity_sequences", n=n)
    tied = tuple(sorted(item.layer for item in analysis.ranking if item.told_from_next is False))
    if n >= MIN_SEQUENCES and tied:
        yield Caveat(code="layer_order", layers=tied, n=n)
    unmeasured = {item.layer for item in analysis.sensitivity if item.kl is None and item.layer is not None}
    if unmeasured:
        yield Caveat(code="layers_not_measured", layers=tuple(sorted(unmeasured)))
    yield Caveat(code="other_text_sensitivity", count=analysis.tokens, n=n)


def _plan(analysis: Analysis) -> Iterator[Caveat]:
    """What was not measured of the plan as a whole."""
    if analysis.decision is None:
        return
    plan = analysis.decision.plan
    if plan.measured_kl is None:
        yield Caveat(code="plan_kl_not_measured" if plan.accuracy else "plan_not_measured")
    elif not plan.accuracy:
        yield Caveat(code="plan_accuracy_not_measured")
    yield Caveat(code="safe_layers_tested_together" if plan.accuracy else "safe_layers_not_tested")


def _sums(analysis: Analysis) -> Iterator[Caveat]:
    """How far sums of separate sensitivities are from what whole variants measured."""
    if analysis.decision is None:
        return
    ratios = [(item.variant, item.ratio) for item in analysis.whole if item.ratio is not None]
    for variant, ratio in ratios:
        if ratio.low is None or ratio.high is None or not ratio.low <= 1 <= ratio.high:
            yield Caveat(code="sum_is_off", names=(variant,), ratio=ratio, n=analysis.sequences)
    if not ratios:
        yield Caveat(code="sum_not_checked")


def _whole_plans(analysis: Analysis) -> Iterator[Caveat]:
    found = analysis.plans
    if found is None:
        if analysis.search is not None:
            yield Caveat(code="search_not_held_out")
        return
    enough = found.sequences >= MIN_SEQUENCES
    if not enough:
        yield Caveat(code="few_held_out_sequences", n=found.sequences)
    elif found.not_told:
        yield Caveat(code="plans_not_told_apart", names=found.not_told, n=found.sequences)
    yield Caveat(code="other_text_held_out", n=found.sequences)
    compared = sum(item.searched is not None for item in found.plans)
    if compared > 1 and enough:
        yield Caveat(code="many_comparisons", count=compared)
    if randoms := sum(item.origin == "random" for item in found.plans):
        yield Caveat(code="random_plans", count=randoms)
    if analysis.search is not None:
        yield Caveat(code="search_not_exhaustive")


def _fisher(analysis: Analysis) -> Iterator[Caveat]:
    if unsure := tuple(item.format for item in analysis.fisher_proxy if item.spearman is None):
        yield Caveat(code="fisher_order", names=unsure)


def _accuracy(analysis: Analysis) -> Iterator[Caveat]:
    """Verdicts that these items do not allow: one caveat for all variants with the same minimum detectable effect."""
    alike: dict[tuple[str, str, int, float | None], list[str]] = {}
    for item in analysis.accuracy:
        if item.against is not None and item.against.verdict.word == "inconclusive":
            alike.setdefault((item.task, item.metric, item.n, item.against.minimum_detectable_effect), []).append(item.variant)
    for (task, metric, n, effect), variants in alike.items():
        yield Caveat(code="accuracy_change", task=task, metric=metric, n=n, effect=effect, names=tuple(variants))
    for item in analysis.accuracy:
        if item.variant == analysis.reference and item.metric != NORMALIZED and (item.above_chance_p or 0) >= ALPHA:
            yield Caveat(code="reference_at_chance", task=item.task, right=item.k, n=item.n, chance=item.chance)


def _likelihood(analysis: Analysis) -> Iterator[Caveat]:
    for item in analysis.likelihood:
        if item.against and item.against.verdict.word == "inconclusive":
            yield Caveat(code="likelihood_change", names=(item.variant,), task=item.task, n=item.n)


def _families(analysis: Analysis) -> Iterator[Caveat]:
    """P-values are corrected within a task and metric, not over all of them."""
    by_accuracy = {(item.task, item.metric) for item in analysis.accuracy if item.against is not None}
    families = len(by_accuracy) + len({item.task for item in analysis.likelihood if item.against})
    if families > 1:
        yield Caveat(code="many_families", count=families)


def _missing(analysis: Analysis) -> Iterator[Caveat]:
    for name in ("accuracy", "latency", "memory", "sensitivity", "layers"):
        if not getattr(analysis, name):
            yield Caveat(code="kind_not_measured", names=(name,))
    if refused := {item.static_cache_refused: None for item in analysis.latency if item.static_cache_refused is not None}:
        yield Caveat(code="static_cache_refused", names=tuple(refused))
    rounds = min((item.rounds for item in analysis.latency), default=MIN_SEQUENCES)
    if rounds < MIN_SEQUENCES:
        yield Caveat(code="few_rounds", n=rounds)
    if analysis.latency:
        yield Caveat(code="one_process")
    if analysis.failures:
        yield Caveat(code="cells_failed", count=len(analysis.failures))
    if analysis.layers:
        yield Caveat(code="no_cause")
