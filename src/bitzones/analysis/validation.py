"""Checks that the cells of a run agree with each other and with the profile. Each fault is one clause, to follow the file's name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isclose
from typing import TypeVar

from bitzones.allocation.time_cost import plan_ns
from bitzones.schema import slices
from bitzones.schema.cell_key import CellKey
from bitzones.schema.cells import Cell, FailedCell
from bitzones.schema.domain_cell import DomainCell
from bitzones.schema.formats import REFERENCE_NAMES
from bitzones.schema.performance_cells import UnitLatencyCell
from bitzones.schema.plan_cells import PlansCell, SearchCell, Trial
from bitzones.schema.quality_cells import AccuracyCell, DivergenceCell, PerplexityCell
from bitzones.schema.run_record import Run
from bitzones.schema.sensitivity_cells import FisherCell, SensitivityCell, Unit
from bitzones.schema.slices_cell import SlicesCell
from bitzones.schema.tuning_cells import TuningCell

__all__ = ["faults"]

MOST_BYTES = 2**50
"""A unit of a pebibyte is a mistake, and sums of such sizes overflow 64-bit integers."""

SAME_NLL = 1e-3
"""By which two passes of the reference over a window may differ, where memory made one of them take smaller batches."""

KindT = TypeVar("KindT")


@dataclass(frozen=True)
class _Cells:
    """The cells of a run by kind."""

    run: Run
    cells: Sequence[Cell]

    def of(self, kind: type[KindT]) -> list[KindT]:
        return [cell for cell in self.cells if isinstance(cell, kind)]

    @property
    def formats(self) -> set[str]:
        """Formats that a plan may use."""
        return {*self.run.profile.formats, REFERENCE_NAMES[self.run.profile.model.dtype]}


def faults(run: Run, cells: Sequence[Cell]) -> Iterator[str]:
    """Every contradiction, the most basic first; later ones may result from earlier ones."""
    found = _Cells(run, cells)
    yield from _doubled(cells)
    yield from _answers(found)
    for sweep in found.of(SensitivityCell):
        yield from _sweep(run, sweep)
    yield from _sequences(found)
    yield from _domains(found)
    for fisher in found.of(FisherCell):
        yield from _fisher(found, fisher)
    yield from _plans(found)
    for cell in found.of(SlicesCell):
        yield from _slices(found, cell)


def _doubled(cells: Iterable[Cell]) -> Iterator[str]:
    seen: set[tuple[bool, CellKey]] = set()  # a cell may have failed once and come out at another attempt
    kinds: dict[str, int] = {}
    for cell in cells:
        slot = isinstance(cell, FailedCell), cell.key
        if slot in seen:
            yield f"duplicate cells: {cell.key} occurs twice"
        seen.add(slot)
        if isinstance(cell, SensitivityCell | FisherCell | SearchCell | PlansCell | SlicesCell | TuningCell | UnitLatencyCell):
            kinds[cell.kind] = kinds.get(cell.kind, 0) + 1
    yield from (f"{count} {kind} cells; a run has one" for kind, count in kinds.items() if count > 1)


def _answers(found: _Cells) -> Iterator[str]:
    tasks: dict[str, AccuracyCell | PerplexityCell] = {}
    cells: list[AccuracyCell | PerplexityCell] = [*found.of(AccuracyCell), *found.of(PerplexityCell)]
    for asked in cells:
        first = tasks.setdefault(asked.task, asked)
        if (asked.task_sha256, set(asked.item_ids)) != (first.task_sha256, set(first.item_ids)):
            yield f"task {asked.task}: {asked.variant} was asked other items than {first.variant}"
        if _manner(asked) != _manner(first):
            yield f"task {asked.task}: {asked.variant} was asked in another way than {first.variant}"


def _manner(cell: AccuracyCell | PerplexityCell) -> tuple[object, ...]:
    """What the variants of a task must share to be comparable: task settings and the tokens of every answer."""
    shared = cell.kind, cell.task_version, cell.origin, cell.chat_template, cell.harness, cell.special_tokens
    if isinstance(cell, PerplexityCell):
        return *shared, sorted(zip(cell.item_ids, cell.tokens, cell.words, cell.utf8_bytes, strict=True))
    tokens = cell.gold_tokens if cell.gold_tokens is not None else (None,) * len(cell.item_ids)
    answers = sorted(zip(cell.item_ids, tokens, cell.chance, strict=True), key=lambda answer: answer[0])
    normalized = cell.correct_normalized is not None and cell.predictions_normalized is not None
    return *shared, cell.fewshot, cell.metric, cell.dropped, cell.passed_over, normalized, answers


def _sweep(run: Run, cell: SensitivityCell) -> Iterator[str]:
    names = [unit.name for unit in cell.units]
    modules = [module for unit in cell.units for module in unit.modules]
    unknown = sorted({item.format for item in cell.measurements} - set(run.profile.formats))
    sizes = [unit.reference_bytes for unit in cell.units] + [item.stored_bytes for item in cell.measurements]
    for wrong, message in (
        (len(set(names)) < len(names), "a unit occurs twice"),
        (len(set(modules)) < len(modules), "a module belongs to two units"),
        (bool(unknown), f"format {unknown[:1]} is not one of the profile's"),
        (not sum(unit.parameters for unit in cell.units), "its units have no weights"),
        (max(sizes) > MOST_BYTES, f"a unit of {max(sizes)} bytes cannot be"),
        (cell.adaptive is not None and run.profile.plans.by is not None, "plans by task or domain need every sequence, and it is adaptive"),
    ):
        if wrong:
            yield f"sensitivity cell: {message}"


def _sequences(found: _Cells) -> Iterator[str]:
    """All cells but the plans use one sensitivity set; the plans use held-out sequences."""
    calibrated: list[SensitivityCell | FisherCell | SearchCell | DivergenceCell] = []
    calibrated += [*found.of(SensitivityCell), *found.of(FisherCell), *found.of(SearchCell), *found.of(DivergenceCell)]
    held_out = found.of(PlansCell)
    for kind, tokens in [(cell.kind, cell.sequence_tokens) for cell in (*calibrated, *held_out)]:
        if not sum(tokens):
            yield f"{kind} cell: no sequence has a scored token"
    for cell in calibrated[1:]:
        first = calibrated[0]
        if (cell.sequences_sha256, cell.sequence_tokens) != (first.sequences_sha256, first.sequence_tokens):
            yield f"{cell.kind} cell: measured on other sensitivity sequences than the {first.kind} cell"
    if any(cell.sequences_sha256 == other.sequences_sha256 for cell in held_out for other in calibrated[:1]):
        yield "plans cell: its sequences are those that the plans were made from, not held out"


def _domains(found: _Cells) -> Iterator[str]:
    """All variants of a domain are measured on the same windows, and the reference predicts the same there whoever asks."""
    first: dict[str, DomainCell] = {}
    for cell in found.of(DomainCell):
        base = first.setdefault(cell.domain, cell)
        where = f"domain {cell.domain}: {cell.variant}"
        if _windows_of(cell) != _windows_of(base):
            yield f"{where} was measured on other windows than {base.variant}"
        elif not all(isclose(a, b, rel_tol=SAME_NLL) for a, b in zip(cell.reference_nll_nats, base.reference_nll_nats, strict=True)):
            yield f"{where} says that the reference predicts otherwise than {base.variant} says"


def _windows_of(cell: DomainCell) -> tuple[object, ...]:
    return cell.sequences_sha256, cell.scored_tokens, cell.window, cell.stride, cell.context, cell.joined


def _fisher(found: _Cells, cell: FisherCell) -> Iterator[str]:
    if unknown := sorted({item.format for item in cell.scores} - set(found.run.profile.formats)):
        yield f"fisher cell: format {unknown[:1]} is not one of the profile's"
    names = [unit.name for unit in cell.units]
    if len(set(names)) < len(names):
        yield "fisher cell: a unit occurs twice"
    for sweep in found.of(SensitivityCell):
        if set(names) != {unit.name for unit in sweep.units}:
            yield "fisher cell: its units are not those of the sensitivity cell"


def _plans(found: _Cells) -> Iterator[str]:
    """Search and plans must have the same units, bytes and budget."""
    trials: list[tuple[str, Trial]] = [
        (f"slices cell: {item.name}", trial)
        for cell in found.of(SlicesCell)
        for item in cell.slices
        for trial in (item.search.start, *(trial for step in item.search.rounds for trial in step.trials))
    ]
    for search in found.of(SearchCell):
        yield from _searched(found, search)
        trials.append(("search cell: the start", search.start))
        for number, step in enumerate(search.rounds, 1):
            trials += [(f"search cell: round {number}, trial {index}", trial) for index, trial in enumerate(step.trials, 1)]
    for cell in found.of(PlansCell):
        yield from _compared(cell, found.of(SearchCell))
        trials += [(f"plans cell: plan {plan.name}", plan) for plan in cell.plans]
    sweep = next(iter(found.of(SensitivityCell)), None)
    known = {unit.name for unit in sweep.units} if sweep else set(trials[0][1].units) if trials else set()
    for where, trial in trials:
        if set(trial.units) != known:
            yield f"{where} is not about the units of the run"
        if unknown := sorted(set(trial.units.values()) - found.formats):
            yield f"{where}: format {unknown[:1]} is neither one of the profile's nor the reference"
        if trial.stored_bytes > MOST_BYTES:
            yield f"{where}: a plan of {trial.stored_bytes} bytes cannot be"
    if sweep is not None:
        yield from _stored(sweep, trials)


def _slices(found: _Cells, cell: SlicesCell) -> Iterator[str]:
    """Slices are of the run's sequences, and their plans of its units, within its budget."""
    sets: list[tuple[str, str, SensitivityCell | PlansCell]] = []
    sets += [("sensitivity", cell.sequences_sha256, sweep) for sweep in found.of(SensitivityCell)]
    sets += [("held_out", cell.held_out_sha256, plans) for plans in found.of(PlansCell)]
    for kind, sha256, other in sets:
        if sha256 != other.sequences_sha256:
            yield f"slices cell: its {kind} sequences are not those of the {other.kind} cell"
            return
        if max(place for item in cell.slices for place in getattr(item, kind)) >= len(other.sequence_tokens):
            yield f"slices cell: a place in {kind} is beyond the {len(other.sequence_tokens)} sequences of the {other.kind} cell"
            return
    for item in cell.slices:
        where = f"slices cell: {item.name}"
        for sweep in found.of(SensitivityCell):
            if item.search.sequence_tokens != tuple(sweep.sequence_tokens[place] for place in item.sensitivity):
                yield f"{where} has other sequences than the sweep"
        if any(
            (item.search.budget_bytes, item.search.budget_ns) != (search.budget_bytes, search.budget_ns) for search in found.of(SearchCell)
        ):
            yield f"{where} has another budget than the search"
        yield from (f"{where}: {fault}" for fault in _searched(found, item.search))
    yield from _slice_plans(found, cell)


