"""Zones of layers: the stability of the plan under the bootstrap.

The plan is solved again on every resample of the sensitivity sequences, from costs around the searched plan or else from separate
sensitivities (`marginal_costs`). A layer is SAFE if all its units are at the lowest format in at least ``agreement`` of the plans, CRITICAL
if all are at the highest format or at the reference in as many, and otherwise TRANSITION. With too few sequences for a bootstrap, every
layer is INCONCLUSIVE. Zones need not be contiguous. If the recommended plan is not the searched one, zones and plan can differ;
`Decision.contradicted` lists the layers.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from bitzones.allocation.knapsack import Menu
from bitzones.analysis.budget import budget_of
from bitzones.analysis.decision import Decision
from bitzones.analysis.fused import fused
from bitzones.analysis.layer_sensitivity import Measured, layers_of
from bitzones.analysis.marginal_costs import Costs, costs_of, separate
from bitzones.analysis.plan import LayerZone, PlanBudget, SplitHalf, UnitPlan, Zone, ZoneWord
from bitzones.analysis.plan_builder import plan_of, unit_plans
from bitzones.analysis.plan_ranking import Chosen
from bitzones.schema.formats import format_bits
from bitzones.schema.plan_cells import SearchCell
from bitzones.schema.run_record import Run
from bitzones.stats.bootstrap import resample_weights
from bitzones.stats.intervals import MIN_SEQUENCES

__all__ = [
    "ZONES",
    "contradicted",
    "decide",
    "extremes",
    "layer_zones",
    "never_lowest",
    "ranges",
    "split_half",
    "zones",
]

ZONES: tuple[ZoneWord, ...] = ("SAFE", "TRANSITION", "CRITICAL", "INCONCLUSIVE")
"""In report order."""

SPLIT_HALF_RESAMPLES = 400
"""Resampled plans of each half: the standard error of a share of 90% is then 1.5 points, and four halves take as long as one whole."""

SPLIT_HALF_AGREEMENT = 0.8
"""Least share of layers with the same zone in both halves: below it, more than a fifth of the zones depend on the sample."""

Integers = NDArray[np.int64]


def ranges(layers: tuple[int, ...]) -> str:
    """Layer numbers as ranges.

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


def decide(
    measured: Measured,
    menu: Menu,
    run: Run,
    chosen: Chosen | None = None,
    search: SearchCell | None = None,
    budget: PlanBudget | None = None,
) -> Decision:
    """The plan of a run, or of some of its sequences, and the zones of its layers.

    Args:
        measured: the separate sensitivities.
        menu: the formats offered to each unit.
        run: holds the budget and the settings of zones.
        chosen: the recommended plan; by default the additive one.
        search: holds the budget in bytes and the sweep around the searched plan.
        budget: of a plan that was made from other sequences, within which this one is; by default the profile's on these.

    Raises:
        PlanError: no plan meets the profile's budget; the message gives the feasible range.
    """
    settings, budget = run.profile.zones, budget or budget_of(measured, menu, run, search)
    costs = costs_of(measured, menu, search, budget.limit)
    choices = costs.plans(measured.weights[: settings.resamples], budget.limit)
    if chosen is not None:
        choice = np.array([menu.formats.index(chosen.units[unit]) for unit in menu.units], dtype=np.int64)
    else:
        choice = costs.plan(budget.limit)
    units = unit_plans(measured, costs.menu, choice, choices)
    layers = layer_zones(measured, menu, choice, choices, settings.agreement)
    bases = [costs] if costs.around == "reference" else [costs, separate(measured, menu)]
    return Decision(
        plan=plan_of(measured, menu, run, choice, budget, chosen),
        units=units,
        layer_zones=layers,
        zones=zones(measured, layers, units),
        around=costs.around,
        contradicted=contradicted(layers, menu),
        fused=fused(measured.cell.units, {unit.unit: unit.format for unit in units}),
        split_half=tuple(split_half(measured, base, run, budget.limit) for base in bases),
    )


