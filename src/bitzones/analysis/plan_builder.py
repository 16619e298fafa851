"""Builds the plan record: every module's format and everything needed to apply it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from bitzones.allocation.knapsack import Menu
from bitzones.analysis.layer_sensitivity import Measured
from bitzones.analysis.plan import Plan, PlanAccuracy, PlanBudget, PlanLatency, PlannedModel, UnitPlan
from bitzones.analysis.plan_ranking import Chosen
from bitzones.analysis.task_answers import Accuracy
from bitzones.schema.formats import is_calibrated
from bitzones.schema.profile import PLAN
from bitzones.schema.run_record import CalibrationSet, Run
from bitzones.schema.sensitivity_cells import SensitivityCell

__all__ = ["plan_of", "unit_plans", "with_accuracy"]

Integers = NDArray[np.int64]


def plan_of(measured: Measured, menu: Menu, run: Run, choice: Integers, budget: PlanBudget, chosen: Chosen | None = None) -> Plan:
    """The plan as a record."""
    names = [menu.formats[index] for index in choice]
    used = int(menu.stored_bytes[np.arange(len(choice)), choice].sum())
    assignment, groups = _modules(measured.cell, names, menu.formats[-1])
    return Plan(
        bitzones=run.bitzones,
        model=_model(run),
        reference=menu.formats[-1],
        budget=budget,
        achieved=PlanBudget(average_bits=used * 8 / menu.parameters, stored_bytes=used, latency=_latency(menu, choice)),
        reference_bytes=int(menu.stored_bytes[:, -1].sum()),
        predicted_kl=measured.summed(choice),
        name=chosen.name if chosen else "additive",
        origin=chosen.origin if chosen else "additive",
        measured_kl=chosen.measured if chosen else None,
        measured_sequences=chosen.sequences if chosen else None,
        held_out_sha256=chosen.held_out_sha256 if chosen else None,
        units=dict(zip(menu.units, names, strict=True)),
        assignment=assignment,
        group_sizes=groups,
        calibration=_calibration(run, names, chosen.variant if chosen else PLAN),
        sequences_sha256=measured.cell.sequences_sha256,
        profile_sha256=run.profile.sha256,
        versions=dict(run.environment.versions) if run.environment else {},
    )


def _modules(cell: SensitivityCell, names: Sequence[str], reference: str) -> tuple[dict[str, str], dict[str, int | None]]:
    """Module -> format, and quantized module -> group size, of a plan that gives the units these formats."""
    found = {(item.unit, item.format): item for item in cell.measurements}
    groups: dict[str, int | None] = {}
    assignment: dict[str, str] = {}
    for unit, name in zip(cell.units, names, strict=True):
        item = found.get((unit.name, name))
        stays = item.stays if item else ()
        taken = [module for module in unit.modules if module not in stays]
        groups |= dict(zip(taken, item.group_sizes if item else (), strict=False))
        assignment |= {module: reference if module in stays else name for module in unit.modules}
    return assignment, groups


def _model(run: Run) -> PlannedModel | None:
    if run.model is None:
        return None
    return PlannedModel(
        source=run.model.source,
        revision=run.model.revision,
        sha256=run.model.sha256,
        architecture=run.model.architecture,
        dtype=run.model.dtype,
        compute_dtype=run.model.compute_dtype,
        trust_remote_code=run.profile.model.trust_remote_code,
    )


def _calibration(run: Run, formats: list[str], variant: str) -> CalibrationSet | None:
    """The calibration set, with the fallbacks of the variant that the plan is, as those of a plan."""
    if run.calibration is None or not any(map(is_calibrated, formats)):
        return None
    return run.calibration.model_copy(update={"fallbacks": {PLAN: found} if (found := run.calibration.fallbacks.get(variant)) else {}})


def _latency(menu: Menu, choice: Integers) -> PlanLatency | None:
    """Time of the plan; None where the menu counts bytes."""
    if menu.nanoseconds is None:
        return None
    taken = int(menu.nanoseconds[np.arange(len(choice)), choice].sum())
    return PlanLatency(nanoseconds=taken, share=taken / max(1, int(menu.nanoseconds[:, -1].sum())))


def with_accuracy(plan: Plan, variant: str, answered: Iterable[Accuracy]) -> Plan:
    """The plan with the accuracy of the variant that it is."""
    measured = tuple(
        PlanAccuracy(task=item.task, metric=item.metric, n=item.n, share=item.share, verdict=item.against.verdict if item.against else None)
        for item in answered
        if item.variant == variant
    )
    return plan.model_copy(update={"accuracy": measured})


def unit_plans(measured: Measured, menu: Menu, choice: Integers, choices: Integers) -> tuple[UnitPlan, ...]:
    """The plan's format for every unit, with the share of resampled plans at each format."""
    shares = np.stack([(choices == column).mean(axis=0) for column in range(len(menu.formats))], axis=1)
    return tuple(
        UnitPlan(
            unit=unit.name,
            layer=unit.layer,
            group=unit.group,
            format=menu.formats[choice[row]],
            stored_bytes=int(menu.stored_bytes[row, choice[row]]),
            reference_bytes=unit.reference_bytes,
            shares={
                name: float(shares[row, column])
                for column, name in enumerate(menu.formats)
                if menu.offered[row, column] or column == choice[row]
            },
        )
        for row, unit in enumerate(measured.cell.units)
    )
