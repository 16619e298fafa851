"""Rounding with error feedback (GPTQ): at 2 bits, most of the damage comes from rounding each weight independently.

GPTQ (Frantar et al. 2022, arXiv:2210.17323) rounds the columns of a weight one after another and compensates the error of each in the
columns that are not rounded yet, by least squares over calibration inputs. Only the integers differ from quanto's; groups, scales and
shifts keep its layout. Differences from the paper: scale and shift of every group are searched before any rounding, with each column
weighted by the cost of its error after compensation, so columns can be processed from most to least active whatever their group. Rows that
the feedback pushes out of their grids are rounded again, on grids fitted to the weights after feedback. If earlier layers have changed a
module's inputs, `towards` first moves the weights so that their outputs approach those of the unchanged inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from bitzones.backends import whole_zeros
from bitzones.backends.integers import Rounded
from bitzones.schema.errors import NonFiniteError

__all__ = ["DAMPING", "Rounded", "round_rows", "towards"]

DAMPING = 0.01
"""Share of the Hessian's mean diagonal that is added to its diagonal: the paper's value (section 3.3, step 3)."""

MOST_DAMPING = 1.0
"""If this much does not make the Hessian positive definite, rounding errors are not the cause."""

SHRINKS = (1.0, 0.9, 0.8, 0.7)
"""Shares of the range of a group's weights at which the search for its scale starts; smaller ones clip outliers."""

REFITS = 2
"""Least-squares fits of scale and shift from each start; a third fit did not change the printed KL on SmolLM2-135M."""

TOWARDS = 0.3
"""Step size towards the weights that best undo the drift of the inputs: a full step overfits the calibration set (LOG.md)."""

CLIPPED = 2.0
"""A row is rounded again if its loss exceeds this multiple of the loss with uniformly distributed rounding errors. The ratio is 1.0 to 1.5
in most modules of SmolLM2-135M at 2 bits, and up to 20 where outliers were pushed out of their grids."""

BLOCK = 128
"""Columns whose feedback to all later columns is applied at once, as one matrix product (the paper's lazy batch)."""


def round_rows(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    levels: torch.Tensor,
    group: int,
    dtype: torch.dtype,
    damping: float = DAMPING,
    *,
    whole: bool = False,
) -> Rounded:
    """Round every row of a weight, given the second moment of its inputs.

    Rows are independent, so the rows of several modules with the same inputs, also of different bit widths, are rounded together.

    Args:
        weight: shape (rows, columns), float32.
        hessian: sum of x x^T over the inputs x, shape (columns, columns), float64; its scale does not matter.
        levels: the largest integer of each row, such as 3 for 2 bits; shape (rows,), float32.
        group: number of adjacent columns that share a scale; divides the number of columns.
        dtype: storage dtype of scales and shifts; integers are chosen for the stored values.
        damping: share of the mean diagonal that is added; multiplied by ten as often as needed, up to `MOST_DAMPING`.
        whole: shifts are whole numbers of scales (`bitzones.backends.whole_zeros`); they come as float32, which holds them exactly.

    Raises:
        NonFiniteError: a weight or the Hessian is NaN or infinite, or no damping makes the Hessian positive definite.
    """
    if not (torch.isfinite(weight).all() and torch.isfinite(hessian).all()):
        raise NonFiniteError("a weight or an input of the calibration set is NaN or infinite")
    order = hessian.diagonal().argsort(descending=True, stable=True)
    upper = _inverse_factor(_factor(hessian[order][:, order], damping))
    residual = upper.diagonal().square().reciprocal()[order.argsort()]
    cost = torch.minimum(residual, hessian.diagonal().float())  # damping is not a cost: a channel that is never active has none
    columns = weight.T.contiguous()  # contiguous columns, because every step works on one column
    made = _round(columns, order, upper, _grid(columns, cost, levels, group, dtype, whole))
    clipped = made.lost > CLIPPED * made.grid.evenly(cost)
    if clipped.any():
        again = _grid(made.fed[:, clipped], cost, levels[clipped], group, dtype, whole)
        made = made.improved(clipped, _round(columns[:, clipped], order, upper, again))
    shift = made.grid.shift if whole else made.grid.shift.to(dtype)
    return Rounded(made.integers.T.contiguous(), made.grid.scale.to(dtype).T.contiguous(), shift.T.contiguous())


