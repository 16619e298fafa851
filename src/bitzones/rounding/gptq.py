"""Rounding with error feedback, because at 2 bits most of the damage comes from rounding each weight as if it were alone.

GPTQ (Frantar et al. 2022, arXiv:2210.17323): the columns of a weight are rounded one after another, and what rounding one of them does to
the module's outputs is made good, in the least-squares sense over calibration inputs, by the columns that are not rounded yet. Only *which
integers* are stored changes: groups, scales and shifts are laid out as quanto lays them out. What differs from the paper: scale and shift
of every group are searched for before anything is rounded, each column weighted with what its error costs once the others have made good
what they can; columns can then be taken from the most to the least active, whatever group they are in. Rows that feedback drives out of
their grids are done again, on grids that fit the weights as feedback left them. Where earlier layers have changed a module's inputs,
`towards` first moves the weights to where they give the outputs of the unchanged inputs again. This module sees matrices; it does not know
what a model is, or quanto.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from bitzones.schema.errors import NonFiniteError

__all__ = ["DAMPING", "Rounded", "round_rows", "towards"]

DAMPING = 0.01
"""Share of the Hessian's mean diagonal that is added to it: the paper's own (its section 3.3, step 3)."""

MOST_DAMPING = 1.0
"""Where even as much does not make the Hessian positive definite, it is not a matter of rounding errors."""

SHRINKS = (1.0, 0.9, 0.8, 0.7)
"""Shares of the span of a group's weights from which the search for its scale starts; smaller ones clip outliers."""

REFITS = 2
"""Least-squares fits of scale and shift to the integers, from each start; a third changed no digit of the KL on SmolLM2-135M."""

TOWARDS = 0.3
"""Share of the way to the weights that best undo a drift of the inputs: all of it fits the calibration sequences too closely (LOG.md)."""

CLIPPED = 2.0
"""A row is done again where it lost more than so many times what errors spread evenly over its steps would have: by 1.0 to 1.5 in most
modules of SmolLM2-135M at 2 bits, by up to 20 where outliers were pushed out of their grids."""

BLOCK = 128
"""Columns whose feedback to all later ones is given at once, as one matrix product (the paper's lazy batch)."""


@dataclass(frozen=True)
class Rounded:
    """What is stored of some rows.

    Args:
        integers: uint8 of shape (rows, columns).
        scale: shape (rows, groups), in the dtype that is stored.
        shift: likewise; a weight stands for ``integer * scale - shift``.
    """

    integers: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor

    def values(self) -> torch.Tensor:
        """The weights that are stood for, float32, shape (rows, columns)."""
        grouped = self.integers.float().unflatten(1, (self.scale.shape[1], -1))
        values: torch.Tensor = (grouped * self.scale.float()[..., None] - self.shift.float()[..., None]).flatten(1)
        return values

    def rows(self, start: int, stop: int) -> Rounded:
        """Some of the rows."""
        return Rounded(self.integers[start:stop], self.scale[start:stop], self.shift[start:stop])

    def to(self, device: torch.device) -> Rounded:
        """The same on a device."""
        return Rounded(self.integers.to(device), self.scale.to(device), self.shift.to(device))


