"""Chooses a format for every unit, so that the predicted KL is minimal within a budget.

A multiple-choice knapsack: every unit takes exactly one of the formats offered to it. Every step is exact. A bound, for all resamples at
once, removes options that no plan better than a known one can contain (`relaxation`). The rest is enumerated if few partial plans are worth
keeping (Nemhauser & Ullmann 1969, Manag. Sci. 15:494), which is ten times faster than a solver on a bootstrap's many small problems.
Otherwise `scipy.optimize.milp` decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitzones.allocation.relaxation import Floats, Integers, improve, pick, relax, undominated
from bitzones.schema.errors import PlanError
from bitzones.schema.index import index_of
from bitzones.schema.sensitivity_cells import SensitivityCell

__all__ = ["Menu", "budget_bytes", "cheapest", "cheapest_many", "menu_of", "solve", "solve_many"]

SLACK = 1e-12
"""Relative room left to rounding when an option is struck out: far above the error of a float sum, far below any measured difference."""

MOST_REFUSALS = 8
"""Plans of the solver that do not fit before the known one is taken: each takes a tie within a millionth of the budget."""

MOST_PLANS = 5000
"""Partial plans that are enumerated before the solver takes over: about where both take as long."""

OBJECTIVE_SCALE = 1e3
"""What the dearest option costs in HiGHS' objective: it stops within an absolute 1e-6, which is then 1e-9 of that option."""

TOLERANCE_STEPS = 10**9
"""Whole steps in which a tolerance is counted: rounding up loses at most a billionth of it per unit, and sums stay exact integers."""

LEAST_COST = 1e-300
"""Below this all options cost the same: a scale that lifted them would overflow."""

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Menu:
    """What is offered: ``stored_bytes[p, f]`` of unit p in format f, where ``offered[p, f]``. The last format is the reference.

    With ``nanoseconds[p, f]`` a budget counts time instead of bytes. ``stays[p, f]`` where no kernel computes any module of the unit in
    that format: it is not offered, and a model quantized to it everywhere has the unit in the reference's.
    """

    units: tuple[str, ...]
    formats: tuple[str, ...]
    stored_bytes: Integers
    offered: Flags
    parameters: int
    nanoseconds: Integers | None = None
    stays: Flags | None = None

    def everywhere(self, column: int) -> Integers | None:
        """The format index of every unit of a model quantized to one format; None where that was not measured, or nothing takes it."""
        offered = self.offered[:, column]
        stays = np.zeros_like(offered) if self.stays is None else self.stays[:, column]
        if not offered.any() or not (offered | stays).all():
            return None
        return np.where(offered, column, len(self.formats) - 1).astype(np.int64)

    @property
    def sizes(self) -> Integers:
        """What a budget counts."""
        return self.stored_bytes if self.nanoseconds is None else self.nanoseconds

    @property
    def least_size(self) -> int:
        """The smallest plan, in what a budget counts."""
        return int(np.where(self.offered, self.sizes, np.iinfo(np.int64).max).min(axis=1).sum())

    @property
    def least_bytes(self) -> int:
        """Stored bytes of the smallest plan."""
        return int(np.where(self.offered, self.stored_bytes, np.iinfo(np.int64).max).min(axis=1).sum())

    @property
    def most_bytes(self) -> int:
        """Stored bytes of the largest plan."""
        return int(np.where(self.offered, self.stored_bytes, 0).max(axis=1).sum())


def menu_of(cell: SensitivityCell, formats: tuple[str, ...], reference: str) -> Menu:
    """What the measurements offer: every format that was measured on a unit, and the reference, whose KL is 0 by definition."""
    columns, rows = index_of(formats), index_of(unit.name for unit in cell.units)
    stored = np.zeros((len(rows), len(formats) + 1), dtype=np.int64)
    stored[:, -1] = [unit.reference_bytes for unit in cell.units]
    offered = np.zeros(stored.shape, dtype=np.bool_)
    offered[:, -1] = True
    stays = np.zeros(stored.shape, dtype=np.bool_)
    for measured in cell.measurements:
        at = rows[measured.unit], columns[measured.format]
        stored[at], offered[at] = measured.stored_bytes, measured.kl_nats is not None
        stays[at] = len(measured.stays) == len(cell.units[at[0]].modules)
    parameters = sum(unit.parameters for unit in cell.units)
    return Menu(tuple(rows), (*formats, reference), stored, offered, parameters, stays=stays)


def budget_bytes(menu: Menu, average_bits: float) -> int:
    """The bytes that an average of stored bits per weight allows, rounded down.

    Raises:
        PlanError: no plan is that small; the message gives the feasible range.
    """
    budget = int(average_bits * menu.parameters / 8)
    if budget < menu.least_bytes:
        low, high = (bytes_ * 8 / menu.parameters for bytes_ in (menu.least_bytes, menu.most_bytes))
        raise PlanError(
            f"no plan stores the units in {average_bits:g} average bits: the formats offered reach from {low:.3f} to {high:.3f} "
            "(scales and shifts counted); raise budget.average_bits or offer a smaller format"
        )
    return budget


