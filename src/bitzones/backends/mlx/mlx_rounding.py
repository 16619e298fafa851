"""MLX's own rounding of a weight: what ``mx.quantize(weight, group_size, bits)`` gives, bit for bit, computed in torch.

Follows ``quantize`` in mlx/backend/cpu/quantized.cpp (mlx 0.32): the end of a group's range that is farther from zero is kept exactly, and
the scale is changed so that zero is kept exactly too. A scale is negative where that end is the largest value.
"""

from __future__ import annotations

import torch

from bitzones.backends.integers import Rounded

__all__ = ["round_rows"]

_LEAST_SCALE = 1e-7
"""MLX's ``eps``."""


def round_rows(weight: torch.Tensor, bits: int, group: int) -> Rounded:
    """Round every group of every row.

    Args:
        weight: shape (rows, columns); scales and shifts are stored in its dtype. MLX's biases are the shifts' negatives.
        bits: of an integer.
        group: number of adjacent columns that share a scale; divides the number of columns.
    """
    levels = float(2**bits - 1)
    grouped = weight.float().unflatten(1, (-1, group))
    low, high = grouped.amin(-1), grouped.amax(-1)
    from_low = low.abs() > high.abs()
    step = ((high - low) / levels).clamp_min(_LEAST_SCALE)
    scale, edge = torch.where(from_low, step, -step), torch.where(from_low, low, high)
    steps = (edge / scale).round()
    none = steps == 0
    scale, bias = torch.where(none, scale, edge / steps), torch.where(none, 0.0, edge)
    integers = ((grouped - bias[..., None]) / scale[..., None]).round().clamp(0, levels)
    return Rounded(integers.to(torch.uint8).flatten(1), scale.to(weight.dtype), -bias.to(weight.dtype))
