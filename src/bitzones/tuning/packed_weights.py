"""A backend's packed weights, taken apart and put together with other scales and shifts: all that this room knows of a backend."""

from __future__ import annotations

import torch

from bitzones.backends import registry
from bitzones.backends.backend_protocol import Packed, Weight
from bitzones.backends.integers import Rounded
from bitzones.backends.weights import values
from bitzones.schema.formats import Format

__all__ = ["Packed", "dense", "pack", "parts", "tunable"]

MOST_BITS = 4
"""Widest format that is tuned: 8 bits lose next to nothing, and quanto's 8-bit weights have no shift."""


def tunable(format_name: str) -> bool:
    """Whether a format has scales and shifts that are worth training, and that the file of a tuned plan holds: those of quanto.

    >>> tunable("qint2:gptq"), tunable("qint8"), tunable("mlx:4g64")
    (True, False, False)
    """
    found = Format.of(format_name)
    return found.backend == "quanto" and found.bits <= MOST_BITS


def parts(weight: Packed) -> Rounded:
    """Integers, scales and shifts of a weight, on its device.

    Raises:
        ModelError: it is of a kind that has other parts.
    """
    return weight.parts().to(weight.device)


def pack(rounded: Rounded, bits: int) -> Packed:
    """The weight that stands for these integers, scales and shifts, as it is stored."""
    format_ = Format.of(f"qint{bits}")
    return registry.backend(format_.backend).pack(rounded, format_)


def dense(weight: Weight, dtype: torch.dtype) -> torch.Tensor:
    """The values that a weight stands for; one that is not quantized is returned unchanged."""
    return values(weight, dtype)