def _slice_plans(found: _Cells, cell: SlicesCell) -> Iterator[str]:
    plans = {slices.variant(item.name): item.search.found.units for item in cell.slices}
    for trial in (trial for compared in found.of(PlansCell) for trial in compared.plans if trial.origin == "slice"):
        if trial.units != plans.get(trial.name):
            yield f"plans cell: {trial.name} is not the plan of a slice"


def _searched(found: _Cells, cell: SearchCell) -> Iterator[str]:
    sweeps = [(f"round {number}", step.around) for number, step in enumerate(cell.rounds, 1)]
    for name, around in (*sweeps, ("the last sweep", cell.around or ())):
        for item in around:
            where = f"search cell: {name}, {item.unit} at {item.format}"
            if item.unit not in cell.start.units or item.format not in found.formats:
                yield f"{where}: the plans do not know it"
            if item.kl_nats is not None and len(item.kl_nats) != len(cell.sequence_tokens):
                yield f"{where} has another number of sequences than the cell"
    for times in found.of(UnitLatencyCell):
        taken = plan_ns(times, cell.found.units)
        if cell.budget_ns is not None and taken is not None and taken > cell.budget_ns:
            yield f"search cell: the plan found takes {taken} ns, the budget is {cell.budget_ns}"
    if cell.found.stored_bytes > cell.budget_bytes:
        yield f"search cell: the plan found takes {cell.found.stored_bytes} bytes, the budget is {cell.budget_bytes}"