def round_rows(
    weight: torch.Tensor, hessian: torch.Tensor, levels: torch.Tensor, group: int, dtype: torch.dtype, damping: float = DAMPING
) -> Rounded:
    """Round every row of a weight for inputs of one second moment.

    Rows do not depend on each other: the rows of several modules that read the same inputs, and of several widths, are rounded at once.

    Args:
        weight: shape (rows, columns), float32.
        hessian: sum of x x^T over the inputs x, shape (columns, columns), float64; its scale does not matter.
        levels: the largest integer of each row, such as 3 for 2 bits; shape (rows,), float32.
        group: neighbouring columns that share a scale; divides the columns.
        dtype: in which scales and shifts are stored; integers are chosen for what is left of them.
        damping: share of the mean diagonal that is added; ten times as much where that is not enough, up to `MOST_DAMPING`.

    Raises:
        NonFiniteError: a weight or the Hessian is NaN or infinite, or no damping makes the Hessian positive definite.
    """
    if not (torch.isfinite(weight).all() and torch.isfinite(hessian).all()):
        raise NonFiniteError("a weight or an input of the calibration set is NaN or infinite")
    order = hessian.diagonal().argsort(descending=True, stable=True)
    upper = _inverse_factor(_factor(hessian[order][:, order], damping))
    residual = upper.diagonal().square().reciprocal()[order.argsort()]
    cost = torch.minimum(residual, hessian.diagonal().float())  # damping is no cost: a channel that is never active has none
    columns = weight.T.contiguous()  # a column is contiguous: it is what one step works on
    made = _round(columns, order, upper, _grid(columns, cost, levels, group, dtype))
    clipped = made.lost > CLIPPED * made.grid.evenly(cost)
    if clipped.any():
        again = _grid(made.fed[:, clipped], cost, levels[clipped], group, dtype)
        made = made.improved(clipped, _round(columns[:, clipped], order, upper, again))
    return Rounded(made.integers.T.contiguous(), made.grid.scale.to(dtype).T.contiguous(), made.grid.shift.to(dtype).T.contiguous())


def towards(weight: torch.Tensor, hessian: torch.Tensor, drift: torch.Tensor, damping: float = DAMPING) -> torch.Tensor:
    """Weights whose outputs for the inputs x, as they have become, are nearer to those for the inputs z that they were.

    W + `TOWARDS` * W D (H + damping)^-1 with H = sum of x x^T and D = sum of (z - x) x^T: the asymmetric calibration of GPTAQ (Li et al.
    2025, arXiv:2504.02692), as one regression before rounding.

    Args:
        weight: shape (rows, columns), float32.
        hessian: H, shape (columns, columns), float64.
        drift: D, likewise.
        damping: as in `round_rows`.

    Raises:
        NonFiniteError: as `round_rows`.
    """
    if not (torch.isfinite(hessian).all() and torch.isfinite(drift).all()):
        raise NonFiniteError("an input of the calibration set is NaN or infinite")
    regression = torch.cholesky_solve(drift.T, _factor(hessian, damping)).T  # D (H + damping)^-1, for a symmetric H
    return weight + TOWARDS * (weight.double() @ regression).float()


@dataclass(frozen=True)
class _Grid:
    """Scale and shift of every group as they come back from storage, float32 of shape (groups, rows), and levels, shape (rows,)."""

    scale: torch.Tensor
    shift: torch.Tensor
    levels: torch.Tensor
    group: int

    def evenly(self, cost: torch.Tensor) -> torch.Tensor:
        """What each row would lose by errors spread evenly over its steps, whose mean square is a twelfth of the step's."""
        even: torch.Tensor = self.scale.square().T @ cost.unflatten(0, (-1, self.group)).sum(1) / 12
        return even


@dataclass(frozen=True)
class _Made:
    """Integers and the columns that they were made of, as feedback had left them, shape (columns, rows); loss of each row."""

    grid: _Grid
    integers: torch.Tensor
    fed: torch.Tensor
    lost: torch.Tensor

    def improved(self, rows: torch.Tensor, other: _Made) -> _Made:
        """With what another has made of some of the rows, where it lost less."""
        better = rows.clone()
        better[rows] = other.lost < self.lost[rows]
        ours, others = (self.integers, self.grid.scale, self.grid.shift), (other.integers, other.grid.scale, other.grid.shift)
        integers, scale, shift = (
            mine.index_copy(1, better.nonzero()[:, 0], theirs[:, better[rows]]) for mine, theirs in zip(ours, others, strict=True)
        )
        return _Made(_Grid(scale, shift, self.grid.levels, self.grid.group), integers, self.fed, self.lost)


