"""Plans by task or text domain: what a plan of its own gains on its task, and what it costs on the others, at equal bytes.

Every plan is measured on the held-out sequences of every slice, and compared with the plan for all on the same ones. A plan of its own is
recommended only where its gain is told after Holm's correction over the slices; otherwise one plan serves all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bitzones.allocation.knapsack import Menu
from bitzones.analysis.decision import Decision
from bitzones.analysis.layer_sensitivity import Measured, measured_of
from bitzones.analysis.plan_builder import with_accuracy
from bitzones.analysis.plan_ranking import Chosen
from bitzones.analysis.slice_accuracy import read_accuracy
from bitzones.analysis.slice_crossing import read_crossed
from bitzones.analysis.slice_figures import Crossed, CrossedAccuracy, SliceOutcome, SliceReading, SlicesReading
from bitzones.analysis.slice_layers import read_layers
from bitzones.analysis.task_answers import Accuracy
from bitzones.analysis.zones import decide
from bitzones.schema import slices as named
from bitzones.schema.plan_cells import PlansCell
from bitzones.schema.quality_cells import AccuracyCell
from bitzones.schema.run_record import Run
from bitzones.schema.sensitivity_cells import SensitivityCell
from bitzones.schema.slices_cell import Slice, SlicesCell

__all__ = ["SliceCells", "read_slices"]


@dataclass(frozen=True)
class SliceCells:
    """What the slices of a run are read from.

    ``answering`` maps a variant to the units of the plan that it is, for variants that may have answered the tasks; ``judged`` is what
    became of the answers.
    """

    slices: SlicesCell
    sweep: SensitivityCell
    plans: PlansCell | None
    answering: Mapping[str, Mapping[str, str]]
    answers: Sequence[AccuracyCell]
    judged: Sequence[Accuracy]

    def variant(self, units: Mapping[str, str]) -> str | None:
        """The variant that is quantized by a plan and answered a task; None where there is none."""
        answered = {cell.variant for cell in self.answers}
        return next((name for name, made in self.answering.items() if name in answered and made == units), None)


@dataclass(frozen=True)
class _Compared:
    """Every plan by slice, that for all under None, and how they did on the text and the tasks of all."""

    units: Mapping[str | None, Mapping[str, str]]
    crossed: Sequence[Crossed]
    accuracy: Sequence[CrossedAccuracy]


def read_slices(
    run: Run, cells: SliceCells, decision: Decision, formats: tuple[str, ...], menu_of: Callable[[Measured], Menu]
) -> SlicesReading:
    """Every slice with the plan of its own, and every plan on every slice.

    Args:
        run: what the cells share.
        cells: the slices, and what was measured.
        decision: of the run, whose budget the plans have.
        formats: of the profile, from most to fewest bits.
        menu_of: the menu of sensitivities under the run's budget.
    """
    name, for_all = _plan_for_all(cells, decision)
    units: dict[str | None, Mapping[str, str]] = {None: for_all, **{item.name: item.search.found.units for item in cells.slices.slices}}
    crossed = read_crossed(run, cells.slices, cells.plans, units)
    accuracy = read_accuracy(run, cells.slices.by, {made_for: cells.variant(plan) for made_for, plan in units.items()}, cells.answers)
    measured = {item.name: _measured(run, cells.sweep, item, formats) for item in cells.slices.slices}
    compared = _Compared(units, crossed, accuracy)
    found = [
        _slice(run, cells, item, measured[item.name], menu_of(measured[item.name]), decision, compared) for item in cells.slices.slices
    ]
    layers, tests = read_layers({item.name: (measured[item.name], item.decision) for item in found}, decision, run.profile.seed)
    return SlicesReading(
        by=cells.slices.by, slices=tuple(found), layers=layers, crossed=crossed, for_all=name, accuracy=accuracy, tests=tests
    )


def _plan_for_all(cells: SliceCells, decision: Decision) -> tuple[str, Mapping[str, str]]:
    """Name and units of the plan that slices' plans are compared with: the recommended one, where it was made in the same way.

    A tuned plan, or one whose modules were rounded alone, differs from the plans of slices in more than its formats.
    """
    measured = {trial.name: trial for trial in cells.plans.plans} if cells.plans else {}
    recommended = measured.get(decision.plan.name)
    if recommended is not None and recommended.rounded not in ("alone", "tuned"):
        return recommended.name, recommended.units
    searched = next((trial for trial in measured.values() if trial.origin == "search"), None)
    return (searched.name, searched.units) if searched is not None else (decision.plan.name, decision.plan.units)


def _measured(run: Run, sweep: SensitivityCell, item: Slice, formats: tuple[str, ...]) -> Measured:
    own = sweep.of_sequences(item.sensitivity, item.search.sequences_sha256)
    return measured_of(own, formats, run.profile.zones.resamples, run.profile.seed)


def _slice(
    run: Run,
    cells: SliceCells,
    item: Slice,
    measured: Measured,
    menu: Menu,
    for_all: Decision,
    compared: _Compared,
) -> SliceReading:
    """Zones and plan of a slice, within the bytes or the time of the plan for all."""
    own = {made.measured_on: made for made in compared.crossed if made.made_for == item.name}
    held_out = [tokens for n in item.held_out if (tokens := cells.plans.sequence_tokens[n])] if cells.plans else []
    variant = cells.variant(item.search.found.units)
    chosen = Chosen(
        name=item.name,
        origin="slice",
        units=item.search.found.units,
        measured=own[item.name].kl if own else None,
        sequences=len(held_out) if own else None,
        held_out_sha256=item.held_out_sha256 if own else None,
        variant=variant or named.variant(item.name),
    )
    decision = decide(measured, menu, run, chosen, item.search, for_all.plan.budget)
    if variant is not None:
        decision = decision.model_copy(update={"plan": with_accuracy(decision.plan, variant, cells.judged)})
    return SliceReading(
        name=item.name,
        sequences=measured.sequences,
        tokens=int(measured.tokens.sum()),
        held_out_sequences=len(held_out),
        held_out_tokens=sum(held_out),
        same_as=cells.slices.same_as(item.name, compared.units[None]),
        decision=decision,
        outcome=_outcome(item.name, own, [made for made in compared.accuracy if made.made_for == made.task == item.name]),
    )


def _outcome(name: str, crossed: Mapping[str | None, Crossed], own_task: Sequence[CrossedAccuracy]) -> SliceOutcome:
    own, together = (
        made.against.word if (made := crossed.get(on)) is not None and made.against is not None else None for on in (name, None)
    )
    if own is None or own == "same":
        return "same" if own == "same" else "not measured"
    if own == "worse" or any(made.verdict is not None and made.verdict.word == "worse" for made in own_task):
        return "loses"
    return "not told" if own != "better" else "for all" if together == "better" else "gains"