def solve(menu: Menu, kl: Floats, budget: int) -> Integers:
    """The format index of every unit, of least summed ``kl[p, f]`` within ``budget`` bytes. See `solve_many`."""
    choice: Integers = solve_many(menu, kl[np.newaxis], budget)[0]
    return choice


def solve_many(menu: Menu, kl: Floats, budget: int, gap: float = 0.0) -> Integers:
    """The best plan for every resample r of ``kl[r, p, f]``: format indices of shape (resamples, units).

    A plan never exceeds the budget, in bytes or, where the menu has them, nanoseconds. Ties: within a unit the format of fewer bytes;
    between units that cannot be told apart (same bytes, same KL) the earlier one gets the fewer bytes; else the order of the units decides,
    alike for the same input.

    Args:
        menu: what is offered.
        kl: what it costs, not negative; shape (resamples, units, formats).
        budget: in what the menu counts.
        gap: a plan that is proved to be within this share of the least sum is not improved on; 0 is exact.

    Raises:
        ValueError: the budget is below `Menu.least_size`.
    """
    if budget < menu.least_size:
        raise ValueError(f"a budget of {budget} is fewer than the smallest plan's {menu.least_size}")
    costs = undominated(np.where(menu.offered, kl, np.inf), menu.sizes)
    choices = _least(costs, np.broadcast_to(menu.sizes, costs.shape), np.full(len(costs), budget, dtype=np.int64), gap)
    for row in _with_ties(costs, menu.sizes):
        choices[row] = _untie(choices[row], costs[row], menu.sizes)
    return choices


def cheapest(menu: Menu, kl: Floats, tolerance: float) -> Integers:
    """The format index of every unit, of fewest bytes with a summed ``kl[p, f]`` of at most ``tolerance``. See `cheapest_many`."""
    choice: Integers = cheapest_many(menu, kl[np.newaxis], np.array([tolerance]))[0]
    return choice


def cheapest_many(menu: Menu, kl: Floats, tolerances: Floats) -> Integers:
    """The smallest plan for every resample r of ``kl[r, p, f]`` whose sum is at most ``tolerances[r]``: shape (resamples, units).

    The same problem with bytes and KL in each other's place. KL is counted in steps of which `TOLERANCE_STEPS` make the tolerance, rounded
    up: a plan's sum never exceeds the tolerance, and a plan within a few billionths of it may be passed over.

    Raises:
        ValueError: a tolerance is not positive, or below the least sum that is offered.
    """
    if not (tolerances > 0).all():
        raise ValueError("a tolerance must be positive")
    offered = np.where(menu.offered, kl, np.inf)
    if (offered.min(axis=2).sum(axis=1) > tolerances).any():
        raise ValueError("a tolerance is below the least sum of what is offered")
    steps = np.ceil(offered / tolerances[:, None, None] * TOLERANCE_STEPS)
    sizes = np.minimum(steps, TOLERANCE_STEPS + 1).astype(np.int64)  # one step above the tolerance is as impossible as more
    costs = undominated(np.where(sizes <= TOLERANCE_STEPS, menu.stored_bytes.astype(np.float64), np.inf), sizes)
    return _least(costs, sizes, np.full(len(costs), TOLERANCE_STEPS, dtype=np.int64))


def _least(costs: Floats, sizes: Integers, budgets: Integers, gap: float = 0.0) -> Integers:
    """Per resample the choice of least summed cost, or within ``gap`` of it, whose summed size is within the budget; shapes (r, p, f)."""
    choices, bound, reduced = relax(costs, sizes, budgets)
    choices = improve(choices, costs, sizes, budgets)
    known = pick(costs, choices).sum(axis=1)
    gaps = known - bound + SLACK * known
    open_ = (reduced <= gaps[:, None, None]) & np.isfinite(costs)
    unproved = known - bound > gap * known
    for row in np.flatnonzero((open_.sum(axis=2) > 1).any(axis=1) & unproved):
        choices[row] = _finish(choices[row], costs[row], sizes[row], reduced[row], open_[row], float(gaps[row]), int(budgets[row]))
    return choices


def _finish(known: Integers, costs: Floats, sizes: Integers, reduced: Floats, open_: Flags, gap: float, budget: int) -> Integers:
    """The best plan among the options still open, or the known one where nothing beats it."""
    free = open_.sum(axis=1) > 1
    found = np.where(free, known, open_.argmax(axis=1))  # most units have one option left: they only take their bytes
    room = budget - int(pick(sizes, found)[~free].sum())
    best = _enumerate(costs[free], sizes[free], reduced[free], open_[free], gap, room)
    found[free] = _programme(known[free], costs[free], sizes[free], open_[free], room) if best is None else best
    fits = pick(sizes, found).sum() <= budget
    return found if fits and pick(costs, found).sum() < pick(costs, known).sum() else known


