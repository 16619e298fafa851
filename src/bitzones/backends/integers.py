"""Integers, scales and shifts as calibrated rounding chooses them, before a backend packs them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Rounded"]


@dataclass(frozen=True)
class Rounded:
    """The stored form of some rows of a weight.

    Args:
        integers: uint8 of shape (rows, columns).
        scale: shape (rows, groups), in the stored dtype.
        shift: like ``scale``; a weight is ``integer * scale - shift``.
    """

    integers: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor

    def values(self) -> torch.Tensor:
        """The dequantized weights in float32, shape (rows, columns)."""
        grouped = self.integers.float().unflatten(1, (self.scale.shape[1], -1))
        values: torch.Tensor = (grouped * self.scale.float()[..., None] - self.shift.float()[..., None]).flatten(1)
        return values

    def rows(self, start: int, stop: int) -> Rounded:
        """Some of the rows."""
        return Rounded(self.integers[start:stop], self.scale[start:stop], self.shift[start:stop])

    def to(self, device: torch.device) -> Rounded:
        """A copy on a device."""
        return Rounded(self.integers.to(device), self.scale.to(device), self.shift.to(device))
