"""Unsigned integers of a few bits in 32-bit words, lowest bits first: how MLX, GPTQ and compressed-tensors pack widths that divide 32."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["WORD_BITS", "pack", "unpack"]

WORD_BITS = 32


def pack(integers: torch.Tensor, bits: int) -> torch.Tensor:
    """Integers of shape (rows, columns) as uint32 of shape (rows, columns * bits / 32), the last word of a row filled with zeros.

    >>> [hex(word) for word in pack(torch.arange(9, dtype=torch.uint8).reshape(1, 9), 4)[0].tolist()]
    ['0x76543210', '0x8']
    """
    held = WORD_BITS // bits
    filled = torch.nn.functional.pad(integers, (0, -integers.shape[1] % held))
    places = np.arange(held, dtype=np.uint32) * np.uint32(bits)
    words = filled.numpy().astype(np.uint32).reshape(len(filled), -1, held) << places
    return torch.from_numpy(np.bitwise_or.reduce(words, axis=2))


def unpack(words: torch.Tensor, bits: int, columns: int | None = None) -> torch.Tensor:
    """What `pack` packed, as uint8; ``columns`` where the last word of a row was filled."""
    places = np.arange(WORD_BITS // bits, dtype=np.uint32) * np.uint32(bits)
    integers = (words.numpy()[..., None] >> places) & np.uint32(2**bits - 1)
    return torch.from_numpy(integers.reshape(len(words), -1).astype(np.uint8))[:, :columns]
