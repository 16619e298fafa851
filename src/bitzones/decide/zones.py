"""Which layers can be squeezed, which cannot, and which depend on the sample: the stability of the best plan under the bootstrap.

The plan is solved on every resample of the calibration sequences. A layer is SAFE where all its parts are at the lowest format in at least
``agreement`` of the plans, CRITICAL where all are at the highest format offered or at the reference, else TRANSITION. With too few
sequences to resample, every layer is CANNOT TELL. Zones are sets of layers: this module does not assume that neighbours are alike. The
plan to recommend may be another than the best sum of separate sensitivities: the zones stay as they are, the formats are the plan's.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from bitzones.decide.analysis import Decision
from bitzones.decide.plan import Budget, LayerZone, PartPlan, Plan, PlannedModel, Zone, ZoneWord
from bitzones.decide.planner import Menu, budget_bytes, cheapest, solve, solve_many
from bitzones.decide.plans import Chosen
from bitzones.decide.sensitivity import Measured, layers_of
from bitzones.errors import PlanError
from bitzones.profile import PLAN, format_bits, is_calibrated, variant_formats
from bitzones.records import Rounding, Run, SearchCell
from bitzones.stats import MIN_SEQUENCES

__all__ = [
    "ZONES",
    "budget_of",
    "decide",
    "extremes",
    "layer_zones",
    "never_lowest",
    "part_plans",
    "plan_of",
    "ranges",
    "stability",
    "zones",
]

ZONES: tuple[ZoneWord, ...] = ("SAFE", "TRANSITION", "CRITICAL", "CANNOT TELL")
"""In the order of reports."""

Integers = NDArray[np.int64]


def ranges(layers: tuple[int, ...]) -> str:
    """Layers as ranges.

    >>> ranges((7, 0, 1, 2, 3)), ranges(())
    ('0-3, 7', 'none')
    """
    runs: list[list[int]] = []
    for layer in sorted(set(layers)):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs) or "none"


def decide(measured: Measured, menu: Menu, run: Run, chosen: Chosen | None = None, search: SearchCell | None = None) -> Decision:
    """The plan of a run and the zones of its layers.

    Args:
        measured: the separate sensitivities.
        menu: what they offer.
        run: says which budget, and how zones are drawn.
        chosen: the plan that measuring whole plans recommends; without one it is that of least sum.
        search: knows the budget in bytes where one was searched.

    Raises:
        PlanError: no plan meets the profile's budget; the message gives the feasible range.
    """
    settings, budget = run.profile.zones, budget_of(measured, menu, run, search)
    choice, choices = stability(measured, menu, budget.stored_bytes, settings.resamples)
    if chosen is not None:
        choice = np.array([menu.formats.index(chosen.parts[part]) for part in menu.parts], dtype=np.int64)
    parts = part_plans(measured, menu, choice, choices)
    layers = layer_zones(measured, menu, choice, choices, settings.agreement)
    return Decision(
        plan=plan_of(measured, menu, run, choice, budget, chosen), parts=parts, layer_zones=layers, zones=zones(measured, layers, parts)
    )


def budget_of(measured: Measured, menu: Menu, run: Run, search: SearchCell | None = None) -> Budget:
    """What the profile allows: bits as they are, a tolerance as the bytes that the search found for it, or else that its sum needs.

    Raises:
        PlanError: no plan meets it; the message gives the feasible range.
    """
    asked = run.profile.budget
    if asked.average_bits is not None:
        return Budget(average_bits=asked.average_bits, stored_bytes=budget_bytes(menu, asked.average_bits))
    tokens = float(measured.tokens.sum())
    if search is not None and search.tolerance_nats is not None:
        stored, tolerance = search.budget_bytes, search.tolerance_nats / tokens
        if stored < menu.least_bytes:
            raise PlanError(f"the search's budget of {stored} bytes is below the {menu.least_bytes} that the smallest plan takes")
    else:
        tolerance = _tolerance(measured, menu, run)
        choice = cheapest(menu, measured.mean, tolerance)
        stored = int(menu.stored_bytes[np.arange(len(choice)), choice].sum())
    return Budget(average_bits=stored * 8 / menu.parameters, stored_bytes=stored, tolerance=tolerance)


def _tolerance(measured: Measured, menu: Menu, run: Run) -> float:
    """Nats per token: as given, or the sum of the separate sensitivities at the format of the variant that it names."""
    asked = run.profile.budget
    if isinstance(asked.tolerance, float):
        return asked.tolerance
    column = menu.formats.index(variant_formats(run.profile)[str(asked.like)])
    total = float(measured.mean[:, column].sum())
    if not menu.offered[:, column].all() or total <= 0:
        raise PlanError(f"budget.tolerance = like:{asked.like}: not every part could be measured at {menu.formats[column]}")
    return total


def stability(measured: Measured, menu: Menu, budget: int, resamples: int) -> tuple[Integers, Integers]:
    """The plan from all sequences, and the plan of every resample: format indices of shape (parts,) and (resamples, parts)."""
    return solve(menu, measured.mean, budget), solve_many(menu, measured.resampled[:resamples], budget)


def plan_of(measured: Measured, menu: Menu, run: Run, choice: Integers, budget: Budget, chosen: Chosen | None = None) -> Plan:
    """The plan as a record, with all that applying it needs."""
    cell, profile = measured.cell, run.profile
    names = [menu.formats[index] for index in choice]
    sizes = {(item.part, item.format): item.group_sizes for item in cell.measurements}
    used = int(menu.stored_bytes[np.arange(len(choice)), choice].sum())
    groups: dict[str, int | None] = {}
    for part, name in zip(cell.parts, names, strict=True):
        groups |= dict(zip(part.modules, sizes.get((part.name, name), ()), strict=False))
    model = run.model and PlannedModel(
        source=run.model.source,
        revision=run.model.revision,
        sha256=run.model.sha256,
        architecture=run.model.architecture,
        dtype=run.model.dtype,
        compute_dtype=run.model.compute_dtype,
        trust_remote_code=profile.model.trust_remote_code,
    )
    return Plan(
        bitzones=run.bitzones,
        model=model,
        reference=menu.formats[-1],
        budget=budget,
        achieved=Budget(average_bits=used * 8 / menu.parameters, stored_bytes=used),
        reference_bytes=int(menu.stored_bytes[:, -1].sum()),
        predicted_kl=measured.summed(choice),
        name=chosen.name if chosen else "additive",
        origin=chosen.origin if chosen else "additive",
        measured_kl=chosen.measured if chosen else None,
        measured_sequences=chosen.sequences if chosen else None,
        held_out_sha256=chosen.held_out_sha256 if chosen else None,
        parts=dict(zip(menu.parts, names, strict=True)),
        assignment={module: name for part, name in zip(cell.parts, names, strict=True) for module in part.modules},
        group_sizes=groups,
        rounding=_rounding(run, names),
        calibration_sha256=cell.calibration_sha256,
        profile_sha256=profile.sha256,
        versions=dict(run.environment.versions) if run.environment else {},
    )


def _rounding(run: Run, formats: list[str]) -> Rounding | None:
    if run.rounding is None or not any(map(is_calibrated, formats)):
        return None
    return run.rounding.model_copy(update={"fallbacks": {PLAN: found} if (found := run.rounding.fallbacks.get(PLAN)) else {}})


def part_plans(measured: Measured, menu: Menu, choice: Integers, choices: Integers) -> tuple[PartPlan, ...]:
    """What the plan does to every part, with the share of resamples at each format."""
    return tuple(
        PartPlan(
            part=part.name,
            layer=part.layer,
            group=part.group,
            format=menu.formats[choice[row]],
            stored_bytes=int(menu.stored_bytes[row, choice[row]]),
            reference_bytes=part.reference_bytes,
            shares={
                name: float((choices[:, row] == column).mean()) for column, name in enumerate(menu.formats) if menu.offered[row, column]
            },
        )
        for row, part in enumerate(measured.cell.parts)
    )


def extremes(formats: tuple[str, ...], reference: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The formats that make a layer SAFE and those that make it CRITICAL; with one width only the reference does the latter.

    >>> extremes(("qint8", "qint4", "qint2:hqq"), "bf16")
    (('qint2:hqq',), ('qint8', 'bf16'))
    """
    bits = {name: format_bits(name) for name in formats}
    lowest = tuple(name for name, width in bits.items() if width == min(bits.values()))
    highest = tuple(name for name, width in bits.items() if width == max(bits.values()) and name not in lowest)
    return lowest, (*highest, reference)


