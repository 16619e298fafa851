"""Unsigned integers of a few bits in 32-bit words, lowest bits first: how MLX, GPTQ and compressed-tensors pack them.

An integer may lie across two words, as three-bit ones do in MLX.
"""

from __future__ import annotations

import torch

__all__ = ["WORD_BITS", "pack", "unpack"]

WORD_BITS, _BYTE_BITS = 32, 8


def pack(integers: torch.Tensor, bits: int) -> torch.Tensor:
    """Integers of shape (rows, columns) as uint32 of shape (rows, columns * bits / 32), the last word of a row filled with zeros.

    >>> [hex(word) for word in pack(torch.arange(9, dtype=torch.uint8).reshape(1, 9), 4)[0].tolist()]
    ['0x76543210', '0x8']
    """
    apart = (integers[..., None] >> _places(bits, integers.device)) & 1
    filled = torch.nn.functional.pad(apart.flatten(1), (0, -integers.shape[1] * bits % WORD_BITS))
    whole = filled.unflatten(1, (-1, _BYTE_BITS)) << _places(_BYTE_BITS, integers.device)
    words: torch.Tensor = whole.sum(-1, dtype=torch.uint8).view(torch.uint32)
    return words


def unpack(words: torch.Tensor, bits: int, columns: int | None = None) -> torch.Tensor:
    """What `pack` packed, as uint8; ``columns`` where the last word of a row was filled."""
    held = words.contiguous().view(torch.uint8)
    apart = ((held[..., None] >> _places(_BYTE_BITS, words.device)) & 1).flatten(1)
    count = apart.shape[1] // bits if columns is None else columns
    whole = apart[:, : count * bits].unflatten(1, (count, bits)) << _places(bits, words.device)
    integers: torch.Tensor = whole.sum(-1, dtype=torch.uint8)
    return integers


def _places(count: int, device: torch.device) -> torch.Tensor:
    return torch.arange(count, dtype=torch.uint8, device=device)
