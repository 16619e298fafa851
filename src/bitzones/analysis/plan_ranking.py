"""Whole plans: their measured KL on held-out sequences, the predictions, and which plan to recommend.

The searched plan is compared with every other on the same held-out sequences and resamples. Plans rounded module by module are compared
with the searched plan rounded the same way. Another plan counts as better only if the paired 95% interval of the difference excludes 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitzones.allocation.time_cost import plan_ns
from bitzones.analysis.fisher_agreement import ProxyScores
from bitzones.analysis.layer_sensitivity import Measured, Sample, sample_of
from bitzones.analysis.plan_verdicts import Compared, PlanReading, PlansReading, SearchEnd, SearchReading, SearchStep
from bitzones.schema.performance_cells import UnitLatencyCell
from bitzones.schema.plan_cells import NamedTrial, PlanOrigin, PlansCell, SearchCell, Trial
from bitzones.schema.profile import PLAN
from bitzones.stats.bootstrap import bootstrap_ratio, estimate, weighted_ratio
from bitzones.stats.intervals import Estimate

__all__ = ["HELD_OUT_SEED", "NO_BASELINES", "Chosen", "chosen", "history", "judge"]

NO_BASELINES = ("search", "frontier", "separate", "slice")
"""Origins that are no alternative to the searched plan: itself, plans at other budgets, its formats rounded another way, and plans for one
task or text domain only, which `bitzones.analysis.slice_reading` judges."""

HELD_OUT_SEED = 1
"""Added to the seed for held-out sequences, so that their resamples are independent of those of the sensitivity set."""

TINY = np.finfo(np.float64).tiny
"""Avoids a division by 0 where the quotient is not used."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Chosen:
    """The recommended plan: unit to format, origin, and its KL on held-out sequences, None where not measured."""

    name: str
    origin: PlanOrigin
    units: Mapping[str, str]
    measured: Estimate | None = None
    sequences: int | None = None
    held_out_sha256: str | None = None
    variant: str = PLAN
    """The variant that is quantized by it, or as the searched plan is."""


def chosen(cell: PlansCell | None, reading: PlansReading | None, searched: SearchCell | None) -> Chosen | None:
    """The plan that the measurements recommend; None without whole plans, where only the additive plan is left.

    A searched plan that was not measured on held-out sequences is recommended for its KL on the sensitivity set.
    """
    if cell is not None and reading is not None and reading.recommended is not None:
        trial = next(item for item in cell.plans if item.name == reading.recommended)
        measured = reading.named(trial.name).measured
        return Chosen(trial.name, trial.origin, trial.units, measured, reading.sequences, reading.sequences_sha256)
    if searched is not None and searched.found.kl_nats is not None:
        return Chosen(PLAN, "search", searched.found.units)
    return None


def judge(
    cell: PlansCell,
    measured: Measured | None,
    fisher: ProxyScores | None,
    reference: str,
    resamples: int,
    seed: int,
    times: UnitLatencyCell | None = None,
) -> PlansReading:
    """Every plan of the cell with its intervals, and the recommended one.

    Args:
        cell: the plans; exactly one has the origin "search".
        measured: the separate sensitivities, for predictions, with at least ``resamples`` resamples.
        fisher: scores, for predictions to second order.
        reference: the format that stays.
        resamples: of the held-out sequences, at least.
        seed: the run's.
        times: of the units, needed where the budget is one of time: without them no plan is within it.

    Raises:
        ValueError: no sequence has a scored token.
    """
    sample = sample_of(cell.sequence_tokens, resamples, seed + HELD_OUT_SEED)
    nats = {item.name: np.asarray(item.kl_nats)[sample.kept] for item in cell.plans if item.kl_nats is not None}
    searched = next(item for item in cell.plans if item.origin == "search")
    twin = next((item for item in cell.plans if item.origin == "separate"), None)
    against = {
        item.name: _compared(sample, nats[ours.name], nats[item.name])
        for item in cell.plans
        if item.name != searched.name and item.name in nats and (ours := _alike(item, searched, twin)).name in nats
    }
    plans = tuple(
        _reading(item, _within(cell, item, times), sample, nats.get(item.name), against.get(item.name), measured, fisher, reference)
        for item in cell.plans
    )
    return PlansReading(
        sequences_sha256=cell.sequences_sha256,
        sequences=sample.sequences,
        tokens=int(sample.tokens.sum()),
        budget_bytes=cell.budget_bytes,
        latency_budget_ns=cell.budget_ns,
        plans=plans,
        searched=searched.name,
        beaten_by=tuple(item.name for item in _baselines(plans) if item.searched is not None and item.searched.word == "worse"),
        not_told=tuple(item.name for item in _baselines(plans) if item.searched is not None and item.searched.word == "inconclusive"),
        recommended=_recommended(plans, searched.name),
    )


def _alike(item: NamedTrial, searched: NamedTrial, twin: NamedTrial | None) -> NamedTrial:
    """The searched plan, rounded the same way as the other."""
    return twin if twin is not None and item.rounded == "alone" and item is not twin else searched


def _within(cell: PlansCell, item: NamedTrial, times: UnitLatencyCell | None) -> bool:
    if cell.budget_ns is None:
        return item.stored_bytes <= cell.budget_bytes
    taken = plan_ns(times, item.units) if times is not None else None
    return taken is not None and taken <= cell.budget_ns


def _baselines(plans: tuple[PlanReading, ...]) -> list[PlanReading]:
    """Plans that could be recommended instead, lowest KL first."""
    found = [item for item in plans if item.within_budget and item.origin not in NO_BASELINES and item.measured is not None]
    return sorted(found, key=_kl)


