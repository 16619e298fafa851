"""Rows of tokens as one rectangle, and where their real tokens are: the one place that pads, so that padding is masked in one way."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["padded", "positions"]


def padded(rows: Sequence[Sequence[int]], device: torch.device, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask (1 where a token is real), both of shape (rows, longest); the padding stands left or right of the tokens."""
    length = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(length - len(row), length) if left else slice(0, len(row))
        ids[number, place] = torch.tensor(row)
        mask[number, place] = 1
    return ids.to(device), mask.to(device)


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Position of every real token among the real tokens of its row, so that padding moves nothing; shape as ``mask``."""
    return (mask.cumsum(1) - 1).clamp_min(0)
