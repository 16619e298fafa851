"""A backend's packed weights, taken apart and put together with other scales and shifts: all that this room knows of a backend."""

from __future__ import annotations

import torch

from bitzones.backends.integers import Rounded
from bitzones.backends.quanto import affine, packing
from bitzones.backends.quanto.packing import Packed
from bitzones.schema.formats import format_bits

__all__ = ["Packed", "dense", "pack", "parts", "tunable"]

MOST_BITS = 4
"""Widest format that is tuned: 8 bits lose next to nothing, and quanto's 8-bit weights have no shift."""


def tunable(format_name: str) -> bool:
    """Whether a format has scales and shifts that are worth training.

    >>> tunable("qint2:gptq"), tunable("qint8")
    (True, False)
    """
    return format_bits(format_name) <= MOST_BITS


def parts(weight: Packed) -> Rounded:
    """Integers, scales and shifts of a weight, on its device.

    Raises:
        ModelError: it is of a kind that has other parts.
    """
    return affine.parts(packing.as_stored(weight)).to(weight.device)


def pack(rounded: Rounded, bits: int) -> Packed:
    """The weight that stands for these integers, scales and shifts, as it is stored."""
    columns, groups = rounded.integers.shape[1], rounded.scale.shape[1]
    return packing.pack(rounded, bits, None if groups == 1 and packing.planned_group_size(columns) is None else columns // groups)


def dense(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The values that a weight stands for; one that is not quantized is returned unchanged."""
    return packing.values(weight, dtype)