def _kl(item: PlanReading) -> float:
    return float("inf") if item.measured is None else item.measured.value


def _recommended(plans: tuple[PlanReading, ...], searched: str) -> str | None:
    baselines = _baselines(plans)
    plan = next(item for item in plans if item.name == searched)
    better = [item for item in baselines if plan.measured is None or (item.searched is not None and item.searched.word == "worse")]
    if better:
        return better[0].name
    return plan.name if plan.measured is not None and plan.within_budget else None


def _compared(sample: Sample, plan: Floats, other: Floats) -> Compared:
    tokens, n = sample.tokens, sample.sequences
    ours, theirs = (weighted_ratio(sample.weights, nats, tokens) for nats in (plan, other))
    difference = estimate((plan.sum() - other.sum()) / tokens.sum(), ours - theirs, n)
    with np.errstate(over="ignore"):  # a divisor near 0
        value, resampled = plan.sum() / max(other.sum(), TINY), ours / np.maximum(theirs, TINY)
    shown = min(other.sum(), theirs.min()) > 0 and math.isfinite(value) and np.isfinite(resampled).all()
    ratio = estimate(value, resampled, n) if shown else None
    told = difference.low is not None and difference.high is not None
    word = "better" if told and difference.high < 0 else "worse" if told and difference.low > 0 else "inconclusive"  # type: ignore[operator]
    return Compared(difference=difference, ratio=ratio, word=word)


def _reading(
    item: NamedTrial,
    within: bool,
    sample: Sample,
    nats: Floats | None,
    against: Compared | None,
    measured: Measured | None,
    fisher: ProxyScores | None,
    reference: str,
) -> PlanReading:
    choice = measured.choice(item.units) if measured else None
    weights = sum(unit.parameters for unit in measured.cell.units) if measured else 0
    return PlanReading(
        name=item.name,
        origin=item.origin,
        stored_bytes=item.stored_bytes,
        average_bits=item.stored_bytes * 8 / weights if weights else None,
        within_budget=within,
        measured=None if nats is None else bootstrap_ratio(sample.weights, nats, sample.tokens),
        predicted=measured.summed(choice) if measured and choice is not None else None,
        fisher=fisher.of_plan(item.units, reference) if fisher else None,
        ratio=_ratio(sample, nats, measured, choice) if measured and nats is not None and choice is not None else None,
        searched=against,
        rounded=item.rounded,
    )


def _ratio(sample: Sample, nats: Floats, measured: Measured, choice: tuple[int, ...]) -> Estimate | None:
    """Measured by predicted KL; the smaller of the two independent samples decides whether there is an interval."""
    rows = np.arange(len(choice))
    predicted, sums = measured.mean[rows, choice].sum(), measured.resampled[:, rows, choice].sum(axis=1)
    if not (sums > 0).all() or predicted <= 0:
        return None
    found = weighted_ratio(sample.weights, nats, sample.tokens)
    return estimate(nats.sum() / sample.tokens.sum() / predicted, found / sums, min(sample.sequences, measured.sequences))


def history(cell: SearchCell, resamples: int, seed: int, allowed: int) -> SearchReading:
    """The search, round by round.

    Args:
        cell: what was tried.
        resamples: at least.
        seed: the run's.
        allowed: rounds that the profile allows.

    Raises:
        ValueError: no sequence has a scored token.
    """
    sample = sample_of(cell.sequence_tokens, resamples, seed)
    at, steps = cell.start, []
    for item in cell.rounds:
        before, at = at, at if item.accepted is None else item.trials[item.accepted]
        least = min((trial for trial in item.trials if trial.kl_nats is not None), key=lambda trial: sum(trial.kl_nats or ()), default=None)
        steps.append(
            SearchStep(
                swaps=len(item.around),
                proposals=len(item.trials),
                least=_estimate(sample, least),
                accepted=item.accepted is not None,
                changed=_changed(before, at),
                kl=_estimate(sample, at),
                stored_bytes=at.stored_bytes,
            )
        )
    start, found = _kept(sample, cell.start), _kept(sample, cell.found)
    return SearchReading(
        sequences=sample.sequences,
        budget_bytes=cell.budget_bytes,
        start=_estimate(sample, cell.start),
        found=_estimate(sample, cell.found),
        ratio=_compared(sample, found, start).ratio if start is not None and found is not None else None,
        changed=_changed(cell.start, cell.found),
        steps=tuple(steps),
        ended=_ended(cell, allowed),
        tolerance=None if cell.tolerance_nats is None else cell.tolerance_nats / float(sample.tokens.sum()),
        start_bytes=cell.start.stored_bytes,
        found_bytes=cell.found.stored_bytes,
    )


def _ended(cell: SearchCell, allowed: int) -> SearchEnd:
    if not cell.rounds:
        return "no_rounds"
    if cell.rounds[-1].accepted is not None:
        return "rounds_done" if len(cell.rounds) >= allowed else "stopped"
    return "no_improvement" if cell.rounds[-1].trials else "nothing_proposed"


def _kept(sample: Sample, trial: Trial) -> Floats | None:
    return None if trial.kl_nats is None else np.asarray(trial.kl_nats)[sample.kept]


def _estimate(sample: Sample, trial: Trial | None) -> Estimate | None:
    nats = None if trial is None else _kept(sample, trial)
    return None if nats is None else bootstrap_ratio(sample.weights, nats, sample.tokens)


def _changed(before: Trial, after: Trial) -> int:
    return sum(after.units.get(unit) != name for unit, name in before.units.items())
