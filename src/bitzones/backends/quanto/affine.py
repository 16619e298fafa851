"""A packed weight taken apart: the integers, scales and shifts that other formats are to carry unchanged."""

from __future__ import annotations

import torch
from optimum.quanto.tensor import WeightQBitsTensor, WeightQBytesTensor

from bitzones.backends.integers import Rounded
from bitzones.backends.quanto.packing import Packed
from bitzones.schema.errors import ModelError

__all__ = ["parts"]

_CENTER = 128
"""Added to a signed byte, so that integers of every width are unsigned; ``128 * scale`` only has another exponent, so it is exact."""


def parts(weight: Packed) -> Rounded:
    """Integers, scales and shifts of a weight as it is stored (`packing.packed_weights`); it stands for ``integer * scale - shift``.

    Returns:
        On the CPU, with one group a row where a whole row shares a scale. A signed 8-bit integer q comes as q + 128, with 128 * scale
        as its shift.

    Raises:
        ModelError: it is of a kind that has other parts.
    """
    rows, columns = weight.shape
    if isinstance(weight, WeightQBytesTensor) and weight._data.dtype == torch.int8 and weight._scale.numel() == rows:
        scale = weight._scale.cpu().reshape(rows, 1)
        return Rounded((weight._data.cpu().to(torch.int16) + _CENTER).to(torch.uint8), scale, scale * _CENTER)
    if type(weight) is WeightQBitsTensor and weight.axis == 0 and weight._shift.dtype.is_floating_point:
        integers = weight._data.unpack().cpu().reshape(rows, columns)
        return Rounded(integers, weight._scale.cpu().reshape(rows, -1), weight._shift.cpu().reshape(rows, -1))
    raise ModelError(f"a {type(weight).__name__} of {weight.qtype.name} has no integers with a float scale and shift")
