"""Zero points of a packed weight, for checkpoints that store them as integers."""

from __future__ import annotations

import torch

from bitzones.backends.integers import Rounded

__all__ = ["zeros"]


def zeros(parts: Rounded, bits: int) -> torch.Tensor | None:
    """Shifts as whole numbers of scales, uint8 of shape (rows, groups); None where one is none, or no integer of so many bits.

    >>> zeros(Rounded(torch.zeros(1, 4, dtype=torch.uint8), torch.tensor([[0.25]]), torch.tensor([[0.75]])), 2)
    tensor([[3]], dtype=torch.uint8)
    """
    scale, shift = parts.scale.float(), parts.shift.float()
    whole = torch.where(scale == 0, 0, shift / scale).round()
    exact = torch.equal(whole * scale, shift) and bool((whole >= 0).all()) and bool((whole < 2**bits).all())
    return whole.to(torch.uint8) if exact else None
