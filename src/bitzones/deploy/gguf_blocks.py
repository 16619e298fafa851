"""GGUF's blocks of 32 weights that hold an integer, a scale and a shift unchanged: Q8_0 for 8 bits, Q4_1 for 4 and 2.

Layout (ggml-common.h): a Q8_0 block is a scale d as float16 and 32 signed bytes q, and a weight is ``d * q``; a Q4_1 block is d and m as
float16 and 16 bytes, byte j with weight j in its low half and weight j + 16 in its high one, and a weight is ``d * q + m``.
"""

from __future__ import annotations

from dataclasses import dataclass

import gguf
import numpy as np
import torch

from bitzones.backends.integers import Rounded
from bitzones.schema.formats import Format

__all__ = ["BLOCK", "BlockType", "block_type", "not_representable", "q4_1", "q8_0", "stored_as"]

BLOCK = 32
"""Weights in a block."""

_SIGN = np.uint8(128)


@dataclass(frozen=True)
class BlockType:
    """A type of block, as the gguf package numbers and names it, with its bytes."""

    number: int
    name: str
    bytes: int
    block: int = BLOCK
    """Weights in one."""

    @property
    def bits(self) -> float:
        """A weight, scale and shift counted."""
        return 8 * self.bytes / self.block


_Q8_0, _Q4_1 = BlockType(8, "Q8_0", 34), BlockType(3, "Q4_1", 20)


def block_type(bits: int) -> BlockType:
    """The smallest type that holds integers of so many bits with a float scale and shift.

    >>> block_type(2).name, block_type(2).bits, block_type(8).bits
    ('Q4_1', 5.0, 8.5)
    """
    return _Q8_0 if bits == 8 else _Q4_1


def stored_as(format_name: str) -> BlockType:
    """The type of a format's blocks: of quanto's `block_type`, of llama.cpp's its own.

    >>> stored_as("qint4:gptq").name, stored_as("gguf:Q2_K:imatrix")
    ('Q4_1', BlockType(number=10, name='Q2_K', bytes=84, block=256))
    """
    found = Format.of(format_name)
    if found.backend != "gguf":
        return block_type(found.bits)
    kind = gguf.GGMLQuantizationType[found.width]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return BlockType(kind.value, found.width, size, block)


def not_representable(values: torch.Tensor) -> float | None:
    """The first value that float16 would change; None where there is none.

    >>> not_representable(torch.tensor([0.5, 1e-7, 0.1], dtype=torch.bfloat16)) == torch.tensor(1e-7, dtype=torch.bfloat16).item()
    True
    """
    wide = values.float().flatten()
    changed = wide[wide.to(torch.float16).float() != wide]
    return float(changed[0]) if len(changed) else None


def q8_0(parts: Rounded) -> np.ndarray:
    """Blocks of unsigned 8-bit integers whose shift is 128 scales, uint8 of shape (rows, columns / 32 * 34)."""
    integers = parts.integers.numpy() ^ _SIGN  # q + 128 as a byte, back to q
    return _blocks(integers.reshape(len(integers), -1, BLOCK), parts.scale)


def q4_1(parts: Rounded) -> np.ndarray:
    """Blocks of integers up to 15, uint8 of shape (rows, columns / 32 * 20)."""
    halves = parts.integers.numpy().reshape(len(parts.integers), -1, 2, BLOCK // 2)
    return _blocks(halves[:, :, 0] | halves[:, :, 1] << np.uint8(4), parts.scale, -parts.shift)


def _blocks(data: np.ndarray, *factors: torch.Tensor) -> np.ndarray:
    """The float16 factors of each block before its bytes; a group of several blocks gives each its own."""
    rows, blocks = data.shape[:2]
    heads = [
        factor.to(torch.float16).repeat_interleave(blocks // factor.shape[1], dim=1).numpy()[..., None].view(np.uint8) for factor in factors
    ]
    return np.concatenate([*heads, data], axis=2).reshape(rows, -1)
