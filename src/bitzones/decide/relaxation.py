"""How low a plan's cost can get at all, and a good plan to begin with: the linear relaxation of the planner, for all resamples at once.

Where an option may be taken in part, the best plan is known in closed form: every part climbs the lower hull of its options, the steepest
step of all parts first, until the budget is full (Sinha & Zoltners 1979, Oper. Res. 27:503). The steps that fit whole are a plan; the slope
of the first that does not prices a byte, and with it no plan costs less than the bound. Arrays are (resamples, parts, formats) throughout.
This module does not know what a plan is for, nor whether a better one exists.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "Integers", "improve", "pick", "relax", "undominated"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

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
    """A plan within the budget, a bound that no such plan's cost is below, and what each option costs above its part's best price.

    Args:
        costs: of every option, infinite where there is none; each part has one that fits into the budget with the least of the others.
        sizes: of every option, whole numbers.
        budgets: of every resample.

    Returns:
        Choices of shape (r, p), bounds of shape (r,), and the excess of every option at the price of a byte, of the shape of ``costs``.
    """
    options, slopes, steps = _hulls(costs, sizes)
    taken, price = _climb(slopes, steps, budgets - pick(sizes, options[..., 0]).sum(axis=1).astype(np.int64))
    choices: Integers = np.take_along_axis(options, taken[..., None], axis=2)[..., 0]
    priced = costs + price[:, None, None] * sizes
    least = priced.min(axis=2)
    return choices, least.sum(axis=1) - price * budgets, priced - least[:, :, None]


def _hulls(costs: Floats, sizes: Integers) -> tuple[Integers, Floats, Integers]:
    """Per part the options on the lower hull from the smallest on, how steep each step down is, and its size.

    A hull of fewer options than are offered repeats its last, with steps of no slope.
    """
    finite = np.isfinite(costs)
    at = np.where(finite, sizes, NO_SIZE).argmin(axis=2)
    options, slopes, steps = [at], [], []
    for _ in range(costs.shape[2] - 1):
        cost, size = (np.take_along_axis(table, at[..., None], axis=2) for table in (costs, sizes))
        further = finite & (sizes > size)
        step = np.where(further, sizes - size, 1)
        slope = np.where(further, cost - np.where(further, costs, 0.0), 0.0) / step
        best = slope.argmax(axis=2)
        steepest = np.take_along_axis(slope, best[..., None], axis=2)[..., 0]
        down = steepest > 0
        steps.append(np.where(down, np.take_along_axis(step, best[..., None], axis=2)[..., 0], 0))
        slopes.append(np.where(down, steepest, 0.0))
        at = np.where(down, best, at)
        options.append(at)
    falling = np.minimum.accumulate(np.stack(slopes, axis=2), axis=2)  # rounding must not put a later step first
    return np.stack(options, axis=2), falling, np.stack(steps, axis=2)


def _climb(slopes: Floats, steps: Integers, room: Integers) -> tuple[Integers, Floats]:
    """Steps in the order of their slopes until one does not fit: how many each part took, and the slope of the one that did not, or 0."""
    flat = slopes.reshape(len(slopes), -1)
    order = np.argsort(-flat, axis=1, kind="stable")
    used = np.take_along_axis(steps.reshape(flat.shape), order, axis=1).cumsum(axis=1)
    fits = used <= room[:, None]
    count = fits.sum(axis=1)
    ordered = np.take_along_axis(flat, order, axis=1)
    rows, full = np.arange(len(flat)), count < flat.shape[1]
    price = np.where(full, ordered[rows, np.minimum(count, flat.shape[1] - 1)], 0.0)
    taken = np.zeros(flat.shape, dtype=np.bool_)
    np.put_along_axis(taken, order, fits & (ordered > 0), axis=1)
    return taken.reshape(slopes.shape).sum(axis=2), price


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
        part, option = np.divmod(best[better], costs.shape[2])
        choices[open_, part] = option
    return choices
