"""The cost of each format of each unit, from which the resampled plans are solved.

With a searched plan, the cost of a format is the change of the plan's KL when that one unit takes it, because separate sensitivities do
not add up at 2 bits. Such costs are differences of two measured KLs and can be negative. Without a search, separate sensitivities are used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bitzones.allocation.knapsack import Menu, solve, solve_many
from bitzones.analysis.layer_sensitivity import Measured
from bitzones.analysis.plan import Around
from bitzones.schema.index import index_of
from bitzones.schema.plan_cells import SearchCell
from bitzones.stats.bootstrap import weighted_ratio

__all__ = ["Costs", "around_plan", "costs_of", "separate", "swap_price"]

PRICE_STEPS = 100
"""Most steps of Dinkelbach's iteration; it takes a handful, because each step's plan has fewer swaps."""

RESAMPLED_GAP = 0.02
"""Relative optimality gap for the plan of a resample: resampling moves the cost by ten times as much, and closing the gap took ten times
as long on 320 units."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Costs:
    """``kl[p, f, s]``: nats that format f of unit p adds to the KL of sequence s, with all other units at the reference or as in the plan.

    ``menu`` says what is offered. ``swap[p, f]`` is added besides, nats per token; see `swap_price`.
    """

    around: Around
    menu: Menu
    kl: Floats
    swap: Floats
    tokens: Floats

    @property
    def mean(self) -> Floats:
        """Cost of every unit and format from all sequences, nats per token."""
        return np.asarray(self.kl.sum(axis=2) / self.tokens.sum() + self.swap)

    def plan(self, budget: int) -> Integers:
        """The plan of lowest cost on all sequences: format indices of shape (units,)."""
        return solve(self.menu, _lifted(self.mean, self.menu), budget)

    def plans(self, weights: Floats, budget: int) -> Integers:
        """The plan of lowest cost on every resample, ``weights[r, s]``: format indices of shape (resamples, units)."""
        resampled = weighted_ratio(weights, self.kl, self.tokens) + self.swap
        return solve_many(self.menu, _lifted(resampled, self.menu), budget, RESAMPLED_GAP)

    def of(self, sequences: NDArray[np.bool_]) -> Costs:
        """The costs on a subset of the sequences."""
        return replace(self, kl=self.kl[:, :, sequences], tokens=self.tokens[sequences])


def _lifted(costs: Floats, menu: Menu) -> Floats:
    """Costs shifted so that each unit's least is 0: the solver needs them non-negative, and the plans stay the same."""
    if menu.offered.all():  # as below, in a third of the time
        return np.asarray(costs - costs.min(axis=-1, keepdims=True))
    offered = np.where(menu.offered, costs, np.inf)
    return np.where(menu.offered, costs - offered.min(axis=-1, keepdims=True), 0.0)


def costs_of(measured: Measured, menu: Menu, search: SearchCell | None, budget: int) -> Costs:
    """Costs around the searched plan if the search swept around it, else the separate sensitivities."""
    found = around_plan(measured, menu, search, budget) if search is not None else None
    return separate(measured, menu) if found is None else found


def separate(measured: Measured, menu: Menu) -> Costs:
    """The separate sensitivities: the effect of each format of each unit on the reference."""
    return Costs("reference", menu, measured.kl, np.zeros(menu.offered.shape), measured.tokens)


def around_plan(measured: Measured, menu: Menu, search: SearchCell, budget: int) -> Costs | None:
    """Costs of swaps around the searched plan, with the price of a swap; None without a sweep around that plan.

    A format that was not measured around the plan is not offered; the plan's own format costs 0.
    """
    at, around, kept = search.found, search.around_found, measured.sample.kept
    choice = np.array([menu.formats.index(at.units[unit]) for unit in menu.units], dtype=np.int64)
    if around is None or at.kl_nats is None or int(menu.sizes[np.arange(len(choice)), choice].sum()) > budget:
        return None
    rows = index_of(menu.units)
    stands, kl = np.zeros(menu.offered.shape, dtype=np.bool_), np.zeros((*menu.offered.shape, measured.sequences))
    stands[np.arange(len(choice)), choice] = True
    offered = stands.copy()
    for item in around:
        where = rows[item.unit], menu.formats.index(item.format)
        if item.kl_nats is not None and not stands[where]:
            offered[where] = True
            kl[where] = (np.asarray(item.kl_nats) - np.asarray(at.kl_nats))[kept]
    free = Costs("plan", replace(menu, offered=offered & menu.offered), kl, np.zeros(stands.shape), measured.tokens)
    return replace(free, swap=np.where(stands, 0.0, swap_price(free, choice, budget)))


def swap_price(costs: Costs, choice: Integers, budget: int) -> float:
    """The least price per swap, nats per token, at which the searched plan is optimal on all sequences.

    The search tried the plans that its costs propose at prices from 0 up, and each gained less than the costs of its swaps promised, or it
    would have been accepted. Resampled plans are therefore solved at the price at which the search stopped; they differ from the searched
    plan where other sequences would have paid that price. It is the largest mean gain per swap of any plan within the budget, by
    Dinkelbach's iteration (1967, Manag. Sci. 13:492).
    """
    rows, price = np.arange(len(choice)), 0.0
    for _ in range(PRICE_STEPS):
        swap = np.full(costs.menu.offered.shape, price)
        swap[rows, choice] = 0.0
        plan = replace(costs, swap=swap).plan(budget)
        swaps = int((plan != choice).sum())
        gain = float((costs.mean[rows, choice] - costs.mean[rows, plan]).sum())
        if not swaps or gain <= price * swaps * (1 + 1e-9):
            break
        price = gain / swaps
    return price
