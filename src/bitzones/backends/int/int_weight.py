"""A packed weight of ``(integer - zero) * scale``, with the tensors that checkpoints with integer zero points store."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from bitzones.backends.bit_words import pack, unpack
from bitzones.backends.integers import Rounded
from bitzones.backends.whole_zeros import stored_dtype

__all__ = ["IntWeight"]


@dataclass(frozen=True, eq=False)
class IntWeight:
    """See `bitzones.backends.backend_protocol.Packed`.

    Args:
        format: its format without a method.
        bits: of an integer and of a zero.
        shape: (rows, columns).
        words: the integers, packed along the columns (`bit_words.pack`).
        scale: shape (rows, groups), float16 or bfloat16.
        zeros: packed along the rows, shape (groups, rows * bits / 32).
    """

    format: str
    bits: int
    shape: torch.Size
    words: torch.Tensor
    scale: torch.Tensor
    zeros: torch.Tensor

    @classmethod
    def of(cls, rounded: Rounded, format_name: str, bits: int) -> IntWeight:
        """Pack what was rounded on a grid of `bitzones.backends.whole_zeros`: its shifts are whole numbers of its scales."""
        zeros = (rounded.shift.float() / rounded.scale.float()).round().to(torch.uint8)
        scale = rounded.scale.to(stored_dtype(rounded.scale.dtype))
        return cls(format_name, bits, rounded.integers.shape, pack(rounded.integers, bits), scale, pack(zeros.T.contiguous(), bits))

    @property
    def device(self) -> torch.device:
        return self.words.device

    @property
    def stored_bytes(self) -> int:
        return self.words.nbytes + self.scale.nbytes + self.zeros.nbytes

    @property
    def group_size(self) -> int | None:
        groups = self.scale.shape[1]
        return None if groups == 1 else self.shape[1] // groups

    def _rounded(self) -> Rounded:
        zeros = unpack(self.zeros, self.bits, self.shape[0]).T
        return Rounded(unpack(self.words, self.bits, self.shape[1]), self.scale, self.scale.float() * zeros)

    def values(self, dtype: torch.dtype) -> torch.Tensor:
        return self._rounded().values().to(dtype)

    def parts(self) -> Rounded:
        return self._rounded().to(torch.device("cpu"))

    def to(self, device: torch.device) -> IntWeight:
        if self.device == device:
            return self
        return replace(self, words=self.words.to(device), scale=self.scale.to(device), zeros=self.zeros.to(device))
