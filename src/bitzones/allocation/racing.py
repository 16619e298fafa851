"""Which units and formats are worth measuring on more sequences, decided from what was measured so far.

A race goes in rounds of more and more sequences. After each, draws of what measuring all sequences would give are made from
the estimates and their errors, and the planner solves each of them. An option is measured further if it can still change the plan or a
zone. It can change the plan if it is where the optimal plans of draws in which the plan at hand loses more than is allowed differ from
it (after Chen et al. 2014, NIPS 27). It can change a zone if resampled plans take it now and then, and its unit is not at the lowest or
the highest formats in almost all of them.

The regret of stopping is what the plan at hand costs above the plan that all measurements would give. Its bound is a quantile over the
draws. A race is looked at several times and may stop at each, so the error that is allowed in all is divided among the looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bitzones.allocation.knapsack import Menu, solve, solve_many
from bitzones.allocation.partial_sweep import PartialSweep
from bitzones.allocation.relaxation import pick
from bitzones.schema.formats import format_bits
from bitzones.schema.sensitivity_cells import StopReason
from bitzones.stats.intervals import ALPHA, MIN_SEQUENCES

__all__ = ["ALLOWED_REGRET", "Extend", "Race", "Standing", "in_order", "looks_of", "run"]

GROWTH = 1.5
"""Sequences of a round over those of the round before: each round then costs half of all before it, and there are about five."""

ALLOWED_REGRET = 0.005
"""Regret at which a race stops, as a share of the plan's KL: a tenth of the least difference between plans that a held-out set tells."""

DRAWS = 300
"""Draws of what all measurements would give: 3 lie beyond the bound of the last of five looks."""

SETTLED_SHARE = 0.98
"""Share of resampled plans that leaves no doubt of a zone, whose agreement is 90% of the resamples of all measurements."""

RARE_SHARE = 0.01
"""An option in fewer of the resampled plans is not what a zone hangs on."""

DRAW_GAP = ALLOWED_REGRET / 2
"""Relative optimality gap of a draw's plan: well within the regret that is allowed, and most draws are then solved by the bound alone."""

RESAMPLED_GAP = 0.02
"""Relative optimality gap of a resampled plan, as where zones are drawn."""

LARGEST_ERROR = 0.9
"""Relative error of an estimate beyond which a draw is not followed: at 1 its KL would be infinite."""

