"""Where a run becomes an analysis: every question that a run can answer is asked once, in one place.

Nothing is decided here: the modules of this folder are asked in the order in which one needs another. It does not know how anything was
measured, nor how an analysis is shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bitzones.allocation import knapsack, time_cost
from bitzones.analysis import (
    accuracy_verdicts,
    attention,
    caveats,
    fisher_agreement,
    heuristics,
    latency_memory,
    layer_sensitivity,
    likelihood_changes,
    zones,
)
from bitzones.analysis import plan_ranking as plans
from bitzones.analysis.plan import PlanAccuracy
from bitzones.analysis.plan_verdicts import RuleAudit
from bitzones.analysis.reader import RunFile, one_line, read_run
from bitzones.analysis.results import Analysis, CalibratedFormats, Decision, Failure, Took
from bitzones.analysis.task_answers import Accuracy
from bitzones.schema.errors import PlanError, RunFileError
from bitzones.schema.profile import PLAN, REFERENCE_NAMES, variant_formats
from bitzones.schema.records import (
    AccuracyCell,
    DivergenceCell,
    FailedCell,
    FisherCell,
    LatencyCell,
    LayersCell,
    MemoryCell,
    PlansCell,
    Run,
    SearchCell,
    SensitivityCell,
    UnitLatencyCell,
)

__all__ = ["RunFile", "analyse", "read_run"]


@dataclass(frozen=True)
class _Found:
    """The cells that a run has at most once."""

    sweep: SensitivityCell | None
    fisher: FisherCell | None
    search: SearchCell | None
    plans: PlansCell | None
    times: UnitLatencyCell | None
    layers: LayersCell | None

    @property
    def planned(self) -> dict[str, str] | None:
        """The searched plan, unit to format, where the run holds it: what variant `PLAN` is."""
        if self.search is not None:
            return self.search.found.units
        return next((plan.units for plan in self.plans.plans if plan.origin == "search"), None) if self.plans else None

    def answered_as(self, units: dict[str, str], rivals: Iterable[str]) -> str | None:
        """The variant that is a plan: the searched one, or a rival that answers the tasks, the best of its origin; None where none is."""
        if self.planned == units:
            return PLAN
        for name in rivals:
            made = [plan for plan in self.plans.plans if plan.origin == name and plan.kl_nats is not None] if self.plans else []
            if made and min(made, key=lambda plan: sum(plan.kl_nats or ())).units == units:
                return name
        return None


def _found(run_file: RunFile, reference: str) -> _Found:
    return _Found(
        sweep=next(iter(run_file.of(SensitivityCell)), None),
        fisher=next(iter(run_file.of(FisherCell)), None),
        search=next(iter(run_file.of(SearchCell)), None),
        plans=next(iter(run_file.of(PlansCell)), None),
        times=next(iter(run_file.of(UnitLatencyCell)), None),
        layers=next((cell for cell in run_file.of(LayersCell) if cell.variant == reference), None),
    )


def _without_sweep(run_file: RunFile) -> str:
    """Why there is no plan in a run without a sensitivity cell."""
    for cell in run_file.of(FailedCell):
        if cell.of == "sensitivity":
            return one_line(f"sensitivity {cell.status}: {cell.reason}")
    if run_file.run.model is not None and run_file.run.model.random_weights:
        return "the model's weights are random, and the sensitivity of such says nothing"
    return "no sensitivity was measured (was bench/test_sensitivity.py deselected?)"


def _failure(cell: FailedCell) -> Failure:
    return Failure(variant=cell.variant, status=cell.status, of=cell.of, detail=cell.detail, reason=cell.reason)


def _took(run_file: RunFile) -> tuple[Took, ...]:
    """Time by kind of cell; of one that failed, what is timed is not the attempt."""
    found: dict[str, list[float | None]] = {}
    for cell, seconds in zip(run_file.cells, run_file.times, strict=True):
        if not isinstance(cell, FailedCell):
            found.setdefault(cell.kind, []).append(seconds)
    known = {of: [seconds for seconds in all_ if seconds is not None] for of, all_ in found.items()}
    return tuple(Took(of=of, cells=len(found[of]), timed=len(times), seconds_s=sum(times)) for of, times in known.items())


def _decided(
    run_file: RunFile,
    measured: layer_sensitivity.Measured | None,
    formats: tuple[str, ...],
    reference: str,
    chosen: plans.Chosen | None,
    found: _Found,
) -> tuple[Decision | None, str | None]:
    """The decision, or why there is none."""
    if measured is None:
        return None, _without_sweep(run_file)
    try:
        menu = knapsack.menu_of(measured.cell, formats, reference)
        if run_file.run.profile.budget.latency is not None:
            menu = time_cost.timed_menu(menu, found.times)
        return zones.decide(measured, menu, run_file.run, chosen, found.search), None
    except PlanError as error:
        return None, one_line(f"the budget cannot be met; {error}")


def _with_accuracy(decision: Decision, found: _Found, answered: Iterable[Accuracy], rivals: Iterable[str]) -> Decision:
    """The decision, its plan with the accuracy of the variant that is that plan; as it was where the plan answered no task."""
    variant = found.answered_as(decision.plan.units, rivals)
    if variant is None:
        return decision
    measured = tuple(
        PlanAccuracy(task=item.task, metric=item.metric, n=item.n, share=item.share, verdict=item.against.verdict if item.against else None)
        for item in answered
        if item.variant == variant
    )
    return decision.model_copy(update={"plan": decision.plan.model_copy(update={"accuracy": measured})})


def _rules(run: Run, measured: layer_sensitivity.Measured | None, layers: LayersCell | None, decision: Decision | None) -> RuleAudit | None:
    if measured is None or decision is None:
        return None
    agreement = run.profile.zones.agreement
    critical = zones.never_lowest(decision.layer_zones, agreement)
    return RuleAudit(
        format=measured.formats[-1],
        average_bits=decision.plan.budget.average_bits,
        within=decision.plan.budget.words,
        agreement=agreement,
        critical=critical,
        rules=heuristics.audit(measured, layers, frozenset(critical), run.model.layers if run.model else None),
    )


def _rounding(run: Run) -> CalibratedFormats | None:
    made = run.rounding
    if made is None:
        return None
    return CalibratedFormats(
        sequences_sha256=made.sequences_sha256,
        sequences=len(made.sequences),
        tokens=made.tokens,
        damping=made.damping,
        fallbacks=made.fallbacks,
    )


def _unswept(run: Run, sweep: SensitivityCell | None) -> tuple[int, ...]:
    """Layers of the model that the sweep left out."""
    if sweep is None or run.model is None:
        return ()
    return tuple(sorted(set(range(run.model.layers)) - {unit.layer for unit in sweep.units}))


def analyse(run_file: RunFile) -> Analysis:
    """Decide everything that the run can carry. The same run file gives the same analysis, to the last digit.

    A run without sensitivities, or with a budget that no plan meets, gives an analysis without a decision, which says why.

    Raises:
        RunFileError: no cell has a result.
    """
    run, profile, failed = run_file.run, run_file.run.profile, run_file.of(FailedCell)
    if len(failed) == len(run_file.cells):
        message = f"no cell has a result, so there is nothing to report; the first of {len(failed)}: {failed[0].reason}"
        raise RunFileError(one_line(f"{run_file.path}: {message}"))
    reference, seed, resamples = REFERENCE_NAMES[profile.model.dtype], profile.seed, profile.zones.resamples
    formats = tuple(variant_formats(profile).values())[1:]
    found, whole = _found(run_file, reference), run_file.of(DivergenceCell)
    measured = layer_sensitivity.measured_of(found.sweep, formats, resamples, seed) if found.sweep else None
    sample = measured.sample if measured else layer_sensitivity.sample_of(whole[0].sequence_tokens, resamples, seed) if whole else None
    scores = fisher_agreement.proxy_scores(found.fisher, resamples, seed) if found.fisher else None
    judged = plans.judge(found.plans, measured, scores, reference, resamples, seed, found.times) if found.plans else None
    chosen = plans.chosen(found.plans, judged, found.search)
    decision, no_decision = _decided(run_file, measured, formats, reference, chosen, found)
    plan, answers = decision.plan if decision else None, run_file.of(AccuracyCell)
    answered = accuracy_verdicts.accuracies(answers, run.variants, reference)
    unswept = _unswept(run, found.sweep)
    analysis = Analysis(
        bitzones=run.bitzones,
        measured_at=run_file.measured_at,
        profile=profile,
        model=run.model,
        environment=run.environment,
        reference=reference,
        variants=run.variants,
        formats=formats,
        rounding=_rounding(run),
        sequences=sample.sequences if sample else 0,
        tokens=int(sample.tokens.sum()) if sample else 0,
        granularity=found.sweep.granularity if found.sweep else None,
        unswept=unswept,
        tasks=accuracy_verdicts.asked(answers),
        accuracy=answered,
        likelihood=likelihood_changes.likelihoods(answers, run.variants, reference, seed),
        latency=latency_memory.latencies(run_file.of(LatencyCell), run.variants, reference, seed),
        unit_latency=latency_memory.unit_latency(found.times, plan, formats, reference, seed) if found.times else None,
        memory=latency_memory.memories(run_file.of(MemoryCell), run.variants, reference),
        sensitivity=layer_sensitivity.readings(measured) if measured else (),
        ranking=layer_sensitivity.ranking(measured) if measured else (),
        whole=layer_sensitivity.whole_variants(sample, measured, whole, run.variants, {PLAN: found.planned}, everywhere=not unswept)
        if sample
        else (),
        plans=judged,
        search=plans.history(found.search, resamples, seed, profile.plans.rounds) if found.search else None,
        screen=fisher_agreement.screen(scores, measured) if scores and measured else (),
        rules=_rules(run, measured, found.layers, decision),
        decision=_with_accuracy(decision, found, answered, profile.plans.accuracy) if decision else None,
        no_decision=no_decision,
        layers=attention.layer_readings(found.layers),
        layer_sequences=found.layers.sequences if found.layers else 0,
        layer_tokens=found.layers.tokens if found.layers else 0,
        took=_took(run_file),
        failures=tuple(_failure(cell) for cell in failed),
        foreign_benchmarks=run_file.foreign,
        inconclusive=(),
    )
    return analysis.model_copy(update={"inconclusive": caveats.inconclusive(analysis)})
