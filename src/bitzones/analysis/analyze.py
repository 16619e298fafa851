"""Turns a run into an analysis by calling the modules of this package in order of dependency."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from bitzones.allocation import knapsack, time_cost
from bitzones.analysis import (
    accuracy_verdicts,
    attention,
    budget,
    caveats,
    domains,
    fisher_agreement,
    heuristics,
    latency_memory,
    layer_sensitivity,
    likelihood_changes,
    task_perplexity,
    tuning_gain,
    zones,
)
from bitzones.analysis import plan_ranking as plans
from bitzones.analysis.plan_builder import with_accuracy
from bitzones.analysis.plan_verdicts import RuleAudit
from bitzones.analysis.reader import RunFile, one_line, read_run
from bitzones.analysis.results import Analysis, CalibratedFormats, Decision, Failure, Took
from bitzones.analysis.slice_figures import SlicesReading
from bitzones.analysis.slice_reading import SliceCells, read_slices
from bitzones.analysis.task_answers import Accuracy
from bitzones.schema import slices
from bitzones.schema.cells import FailedCell
from bitzones.schema.domain_cell import DomainCell
from bitzones.schema.errors import PlanError, RunFileError
from bitzones.schema.formats import REFERENCE_NAMES
from bitzones.schema.layer_statistics import LayersCell
from bitzones.schema.performance_cells import LatencyCell, MemoryCell, UnitLatencyCell
from bitzones.schema.plan_cells import PlansCell, SearchCell
from bitzones.schema.profile import PLAN, TUNED, variant_formats
from bitzones.schema.quality_cells import AccuracyCell, DivergenceCell, PerplexityCell
from bitzones.schema.run_record import Run
from bitzones.schema.sensitivity_cells import FisherCell, SensitivityCell
from bitzones.schema.slices_cell import SlicesCell
from bitzones.schema.tuning_cells import TuningCell

__all__ = ["RunFile", "analyse", "read_run"]


@dataclass(frozen=True)
class _Found:
    """The cells that a run has at most once."""

    sweep: SensitivityCell | None
    fisher: FisherCell | None
    search: SearchCell | None
    plans: PlansCell | None
    slices: SlicesCell | None
    tuning: TuningCell | None
    times: UnitLatencyCell | None
    layers: LayersCell | None

    @property
    def planned(self) -> dict[str, str] | None:
        """The searched plan, unit to format, which variant `PLAN` is quantized by; None where the run has none."""
        if self.search is not None:
            return self.search.found.units
        return next((plan.units for plan in self.plans.plans if plan.origin == "search"), None) if self.plans else None

    def answering(self, baselines: Iterable[str]) -> dict[str, dict[str, str]]:
        """Variant -> its plan: the searched one, the best plan of each baseline origin, and those by task or text domain."""
        found = {} if self.planned is None else {PLAN: self.planned}
        made = ((name, self.plans.best_of(name)) for name in baselines) if self.plans else ()
        found |= {name: plan.units for name, plan in made if plan is not None}
        return found | {slices.variant(item.name): item.search.found.units for item in (self.slices.slices if self.slices else ())}

    def answered_as(self, units: dict[str, str], baselines: Iterable[str]) -> str | None:
        """The variant that is quantized by a plan; None if there is none."""
        return next((name for name, plan in self.answering(baselines).items() if plan == units), None)


def _found(run_file: RunFile, reference: str) -> _Found:
    return _Found(
        sweep=next(iter(run_file.of(SensitivityCell)), None),
        fisher=next(iter(run_file.of(FisherCell)), None),
        search=next(iter(run_file.of(SearchCell)), None),
        plans=next(iter(run_file.of(PlansCell)), None),
        slices=next(iter(run_file.of(SlicesCell)), None),
        tuning=next(iter(run_file.of(TuningCell)), None),
        times=next(iter(run_file.of(UnitLatencyCell)), None),
        layers=next((cell for cell in run_file.of(LayersCell) if cell.variant == reference), None),
    )


def _without_sweep(run_file: RunFile) -> str:
    """Why a run without a sensitivity cell has no plan."""
    for cell in run_file.of(FailedCell):
        if cell.of == "sensitivity":
            return one_line(f"sensitivity {cell.status}: {cell.reason}")
    if run_file.run.model is not None and run_file.run.model.random_weights:
        return "the model has random weights, whose sensitivity is meaningless"
    return "no sensitivity was measured (was bench/test_sensitivity.py deselected?)"


def _failure(cell: FailedCell) -> Failure:
    return Failure(variant=cell.variant, status=cell.status, of=cell.of, detail=cell.detail, reason=cell.reason)


def _took(run_file: RunFile) -> tuple[Took, ...]:
    """Time by kind of cell, without failed cells, whose recorded time is not that of the attempt."""
    found: dict[str, list[float | None]] = {}
    for cell, seconds in zip(run_file.cells, run_file.times, strict=True):
        if not isinstance(cell, FailedCell):
            found.setdefault(cell.kind, []).append(seconds)
    known = {of: [seconds for seconds in all_ if seconds is not None] for of, all_ in found.items()}
    return tuple(Took(of=of, cells=len(found[of]), timed=len(times), seconds_s=sum(times)) for of, times in known.items())


def _decided(
    run_file: RunFile,
    measured: layer_sensitivity.Measured | None,
    chosen: plans.Chosen | None,
    found: _Found,
) -> tuple[Decision | None, str | None]:
    """The decision, or the reason why there is none."""
    if measured is None:
        return None, _without_sweep(run_file)
    try:
        menu = _menu(run_file.run, measured, found)
        return _with_weights(zones.decide(measured, menu, run_file.run, chosen, found.search), found), None
    except PlanError as error:
        return None, one_line(f"the budget cannot be met; {error}")


def _menu(run: Run, measured: layer_sensitivity.Measured, found: _Found) -> knapsack.Menu:
    """What the budget chooses from.

    Raises:
        PlanError: the budget is one of time, and the units were not timed.
    """
    menu = knapsack.menu_of(measured.cell, measured.formats, REFERENCE_NAMES[run.profile.model.dtype])
    return menu if run.profile.budget.latency is None else time_cost.timed_menu(menu, found.times)


def _slices(run_file: RunFile, found: _Found, decision: Decision | None, answered: Sequence[Accuracy]) -> SlicesReading | None:
    """Plans by task or text domain; None where there are none, or no plan for all beside them."""
    if found.slices is None or found.sweep is None or decision is None:
        return None
    answering = found.answering(run_file.run.profile.plans.accuracy)
    cells = SliceCells(found.slices, found.sweep, found.plans, answering, run_file.of(AccuracyCell), answered)
    formats = tuple(variant_formats(run_file.run.profile).values())[1:]
    return read_slices(run_file.run, cells, decision, formats, partial(_menu, run_file.run, found=found))


def _with_weights(decision: Decision, found: _Found) -> Decision:
    """The decision with the file of weights, where the recommended plan is the tuned one."""
    if decision.plan.origin != "tuned" or found.tuning is None:
        return decision
    return decision.model_copy(update={"plan": decision.plan.model_copy(update={"tuning": found.tuning.weights})})


def _with_accuracy(decision: Decision, found: _Found, answered: Iterable[Accuracy], baselines: Iterable[str]) -> Decision:
    """The decision with the accuracy of the variant quantized by its plan; unchanged where there is no such variant."""
    tuned = decision.plan.tuning is not None
    variant = TUNED if tuned else found.answered_as(decision.plan.units, baselines)
    if variant is None:
        return decision
    return decision.model_copy(update={"plan": with_accuracy(decision.plan, variant, answered)})


def _rules(run: Run, measured: layer_sensitivity.Measured | None, layers: LayersCell | None, decision: Decision | None) -> RuleAudit | None:
    if measured is None or decision is None:
        return None
    agreement = run.profile.zones.agreement
    critical = zones.never_lowest(decision.layer_zones, agreement)
    return RuleAudit(
        format=measured.formats[-1],
        budget=decision.plan.budget,
        agreement=agreement,
        critical=critical,
        rules=heuristics.audit(measured, layers, frozenset(critical), run.model.layers if run.model else None),
    )


def _calibration(run: Run) -> CalibratedFormats | None:
    made = run.calibration
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
    """Layers of the model that were not swept."""
    if sweep is None or run.model is None:
        return ()
    return tuple(sorted(set(range(run.model.layers)) - {unit.layer for unit in sweep.units}))


def analyse(run_file: RunFile) -> Analysis:
    """The analysis of a run: deterministic to the last digit.

    A run without sensitivities, or with a budget that no plan meets, gives an analysis without a decision and the reason in `no_decision`.

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
    decision, no_decision = _decided(run_file, measured, chosen, found)
    plan, answers = decision.plan if decision else None, run_file.of(AccuracyCell)
    documents = run_file.of(PerplexityCell)
    answered = accuracy_verdicts.accuracies(answers, run.variants, reference)
    within = budget.uniform_within(_menu(run, measured, found), plan.budget) if measured and plan else {}
    unswept, by_domain = _unswept(run, found.sweep), domains.read_domains(run, run_file.of(DomainCell), judged, within)
    analysis = Analysis(
        bitzones=run.bitzones,
        measured_at=run_file.measured_at,
        profile=profile,
        model=run.model,
        environment=run.environment,
        reference=reference,
        variants=run.variants,
        formats=formats,
        calibration=_calibration(run),
        sequences=sample.sequences if sample else 0,
        tokens=int(sample.tokens.sum()) if sample else 0,
        granularity=found.sweep.granularity if found.sweep else None,
        unswept=unswept,
        tasks=accuracy_verdicts.asked([*answers, *documents]),
        accuracy=answered,
        likelihood=likelihood_changes.likelihoods([*answers, *documents], run.variants, reference, seed),
        perplexity=task_perplexity.perplexities(documents, run.variants, seed),
        latency=latency_memory.latencies(run_file.of(LatencyCell), run.variants, reference, seed),
        unit_latency=latency_memory.unit_latency(found.times, plan, formats, reference, seed) if found.times else None,
        memory=latency_memory.memories(run_file.of(MemoryCell), run.variants, reference),
        sensitivity=layer_sensitivity.readings(measured) if measured else (),
        ranking=layer_sensitivity.ranking(measured) if measured else (),
        effort=layer_sensitivity.effort_of(measured, _menu(run, measured, found) if plan else None) if measured else None,
        whole=layer_sensitivity.whole_variants(sample, measured, whole, run.variants, {PLAN: found.planned}, everywhere=not unswept)
        if sample
        else (),
        plans=judged,
        domains=by_domain,
        slices=_slices(run_file, found, decision, answered),
        tuning=tuning_gain.read_tuning(run, found.tuning, judged, by_domain) if found.tuning else None,
        search=plans.history(found.search, resamples, seed, profile.plans.rounds) if found.search else None,
        fisher_proxy=fisher_agreement.agreement(scores, measured) if scores and measured else (),
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