LEAST_KL = 1e-12
"""Nats per token of an estimate that is not positive, which controls can make of a small one."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Extend = Callable[[Flags, int], PartialSweep]
"""Measures the options that are marked on as many of the sequences, and returns all that was measured so far."""


def looks_of(sequences: int) -> tuple[int, ...]:
    """Number of sequences after each round; the first is the fewest of which an interval is printed.

    >>> looks_of(98)
    (20, 30, 45, 68, 98)
    """
    found = [min(MIN_SEQUENCES, sequences)]
    while found[-1] < sequences:
        found.append(min(sequences, math.ceil(found[-1] * GROWTH)))
    return tuple(found)


def in_order(strata: Sequence[str], seed: int) -> tuple[int, ...]:
    """The places of sequences in an order of which every beginning mirrors the mix of strata, at random within each."""
    rng = np.random.default_rng(seed)
    keys = np.empty(len(strata))
    names = np.array(strata)
    for name in dict.fromkeys(strata):
        places = np.flatnonzero(names == name)
        keys[rng.permutation(places)] = (np.arange(len(places)) + rng.random()) / len(places)
    return tuple(int(place) for place in np.argsort(keys, kind="stable"))


@dataclass(frozen=True)
class Standing:
    """What a look at a race shows.

    ``open[p, f]`` is to be measured further. ``regret`` bounds what stopping now costs, in nats per token. ``shares[p, f]`` is the share of
    resampled plans with each option.
    """

    open: Flags
    regret: float
    shares: Floats

    def reason(self, unit: int, column: int) -> StopReason:
        """Why an option that is not open was not measured further."""
        share = self.shares[unit, column]
        return "never taken" if share <= RARE_SHARE else "always taken" if share >= 1 - RARE_SHARE else "zone settled"


@dataclass(frozen=True)
class Race:
    """A menu and a budget that are raced for.

    Args:
        menu: what is offered; its last format is the reference, whose KL is 0.
        budget: in what the menu counts.
        looks: number of times that the race may be looked at.
        seed: of the draws.
    """

    menu: Menu
    budget: int
    looks: int
    seed: int

    def stand(self, sweep: PartialSweep) -> Standing:
        """What is worth measuring further."""
        rng = np.random.default_rng(self.seed)
        mean, whole, errors = self._arrays(sweep)
        drawn = mean / (1 - np.clip(np.tensordot(rng.standard_normal((DRAWS, len(sweep.tokens))), errors, (1, 2)), -np.inf, LARGEST_ERROR))
        choice = solve(self.menu, mean, self.budget)
        plans = solve_many(self.menu, drawn, self.budget, DRAW_GAP)
        regrets = pick(drawn, np.broadcast_to(choice, plans.shape)).sum(axis=1) - pick(drawn, plans).sum(axis=1)
        bound = max(0.0, float(np.quantile(regrets, 1 - ALPHA / self.looks)))
        resampled = drawn + self._noise(rng, sweep.tokens, whole)
        shares, unsettled = self._zones(solve_many(self.menu, np.maximum(resampled, 0.0), self.budget, RESAMPLED_GAP))
        open_ = unsettled[:, None] & (shares > RARE_SHARE)
        allowed = ALLOWED_REGRET * float(mean[np.arange(len(choice)), choice].sum())
        if bound > allowed:
            open_ |= _differing(choice, plans[regrets > allowed], len(self.menu.formats))
        return Standing(open_ & (sweep.counts > 0) & (sweep.counts < len(sweep.tokens)), bound, shares)

    def _arrays(self, sweep: PartialSweep) -> tuple[Floats, Floats, Floats]:
        """KL per token, nats as if all were measured, and errors of each sequence as shares of the KL.

        Errors are relative: a KL that came out too small by chance, because its heavy sequences are still to come, has too small a spread
        as well. For the same reason an estimate's spread is at least the typical one of its format.
        """
        shape = *sweep.counts.shape, len(sweep.tokens)
        mean, whole, errors = np.zeros(shape[:2]), np.zeros(shape), np.zeros(shape)
        for at, estimate in sweep.estimates.items():
            mean[at] = max(LEAST_KL, float(estimate.values.sum() / sweep.tokens.sum()))
            whole[at] = estimate.as_if_measured
            errors[at] = estimate.errors / sweep.tokens.sum() / mean[at]
        for column in range(shape[1]):
            errors[:, column] = _moderated(errors[:, column], sweep.counts[:, column])
        return mean, whole, errors

    def _noise(self, rng: np.random.Generator, tokens: Floats, whole: Floats) -> Floats:
        """By how much the KLs of resamples of all sequences differ from those of all."""
        times = rng.multinomial(len(tokens), np.full(len(tokens), 1 / len(tokens)), size=DRAWS).astype(np.float64)
        ratios = np.tensordot(times, whole, (1, 2)) / (times @ tokens)[:, None, None]
        return np.asarray(ratios - whole.sum(axis=2) / tokens.sum())

    def _zones(self, plans: Integers) -> tuple[Floats, Flags]:
        """The share of plans with each option, and the units whose zone is in doubt."""
        bits = np.array([format_bits(name) for name in self.menu.formats[:-1]] + [np.inf])
        lowest = bits == bits.min()
        highest = ~lowest & ((bits == bits[:-1].max()) | np.isinf(bits))
        shares = np.stack([(plans == column).mean(axis=0) for column in range(len(bits))], axis=1)
        low, high = (within[plans].mean(axis=0) for within in (lowest, highest))
        settled = (np.maximum(low, high) >= SETTLED_SHARE) | (np.maximum(low, high) <= 1 - SETTLED_SHARE)
        return shares, ~settled


def _moderated(errors: Floats, counts: Integers) -> Floats:
    """Errors of the units of one format, none with a smaller spread per sequence than the root mean square over those units."""
    sequences = errors.shape[1]
    partial = (counts > 0) & (counts < sequences)
    if not partial.any():
        return errors
    spread = np.sqrt((errors[partial] ** 2).sum(axis=1) / (1 / counts[partial] - 1 / sequences))
    typical = float(np.sqrt((spread**2).mean()))
    widened = errors.copy()
    widened[partial] *= np.where(spread > 0, np.maximum(1.0, typical / np.where(spread > 0, spread, 1.0)), 1.0)[:, None]
    return widened


def _differing(choice: Integers, plans: Integers, formats: int) -> Flags:
    """Options of any of these plans, and of the plan at hand, where they differ from it."""
    found = np.zeros((len(choice), formats), dtype=np.bool_)
    for plan in plans:
        units = np.flatnonzero(plan != choice)
        found[units, plan[units]] = True
        found[units, choice[units]] = True
    return found


def run(menu: Menu, budget: int, sequences: int, seed: int, extend: Extend) -> tuple[PartialSweep, Standing]:
    """Race: what was measured in the end, and how things stand then.

    An option that could not be measured is given a count of 0, and is no longer offered. Where nothing meets the budget, everything is
    measured on all sequences.

    Args:
        menu: what is offered; its last format is the reference.
        budget: in what the menu counts.
        sequences: number of sequences.
        seed: of the draws.
        extend: measures.
    """
    looks = looks_of(sequences)
    partial = extend(_without_reference(menu.offered), looks[0])
    targets = iter((*looks[1:], sequences))  # to all twice, for what was closed before another option turned out otherwise
    while True:
        offered = partial.counts > 0
        offered[:, -1] = True
        known = replace(menu, offered=offered & menu.offered)
        if budget < known.least_size:
            return extend(_without_reference(known.offered), sequences), Standing(np.zeros_like(offered), 0.0, np.zeros(offered.shape))
        standing = Race(known, budget, len(looks) + 1, seed).stand(partial)
        target = next(targets, None)
        if target is None or not standing.open.any():
            return partial, standing
        partial = extend(standing.open, target)


def _without_reference(offered: Flags) -> Flags:
    found = offered.copy()
    found[:, -1] = False
    return found