def layer_zones(measured: Measured, menu: Menu, choice: Integers, choices: Integers, agreement: float) -> tuple[LayerZone, ...]:
    """The zone of every layer, from the plans of all resamples, and how many of its parts ``choice`` puts at each format.

    The parts of a layer are counted together, plan by plan: a layer each of whose parts is at the lowest format in 95% of the plans, but
    all of them in only 85%, is not SAFE at an agreement of 90%.
    """
    lowest, highest = ([menu.formats.index(name) for name in names] for names in extremes(menu.formats[:-1], menu.formats[-1]))
    found = []
    for layer, rows in layers_of(measured.cell.parts).items():
        low, high = (float(np.isin(choices[:, rows], wanted).all(axis=1).mean()) for wanted in (lowest, highest))
        zone: ZoneWord = "SAFE" if low >= agreement else "CRITICAL" if high >= agreement else "TRANSITION"
        found.append(
            LayerZone(
                layer=layer,
                zone=zone if measured.sequences >= MIN_SEQUENCES else "CANNOT TELL",
                formats={name: count for column, name in enumerate(menu.formats) if (count := int((choice[rows] == column).sum()))},
                lowest_share=low,
                highest_share=high,
            )
        )
    return tuple(found)


def never_lowest(layers: Iterable[LayerZone], agreement: float) -> tuple[int, ...]:
    """The layers that at least ``agreement`` of the resampled plans do not store wholly at the lowest format."""
    return tuple(item.layer for item in layers if 1 - item.lowest_share >= agreement)


def zones(measured: Measured, layers: tuple[LayerZone, ...], parts: tuple[PartPlan, ...]) -> tuple[Zone, ...]:
    """The zones that have layers, with what the plan stores of them."""
    found = []
    for word in ZONES:
        members = tuple(item.layer for item in layers if item.zone == word)
        rows = [row for row, part in enumerate(parts) if part.layer in members]
        if members:
            found.append(
                Zone(
                    zone=word,
                    layers=members,
                    parameters=sum(measured.cell.parts[row].parameters for row in rows),
                    reference_bytes=sum(parts[row].reference_bytes for row in rows),
                    plan_bytes=sum(parts[row].stored_bytes for row in rows),
                )
            )
    return tuple(found)
