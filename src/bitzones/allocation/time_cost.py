"""Time as the cost of a plan: the matrix products of its units in a decode step, from rounds measured on the run's device.

A plan's time is the sum of its units' medians. It leaves out attention, norms, unquantized modules and the overhead between them, so it
says how formats change the time and not how long a token takes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bitzones.allocation.knapsack import Menu
from bitzones.schema.errors import PlanError
from bitzones.schema.performance_cells import ShapeTimes, UnitLatencyCell
from bitzones.stats.bootstrap import estimate
from bitzones.stats.intervals import Estimate

__all__ = ["budget_ns", "plan_ns", "plan_ratio", "plan_s", "timed_menu"]

Floats = NDArray[np.float64]

NO_GAIN = 0.98
"""A share of the reference's time above which what the fastest plan saves is within what medians of repeated runs differ by."""


def _ns(times: ShapeTimes) -> int:
    """The median of one unit, whole nanoseconds rounded up: sums are exact, and never below what was measured."""
    return math.ceil(float(np.median(times.rounds_per_unit_s)) * 1e9)


def _medians(cell: UnitLatencyCell) -> dict[tuple[object, str], int]:
    return {(item.shapes, item.format): _ns(item) for item in cell.times}


def timed_menu(menu: Menu, cell: UnitLatencyCell | None) -> Menu:
    """The menu with what each option takes; an option that was not timed is not offered.

    Raises:
        PlanError: nothing, or not every unit, was timed.
    """
    if cell is None:
        raise PlanError("budget.latency: the run holds no times of units (was bench/test_latency.py deselected?)")
    known = _medians(cell)
    if missing := [unit for unit in menu.units if unit not in cell.units]:
        raise PlanError(f"budget.latency: the times of {missing[0]} were not measured")
    taken = [[known.get((cell.units[unit], name)) for name in menu.formats] for unit in menu.units]
    there = np.array([[value is not None for value in row] for row in taken])
    nanoseconds = np.array([[value or 0 for value in row] for row in taken], dtype=np.int64)
    return replace(menu, offered=menu.offered & there, nanoseconds=nanoseconds)


def budget_ns(menu: Menu, share: float) -> int:
    """What a share of the reference's time allows, whole nanoseconds rounded down.

    Raises:
        PlanError: no plan is that fast; the message gives the feasible range.
        ValueError: the menu is not timed.
    """
    if menu.nanoseconds is None:
        raise ValueError("the menu counts bytes: see timed_menu")
    reference = int(menu.nanoseconds[:, -1].sum())
    budget = int(share * reference)
    if budget < menu.least_size:
        low, high = menu.least_size / reference, int(np.where(menu.offered, menu.nanoseconds, 0).max(axis=1).sum()) / reference
        plain = "; fewer bits do not buy time on this device" if low > NO_GAIN else ""
        raise PlanError(
            f"no plan takes {share:g} of the time of {menu.formats[-1]} for the products of its units: as measured on this device the "
            f"formats offered reach from {low:.3f} to {high:.3f}{plain}; raise budget.latency or give budget.average_bits"
        )
    return budget


def plan_ns(cell: UnitLatencyCell, units: Mapping[str, str]) -> int | None:
    """What a plan's products take, unit to format, as the planner counts it; None where one of its formats was not timed."""
    known = _medians(cell)
    found = [known.get((cell.units.get(unit, ()), name)) for unit, name in units.items()]
    return None if None in found else sum(value or 0 for value in found)


def plan_s(cell: UnitLatencyCell, units: Mapping[str, str], resamples: int, seed: int) -> Estimate:
    """Seconds of a plan's products in one decode step, with a bootstrap interval over rounds.

    Raises:
        KeyError: a unit or format was not timed.
    """
    value, resampled = _summed(cell, units, resamples, seed)
    return estimate(value, resampled, _rounds(cell))


def plan_ratio(cell: UnitLatencyCell, units: Mapping[str, str], reference: str, resamples: int, seed: int) -> Estimate | None:
    """A plan's time by the reference's, with a bootstrap interval over rounds, which ran side by side and are resampled together.

    None where the reference was not timed, or took no time that a clock could see.

    Raises:
        KeyError: a unit or format of the plan was not timed.
    """
    if reference not in {item.format for item in cell.times}:
        return None
    ours, theirs = (_summed(cell, chosen, resamples, seed) for chosen in (units, dict.fromkeys(units, reference)))
    if theirs[0] <= 0 or not (theirs[1] > 0).all():
        return None
    return estimate(ours[0] / theirs[0], ours[1] / theirs[1], _rounds(cell))


def _rounds(cell: UnitLatencyCell) -> int:
    return len(cell.times[0].rounds_s)


def _summed(cell: UnitLatencyCell, units: Mapping[str, str], resamples: int, seed: int) -> tuple[float, Floats]:
    """Sum of the units' medians, and of their medians over resampled rounds."""
    by = {(item.shapes, item.format): np.asarray(item.rounds_per_unit_s) for item in cell.times}
    drawn = np.random.default_rng(seed).integers(0, _rounds(cell), (resamples, _rounds(cell)))
    counts = Counter((cell.units[unit], name) for unit, name in units.items())
    total, resampled = 0.0, np.zeros(resamples)
    for key, count in counts.items():
        total += count * float(np.median(by[key]))
        resampled += count * np.median(by[key][drawn], axis=1)
    return total, resampled
