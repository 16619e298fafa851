"""The linear relaxation of the planner, for all resamples at once: a lower bound on a plan's cost, and a good plan to start from.

If options may be taken fractionally, the optimum has a closed form: every unit climbs the lower hull of its options, with the steepest step
of all units first, until the budget is full (Sinha & Zoltners 1979, Oper. Res. 27:503). The steps that fit completely are a plan; the slope
of the first that does not is the price of a byte, which gives the lower bound. Arrays have shape (resamples, units, formats).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "Integers", "improve", "pick", "relax", "undominated"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BLOCK = 2**14
"""Options of one format that are looked at together, 128 KiB of each figure."""

NO_SIZE = np.iinfo(np.int64).max


def pick(table: NDArray[np.generic], choices: Integers) -> Floats:
    """The entries of ``table[..., p, f]`` that the choices name."""
    table = np.broadcast_to(table, (*choices.shape, table.shape[-1]))
    return np.take_along_axis(table, choices[..., None], axis=-1)[..., 0].astype(np.float64)


def undominated(costs: Floats, sizes: Integers) -> Floats:
    """The costs, infinite for an option that another one makes pointless: no dearer, no larger, and better in one or listed first."""
    kept = costs.copy()
    for option in range(costs.shape[-1]):
        for other in range(costs.shape[-1]):
            cost, size = costs[..., other], sizes[..., other]
            if other < option:
                pointless = (cost <= costs[..., option]) & (size <= sizes[..., option])
            elif other > option:
                pointless = (cost < costs[..., option]) & (size <= sizes[..., option])
                pointless |= (cost <= costs[..., option]) & (size < sizes[..., option])
            else:
                continue
            kept[..., option][pointless] = np.inf
    return kept


def relax(costs: Floats, sizes: Integers, budgets: Integers) -> tuple[Integers, Floats, Floats]:
    """A plan within the budget, a bound that no such plan's cost is below, and what each option costs above its unit's best price.

    Args:
        costs: of every option, two at least, infinite where there is none; the smallest of every unit fit together into the budget.
        sizes: of every option, whole numbers.
        budgets: of every resample.

    Returns:
        Choices of shape (r, p), bounds of shape (r,), and the excess of every option at the price of a byte, of the shape of ``costs``.
    """
    hull = _hulls(costs, sizes)
    price = _price(hull, budgets)
    taken = (hull.slopes > price).sum(axis=0)
    choices: Integers = np.take_along_axis(hull.options, taken[None], axis=0)[0].T
    priced = costs + price[:, None, None] * sizes
    least = np.minimum.reduce([priced[..., option] for option in range(costs.shape[2])])
    return choices, least.sum(axis=1) - price * budgets, priced - least[:, :, None]


@dataclass(frozen=True)
class _Hulls:
    """Of every unit the options on its lower hull from the smallest on, of shape (f, p, r); how steep the step to the next is and its size,
    (f - 1, p, r); the size of the smallest, (p, r). A hull of fewer options repeats its last, with steps of no slope and no size."""

    options: Integers
    slopes: Floats
    steps: Integers
    least: Integers


def _hulls(costs: Floats, sizes: Integers) -> _Hulls:
    """The hulls of all units, as many at a time as a processor's cache holds."""
    step = max(1, BLOCK // len(costs))
    blocks = [slice(start, start + step) for start in range(0, costs.shape[1], step)]
    found = [_wrapped(costs[:, some], sizes[:, some]) for some in blocks]
    options, slopes, steps = (np.concatenate([getattr(one, name) for one in found], axis=1) for name in ("options", "slopes", "steps"))
    return _Hulls(options, slopes, steps, np.concatenate([one.least for one in found]))


def _wrapped(costs: Floats, sizes: Integers) -> _Hulls:
    """Gift wrapping (Jarvis 1973, Inf. Process. Lett. 2:18), option by option: a plane of units and resamples at a time is fast."""
    planes = [(np.ascontiguousarray(costs[..., f].T), np.ascontiguousarray(sizes[..., f].T)) for f in range(costs.shape[2])]
    shape = planes[0][0].shape
    at, cost, size = np.zeros(shape, dtype=np.int64), np.full(shape, np.inf), np.full(shape, NO_SIZE)
    for option, (plane, bytes_) in enumerate(planes):
        smaller = (plane < np.inf) & ((bytes_ < size) | ((bytes_ == size) & (plane < cost)))
        at[smaller], cost[smaller] = option, plane[smaller]
        size = np.where(smaller, bytes_, size)
    least, options, steps = size, [at], []
    slopes: list[Floats] = []
    for _ in planes[1:]:
        steepest, next_, next_cost, next_size = np.zeros(cost.shape), at, cost, size
        for option, (plane, bytes_) in enumerate(planes):
            larger = bytes_ > size
            if not larger.any():  # most units have their options in one order of size: half of them are never the next
                continue
            slope = (cost - plane) / np.where(larger, bytes_ - size, 1)
            better = larger & (slope > steepest)
            steepest, next_ = np.where(better, slope, steepest), np.where(better, option, next_)
            next_cost, next_size = np.where(better, plane, next_cost), np.where(better, bytes_, next_size)
        slopes.append(np.minimum(steepest, slopes[-1]) if slopes else steepest)  # rounding must not make a later step the steeper
        steps.append(next_size - size)
        at, cost, size = next_, next_cost, next_size
        options.append(at)
    return _Hulls(np.stack(options), np.stack(slopes), np.stack(steps), least)


def _price(hull: _Hulls, budgets: Integers) -> Floats:
    """The slope of the first step that does not fit, where the steepest go first; 0 where all fit. All that are steeper fit."""
    flat, steps = (np.ascontiguousarray(found.reshape(-1, len(budgets)).T) for found in (hull.slopes, hull.steps))
    room, order = budgets - hull.least.sum(axis=0), np.argsort(-flat, axis=1)
    used = np.take_along_axis(steps, order, axis=1).cumsum(axis=1)
    over = used > room[:, None]
    first = order[np.arange(len(flat)), over.argmax(axis=1)]
    return np.where(over.any(axis=1), flat[np.arange(len(flat)), first], 0.0)


def improve(choices: Integers, costs: Floats, sizes: Integers, budgets: Integers) -> Integers:
    """Spend what is left of the budget: in every resample, while one change fits and lowers the cost, make the one that lowers it most."""
    choices = choices.copy()
    open_ = np.arange(len(choices))
    while open_.size:
        cost, size, at = costs[open_], sizes[open_], choices[open_]
        now, taken = pick(cost, at), pick(size, at)
        fits = size - taken[..., None] <= (budgets[open_] - taken.sum(axis=1))[:, None, None]
        gain = np.where(fits, now[..., None] - cost, -np.inf).reshape(len(open_), -1)
        best = gain.argmax(axis=1)
        better = np.flatnonzero(gain[np.arange(len(open_)), best] > 0)
        open_ = open_[better]
        unit, option = np.divmod(best[better], costs.shape[2])
        choices[open_, unit] = option
    return choices
