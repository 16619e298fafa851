"""What rounding hands to a backend: integers, scales and shifts of some rows, not yet packed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Rounded"]


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
