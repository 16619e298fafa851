"""Pads rows of tokens and masks the padding, in one place for all of bitzones."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["padded", "positions"]


def padded(rows: Sequence[Sequence[int]], device: torch.device, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Token IDs and mask (0 for padding), both of shape (rows, longest), padded on the left or on the right."""
    length = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(length - len(row), length) if left else slice(0, len(row))
        ids[number, place] = torch.tensor(row)
        mask[number, place] = 1
    return ids.to(device), mask.to(device)


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Position of every token among the non-padding tokens of its row, so that padding shifts nothing; shape of ``mask``."""
    return (mask.cumsum(1) - 1).clamp_min(0)