def towards(weight: torch.Tensor, hessian: torch.Tensor, drift: torch.Tensor, damping: float = DAMPING) -> torch.Tensor:
    """Weights whose outputs for the changed inputs x are closer to the original outputs for the unchanged inputs z.

    W + `TOWARDS` * W D (H + damping)^-1 with H = sum of x x^T and D = sum of (z - x) x^T: the asymmetric calibration of GPTAQ (Li et al.
    2025, arXiv:2504.02692), as one regression before rounding.

    Args:
        weight: shape (rows, columns), float32.
        hessian: H, shape (columns, columns), float64.
        drift: D, like ``hessian``.
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
    """Scale and shift of every group after a round trip through the storage dtype, float32, shape (groups, rows); levels, shape (rows,)."""

    scale: torch.Tensor
    shift: torch.Tensor
    levels: torch.Tensor
    group: int

    def evenly(self, cost: torch.Tensor) -> torch.Tensor:
        """The loss of each row with uniformly distributed rounding errors, whose mean square is step^2 / 12."""
        even: torch.Tensor = self.scale.square().T @ cost.unflatten(0, (-1, self.group)).sum(1) / 12
        return even


@dataclass(frozen=True)
class _Made:
    """Integers and the columns after feedback from which they were rounded, shape (columns, rows); loss of each row."""

    grid: _Grid
    integers: torch.Tensor
    fed: torch.Tensor
    lost: torch.Tensor

    def improved(self, rows: torch.Tensor, other: _Made) -> _Made:
        """This result with some rows replaced by another's where the other has less loss."""
        better = rows.clone()
        better[rows] = other.lost < self.lost[rows]
        ours, others = (self.integers, self.grid.scale, self.grid.shift), (other.integers, other.grid.scale, other.grid.shift)
        integers, scale, shift = (
            mine.index_copy(1, better.nonzero()[:, 0], theirs[:, better[rows]]) for mine, theirs in zip(ours, others, strict=True)
        )
        return _Made(_Grid(scale, shift, self.grid.levels, self.grid.group), integers, self.fed, self.lost)


def _round(columns: torch.Tensor, order: torch.Tensor, upper: torch.Tensor, grid: _Grid) -> _Made:
    """Round columns (shape (columns, rows)) in order, feeding each error forward to all later ones: the paper's algorithm 1."""
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


def _grid(columns: torch.Tensor, cost: torch.Tensor, levels: torch.Tensor, group: int, dtype: torch.dtype, whole: bool) -> _Grid:
    """The grids of all groups; ``columns`` has shape (columns, rows)."""
    fit = whole_zeros.fit if whole else _fit
    fits = [fit(part, paid, levels, dtype) for part, paid in zip(columns.split(group), cost.split(group), strict=True)]
    scale, second = (torch.stack(found) for found in zip(*fits, strict=True))
    return _Grid(scale, scale * second if whole else second, levels, group)


def _factor(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """The lower Cholesky factor of the damped Hessian.

    A channel that was never active has a zero diagonal; it gets the mean of the others and is then rounded to nearest.
    """
    mean = hessian.diagonal().mean()
    if mean == 0:  # no channel was ever active
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
    """The upper triangular U with U^T U = (L L^T)^-1 in float32, which is all that the paper's updates need of the inverse."""
    upper: torch.Tensor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    return upper.float()


def _fit(columns: torch.Tensor, cost: torch.Tensor, levels: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift of each row's group that minimize the squared error, weighted by the cost of each column.

    From several shares of the weights' range, the nearest integers and the best scale and shift for them are found alternately, as in
    k-means.

    Args:
        columns: shape (columns of the group, rows).
        cost: weight of the squared error of each column, shape (columns of the group,).
        levels: shape (rows,).
        dtype: storage dtype to which scale and shift are rounded; they are returned as float32.
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
    """A scale after a round trip through the storage dtype, never 0."""
    return scale.to(dtype).float().clamp_min(torch.finfo(dtype).tiny)
