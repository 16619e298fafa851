"""Baseline plans within a budget: what people would choose without measuring.

Besides uniform formats: the contiguous rule ("the first layers can take it"), random plans of equal bytes, and the plan with the least sum
of separate sensitivities.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bitzones.allocation.knapsack import Menu
from bitzones.schema.formats import is_calibrated
from bitzones.schema.plan_cells import PlanOrigin

__all__ = ["Baseline", "contiguous", "distinct", "random_plan", "uniform"]

Integers = NDArray[np.int64]

Baseline = tuple[str, PlanOrigin, Integers]
"""Name, how it was made, and the format index of every unit."""


def _by_size(menu: Menu, unit: int) -> list[int]:
    """The formats offered to a unit, from least to most of what the budget counts.

    Under a budget of bytes the reference is left out where there is another. Under one of time it is not: it may be the fastest. Of formats
    that take the same only one, the calibrated one where there is one: who follows a rule takes the better rounding too.
    """
    offered = [int(column) for column in np.flatnonzero(menu.offered[unit])]
    if menu.nanoseconds is None:
        offered = [column for column in offered if column != len(menu.formats) - 1] or offered
    by_size = {int(menu.sizes[unit, column]): column for column in sorted(offered, key=lambda n: _is_calibrated(menu, n))}
    return [by_size[size] for size in sorted(by_size)]


def _is_calibrated(menu: Menu, column: int) -> bool:
    return column != len(menu.formats) - 1 and is_calibrated(menu.formats[column])


def _smallest(menu: Menu) -> Integers:
    return np.array([_by_size(menu, unit)[0] for unit in range(len(menu.units))], dtype=np.int64)


def _size(menu: Menu, choice: Integers) -> int:
    return int(menu.sizes[np.arange(len(choice)), choice].sum())


def uniform(menu: Menu, column: int) -> Integers | None:
    """Every unit in one format (`knapsack.Menu.everywhere`)."""
    return menu.everywhere(column)


def contiguous(menu: Menu, budget: int) -> Integers:
    """The last units in the largest quantized format, as many as the budget allows, and all before them in the smallest: the rule that the
    first layers bear few bits and the last do not, at the same bytes as the other plans.

    Raises:
        ValueError: even the smallest formats exceed the budget.
    """
    choice = _within(menu, budget)
    for unit in reversed(range(len(menu.units))):
        grown = choice.copy()
        grown[unit] = _by_size(menu, unit)[-1]
        if _size(menu, grown) > budget:
            break
        choice = grown
    return choice


def random_plan(menu: Menu, budget: int, rng: np.random.Generator) -> Integers:
    """Units in random order, each raised to a random larger format while that fits: a plan that fills the budget and knows nothing.

    Raises:
        ValueError: even the smallest formats exceed the budget.
    """
    choice = _within(menu, budget)
    for unit in rng.permutation(len(menu.units)):
        for column in rng.permutation(_by_size(menu, int(unit))[1:]):
            grown = choice.copy()
            grown[unit] = column
            if _size(menu, grown) <= budget:
                choice = grown
                break
    return choice


def _within(menu: Menu, budget: int) -> Integers:
    choice = _smallest(menu)
    if _size(menu, choice) > budget:
        raise ValueError(f"a budget of {budget} is fewer than the smallest formats take")
    return choice


def distinct(baselines: Sequence[Baseline]) -> Iterator[Baseline]:
    """The baselines without those that are an earlier one under another name: nothing is measured twice."""
    seen: set[bytes] = set()
    for name, origin, choice in baselines:
        if choice.tobytes() not in seen:
            seen.add(choice.tobytes())
            yield name, origin, choice