def extremes(formats: tuple[str, ...], reference: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The formats that make a layer SAFE, and those that make it CRITICAL: with one bit width, only the reference.

    >>> extremes(("qint8", "qint4", "qint2:hqq"), "bf16")
    (('qint2:hqq',), ('qint8', 'bf16'))
    """
    bits = {name: format_bits(name) for name in formats}
    lowest = tuple(name for name, width in bits.items() if width == min(bits.values()))
    highest = tuple(name for name, width in bits.items() if width == max(bits.values()) and name not in lowest)
    return lowest, (*highest, reference)


def layer_zones(measured: Measured, menu: Menu, choice: Integers, choices: Integers, agreement: float) -> tuple[LayerZone, ...]:
    """The zone of every layer, from the plans of all resamples, and how many of its units ``choice`` puts at each format.

    The units of a layer are counted jointly: if each unit is at the lowest format in 95% of the plans, but all of them in only 85%, the
    layer is not SAFE at an agreement of 90%.
    """
    found = []
    for layer, rows in layers_of(measured.cell.units).items():
        low, high = _shares(menu, choices[:, rows])
        found.append(
            LayerZone(
                layer=layer,
                zone=_zone(low, high, measured.sequences, agreement),
                formats={name: count for column, name in enumerate(menu.formats) if (count := int((choice[rows] == column).sum()))},
                lowest_share=low,
                highest_share=high,
            )
        )
    return tuple(found)


def _shares(menu: Menu, choices: Integers) -> tuple[float, float]:
    """The share of plans that put all of these units at the lowest format, and of those that put all at the highest or the reference."""
    wanted = (np.array([name in names for name in menu.formats]) for names in extremes(menu.formats[:-1], menu.formats[-1]))
    low, high = (float(within[choices].all(axis=1).mean()) for within in wanted)
    return low, high


def _zone(low: float, high: float, sequences: int, agreement: float) -> ZoneWord:
    if sequences < MIN_SEQUENCES:
        return "INCONCLUSIVE"
    return "SAFE" if low >= agreement else "CRITICAL" if high >= agreement else "TRANSITION"


def contradicted(layers: Iterable[LayerZone], menu: Menu) -> tuple[int, ...]:
    """Layers in which the plan differs from the zone: SAFE ones not wholly at the lowest format, CRITICAL ones not wholly at the highest
    or the reference."""
    lowest, highest = extremes(menu.formats[:-1], menu.formats[-1])
    said = {"SAFE": set(lowest), "CRITICAL": set(highest)}
    return tuple(item.layer for item in layers if item.zone in said and not set(item.formats) <= said[item.zone])


def split_half(measured: Measured, costs: Costs, run: Run, budget: int) -> SplitHalf:
    """Split-half reliability: the zones of the even sequences against those of the odd ones.

    Each half has up to `SPLIT_HALF_RESAMPLES` resamples of its own; the price of a swap is that of all sequences.
    """
    settings, layers = run.profile.zones, layers_of(measured.cell.units)
    even = np.arange(measured.sequences) % 2 == 0
    words: list[tuple[ZoneWord, ...]] = []
    unknown: ZoneWord = "INCONCLUSIVE"
    for half in (even, ~even):
        count = int(half.sum())
        if count < MIN_SEQUENCES:
            words.append((unknown,) * len(layers))
            continue
        choices = costs.of(half).plans(resample_weights(count, min(settings.resamples, SPLIT_HALF_RESAMPLES), run.profile.seed), budget)
        words.append(tuple(_zone(*_shares(costs.menu, choices[:, rows]), count, settings.agreement) for rows in layers.values()))
    first, second = words
    told = measured.sequences // 2 >= MIN_SEQUENCES
    agree = tuple(layer for layer, a, b in zip(layers, first, second, strict=True) if a == b) if told else None
    return SplitHalf(
        around=costs.around,
        sequences=(int(even.sum()), int((~even).sum())),
        layers=tuple(layers),
        zones=(first, second),
        agree=agree,
        holds=None if agree is None else len(agree) / len(layers) >= SPLIT_HALF_AGREEMENT,
    )


def never_lowest(layers: Iterable[LayerZone], agreement: float) -> tuple[int, ...]:
    """The layers that at least ``agreement`` of the resampled plans do not store wholly at the lowest format."""
    return tuple(item.layer for item in layers if 1 - item.lowest_share >= agreement)


def zones(measured: Measured, layers: tuple[LayerZone, ...], units: tuple[UnitPlan, ...]) -> tuple[Zone, ...]:
    """Zones that have layers, with their bytes."""
    found = []
    for word in ZONES:
        members = tuple(item.layer for item in layers if item.zone == word)
        rows = [row for row, unit in enumerate(units) if unit.layer in members]
        if members:
            found.append(
                Zone(
                    zone=word,
                    layers=members,
                    parameters=sum(measured.cell.units[row].parameters for row in rows),
                    reference_bytes=sum(units[row].reference_bytes for row in rows),
                    plan_bytes=sum(units[row].stored_bytes for row in rows),
                )
            )
    return tuple(found)