def _compared(cell: PlansCell, searches: Iterable[SearchCell]) -> Iterator[str]:
    searched = [plan for plan in cell.plans if plan.origin == "search"]
    if len(searched) != 1:
        yield f"plans cell: {len(searched)} plans are of the search; there is one"
        return
    for search in searches:
        if search.budget_bytes != cell.budget_bytes:
            yield f"plans cell: its budget is {cell.budget_bytes} bytes, the search's {search.budget_bytes}"
        if search.budget_ns != cell.budget_ns:
            yield f"plans cell: its budget is {cell.budget_ns} ns, the search's {search.budget_ns}"
        if searched[0].units != search.found.units:
            yield f"plans cell: plan {searched[0].name} is not the one that the search found"


def _stored(sweep: SensitivityCell, trials: Iterable[tuple[str, Trial]]) -> Iterator[str]:
    """A plan's bytes must be the sum over its units, each at a measured format."""
    units: dict[str, Unit] = {unit.name: unit for unit in sweep.units}
    offered = {(item.unit, item.format): item.stored_bytes for item in sweep.measurements if item.kl_nats is not None}
    quantized = {item.format for item in sweep.measurements}
    for where, trial in trials:
        total = 0
        for unit, name in trial.units.items():
            if name in quantized and (unit, name) not in offered:
                yield f"{where} puts {unit} at {name}, which was not measured there"
                break
            total += offered.get((unit, name), units[unit].reference_bytes if unit in units else 0)
        else:
            if total != trial.stored_bytes:
                yield f"{where} takes {trial.stored_bytes} bytes, its units {total}"