def _enumerate(costs: Floats, sizes: Integers, reduced: Floats, open_: Flags, gap: float, budget: int) -> Integers | None:
    """The best plan by keeping, unit after unit, every partial plan that no other beats in both bytes and KL; None where those get many.

    A plan costs the bound and at least the sum of its options' excess over the best price (Pisinger 1995, Eur. J. Oper. Res. 83:394): a
    partial plan whose excess is above the gap to the known plan is dropped, for nothing that it becomes beats that.
    """
    needed = np.where(open_, sizes, np.iinfo(np.int64).max).min(axis=1)
    room = budget - (needed.sum() - needed.cumsum())  # what this unit and those before it may take
    used, cost, excess = np.zeros(1, dtype=np.int64), np.zeros(1), np.zeros(1)
    steps: list[tuple[Integers, Integers]] = []
    for unit, allowed in enumerate(open_):
        options = allowed.nonzero()[0]
        used, cost = (used[:, None] + sizes[unit, options]).ravel(), (cost[:, None] + costs[unit, options]).ravel()
        excess = (excess[:, None] + reduced[unit, options]).ravel()
        order = ((used <= room[unit]) & (excess <= gap)).nonzero()[0]
        order = order[np.lexsort((cost[order], used[order]))]
        ordered = cost[order]
        best = np.minimum.accumulate(ordered)
        keep = np.ones(len(order), dtype=np.bool_)
        keep[1:] = ordered[1:] < best[:-1]
        kept = order[keep]
        if len(kept) > MOST_PLANS:
            return None
        if not len(kept):
            return None
        steps.append((kept // len(options), options[kept % len(options)]))
        used, cost, excess = used[kept], cost[kept], excess[kept]
    found, at = np.empty(len(open_), dtype=np.int64), len(cost) - 1  # more bytes only where the KL is lower: the last is the best
    for unit in range(len(open_) - 1, -1, -1):
        before, option = steps[unit]
        found[unit], at = option[at], before[at]
    return found


def _programme(known: Integers, costs: Floats, sizes: Integers, open_: Flags, budget: int) -> Integers:
    """The best plan as an integer linear programme, or the known one where HiGHS gives none.

    HiGHS lets a sum be a millionth too large. A plan that it gives and that does not fit is forbidden, and it is asked again.
    """
    options = np.flatnonzero(open_)
    unit = options // costs.shape[1]
    from scipy.optimize import Bounds, LinearConstraint, milp  # noqa: PLC0415
    from scipy.sparse import csr_array  # noqa: PLC0415

    cost, size = costs.ravel()[options], sizes.ravel()[options]
    columns = np.arange(len(options))
    step = max(1, int(np.gcd.reduce(size)))
    one_each = csr_array((np.ones(len(options)), (unit, columns)), shape=(len(known), len(options)))
    constraints = [LinearConstraint(one_each, 1, 1), LinearConstraint(size / step, 0, budget // step)]
    for _ in range(MOST_REFUSALS):
        result = milp(
            cost * (OBJECTIVE_SCALE / max(cost.max(), LEAST_COST)),
            constraints=constraints,
            integrality=np.ones(len(options), dtype=np.int64),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 0},
        )
        if result.x is None:
            break
        chosen = result.x > 0.5
        if size[chosen].sum() <= budget:
            found = known.copy()
            found[options[chosen] // costs.shape[1]] = options[chosen] % costs.shape[1]
            return found
        constraints.append(LinearConstraint(chosen.astype(np.float64), 0, len(known) - 1))
    return known


def _with_ties(costs: Floats, sizes: Integers) -> Integers:
    """The resamples in which some units may not be told apart: same bytes, and the same cost in every format of which one is finite."""
    finite = np.isfinite(costs)
    totals = np.where(finite, costs, -1.0).sum(axis=2)
    totals[finite.sum(axis=2) < 2] = np.nan  # a unit with one option left takes it, whatever it is equal to
    alike: dict[bytes, list[int]] = {}
    for unit, row in enumerate(sizes):
        alike.setdefault(row.tobytes(), []).append(unit)
    tied = np.zeros(len(costs), dtype=np.bool_)
    for units in alike.values():
        ordered = np.sort(totals[:, units], axis=1)
        tied |= (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    return np.flatnonzero(tied)


def _untie(choice: Integers, costs: Floats, sizes: Integers) -> Integers:
    """Among units with the same bytes and the same KL, give the earlier ones the fewer bytes."""
    alike: dict[bytes, list[int]] = {}
    for unit in range(len(choice)):
        alike.setdefault(costs[unit].tobytes() + sizes[unit].tobytes(), []).append(unit)
    choice = choice.copy()
    for units in alike.values():
        choice[units] = sorted(choice[units], key=lambda option: (sizes[units[0], option], option))
    return choice