def _round(columns: torch.Tensor, order: torch.Tensor, upper: torch.Tensor, grid: _Grid) -> _Made:
    """Round columns (shape (columns, rows)) in an order, giving the error of each to all later ones: the paper's algorithm 1."""
    fed, back, groups = columns[order], order.argsort(), (order // grid.group).tolist()
    integers, lost = torch.empty_like(fed, dtype=torch.uint8), torch.zeros_like(fed[0])
    for block in _blocks(len(order)):
        errors = torch.empty_like(fed[block])
        for at in range(block.start, block.stop):
            column, scale, shift = fed[at], grid.scale[groups[at]], grid.shift[groups[at]]
            nearest = ((column + shift) / scale).round_().clamp_(min=0).minimum(grid.levels)
            integers[at] = nearest.to(torch.uint8)
            error = (column - (nearest * scale - shift)) / upper[at, at]
            fed[at + 1 : block.stop].addr_(upper[at, at + 1 : block.stop], error, alpha=-1)
            errors[at - block.start] = error
        lost += errors.square().sum(0)
        fed[block.stop :].addmm_(upper[block, block.stop :].T, errors, alpha=-1)
    return _Made(grid, integers[back], fed[back], lost)


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))


def _grid(columns: torch.Tensor, cost: torch.Tensor, levels: torch.Tensor, group: int, dtype: torch.dtype) -> _Grid:
    """The grids of all groups of columns, shape (columns, rows)."""
    fits = [_fit(unit, paid, levels, dtype) for unit, paid in zip(columns.split(group), cost.split(group), strict=True)]
    scale, shift = (torch.stack(found) for found in zip(*fits, strict=True))
    return _Grid(scale, shift, levels, group)


def _factor(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """The lower Cholesky factor of the damped Hessian.

    A channel that was never active has no Hessian of its own; the mean of the others makes it round to the nearest.
    """
    mean = hessian.diagonal().mean()
    if mean == 0:  # nothing was ever active
        return torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    dead = torch.where(hessian.diagonal() == 0, mean, 0.0)
    lower: torch.Tensor
    while damping <= MOST_DAMPING:
        lower, failed = torch.linalg.cholesky_ex(hessian + torch.diag(dead + damping * mean))
        if not failed:
            return lower
        damping *= 10
    raise NonFiniteError(f"the Hessian of the calibration inputs is not positive semidefinite, even damped by {MOST_DAMPING:g} of its mean")


def _inverse_factor(lower: torch.Tensor) -> torch.Tensor:
    """The upper triangular U with U^T U = (L L^T)^-1, float32: all that the paper's updates need of the inverse."""
    upper: torch.Tensor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    return upper.float()


def _fit(columns: torch.Tensor, cost: torch.Tensor, levels: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift of each row's group, of least squared error weighted with the cost of each column.

    From several shares of the weights' span, the nearest integers and the best scale and shift for them are found in turns, as in k-means.

    Args:
        columns: shape (columns of the group, rows).
        cost: of a squared error, shape (columns of the group,).
        levels: shape (rows,).
        dtype: what they are rounded to, though returned as float32.
    """
    low, high = columns.amin(0), columns.amax(0)
    flat = high == low
    share = (cost / cost.sum() if cost.sum() > 0 else torch.full_like(cost, 1 / len(cost)))[:, None]
    mean = (columns * share).sum(0)
    least = torch.full_like(low, torch.inf)
    best = (torch.ones_like(low), -low)
    for shrink in SHRINKS:
        span = (high - low) * shrink
        scale, shift = torch.where(flat, 1.0, span / levels), -(low + (high - low) * (1 - shrink) / 2)
        for _ in range(REFITS + 1):
            scale, shift = _storable(scale, dtype), shift.to(dtype).float()
            nearest = ((columns + shift) / scale).round_().clamp_(min=0).minimum(levels)
            lost = ((nearest * scale - shift - columns).square_() * share).sum(0)
            better = lost < least
            least = torch.where(better, lost, least)
            best = (torch.where(better, scale, best[0]), torch.where(better, shift, best[1]))
            middle = (nearest * share).sum(0)
            variance = ((nearest - middle).square() * share).sum(0)
            slope = ((nearest - middle) * (columns - mean) * share).sum(0) / variance
            fits = (variance > 0) & (slope > 0)
            scale, shift = torch.where(fits, slope, scale), torch.where(fits, slope * middle - mean, shift)
    return best


def _storable(scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A scale as it comes back from storage, never 0."""
    return scale.to(dtype).float().clamp_min(torch.finfo(dtype).tiny)
