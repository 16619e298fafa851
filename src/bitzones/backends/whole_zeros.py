"""Scale and integer zero point of a group, searched together by squared error: grids of ``(integer - zero) * scale``.

A zero point that is rounded after the scale was chosen moves every weight by up to half a step, which at 2 bits is much. Here each whole
zero has its own best scale, and the pair with the least error is taken. Scales are of the kind that every checkpoint with integer zero
points stores exactly (`storable`).
"""

from __future__ import annotations

import torch

__all__ = ["fit", "storable", "stored_dtype"]

NEAR = 1
"""Zeros on either side of the range's own that are tried; 2 instead of 1 changed no digit of the error on the embedded model's weights."""

SHRINKS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Shares of the scale that covers a group's range at which the search starts; smaller ones clip outliers. With all zeros, 13 starts and 4
fits the error is 2% less at 2 bits, and the search takes 60 times as long (the embedded model's weights, groups of 64)."""

REFITS = 1
"""Least-squares fits of the scale from each start; a second changed the error by less than 0.1%."""

LEAST_SCALE, MOST_SCALE = 2.0**-17, 65280.0
"""Smallest and largest scale: between them, every bfloat16 is a float16 too, in which AutoRound and GPTQ checkpoints store scales."""


def stored_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of the scales in a model of a dtype: its own if that has two bytes, else float16."""
    return torch.float16 if dtype.itemsize > torch.float16.itemsize else dtype


def storable(scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The nearest scales, as float32, that a model of a dtype stores and that are the same in float16."""
    return scale.to(stored_dtype(dtype)).float().clamp(LEAST_SCALE, MOST_SCALE)


def fit(columns: torch.Tensor, cost: torch.Tensor, levels: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero of each row's group that minimize the squared error, weighted by the cost of each column.

    Args:
        columns: shape (columns of the group, rows), float32.
        cost: weight of the squared error of each column, shape (columns of the group,).
        levels: the largest integer of each row, shape (rows,).
        dtype: of the model.

    Returns:
        Both float32 of shape (rows,); zeros are whole and between 0 and the row's levels.
    """
    share = (cost / cost.sum() if cost.sum() > 0 else torch.full_like(cost, 1 / len(cost)))[:, None]
    low, high = columns.amin(0).clamp_max(0), columns.amax(0).clamp_min(0)
    middle = (-low / (high - low).clamp_min(LEAST_SCALE) * levels).round()
    paid = columns * share
    least = torch.full_like(low, torch.inf)
    best = (torch.full_like(low, LEAST_SCALE), middle)
    for apart in range(-NEAR, NEAR + 1):
        zero = (middle + apart).clamp_min(0).minimum(levels)
        cover = torch.maximum(high / (levels - zero).clamp_min(1), -low / zero.clamp_min(1))
        for shrink in SHRINKS:
            scale = cover * shrink
            for _ in range(REFITS + 1):
                scale = storable(scale, dtype)
                steps = (columns / scale).round_().maximum(-zero).minimum(levels - zero)
                along, norm = (steps * paid).sum(0), (steps.square() * share).sum(0)
                lost = scale * (scale * norm - 2 * along)  # but for the mean square of the weights, which is the same for all
                better = lost < least
                least = torch.where(better, lost, least)
                best = (torch.where(better, scale, best[0]), torch.where(better, zero, best[1]))
                scale = torch.where(along > 0, along / norm, scale)
    return best
