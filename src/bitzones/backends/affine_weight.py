"""A packed weight that is integers, scales and shifts, for backends that store no more."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from bitzones.backends.bit_words import pack, unpack
from bitzones.backends.integers import Rounded

__all__ = ["AffineWeight"]


@dataclass(frozen=True, eq=False)
class AffineWeight:
    """A weight of ``integer * scale - shift``; see `bitzones.backends.backend_protocol.Packed`.

    Args:
        format: its format without a method.
        bits: of an integer.
        shape: (rows, columns).
        words: the integers, packed (`bit_words.pack`).
        scale: shape (rows, groups), in the stored dtype.
        shift: like ``scale``, or of shape (rows, 0) where it follows from the scale: ``zero * scale`` with a whole ``zero``.
    """

    format: str
    bits: int
    shape: torch.Size
    words: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor
    zero: int = 0

    @classmethod
    def of(cls, rounded: Rounded, format_name: str, bits: int) -> AffineWeight:
        """Pack integers of so many bits."""
        return cls(format_name, bits, rounded.integers.shape, pack(rounded.integers, bits), rounded.scale, rounded.shift)

    @classmethod
    def symmetric(cls, integers: torch.Tensor, scale: torch.Tensor, zero: int, format_name: str, bits: int) -> AffineWeight:
        """Pack integers whose value is ``(integer - zero) * scale``; no shift is stored."""
        return cls(format_name, bits, integers.shape, pack(integers, bits), scale, scale[:, :0], zero)

    @property
    def device(self) -> torch.device:
        return self.words.device

    @property
    def stored_bytes(self) -> int:
        return self.words.nbytes + self.scale.nbytes + self.shift.nbytes

    @property
    def group_size(self) -> int | None:
        groups = self.scale.shape[1]
        return None if groups == 1 else self.shape[1] // groups

    def _rounded(self) -> Rounded:
        shift = self.shift if self.shift.shape[1] else self.scale.float() * self.zero
        return Rounded(unpack(self.words, self.bits, self.shape[1]), self.scale, shift)

    def values(self, dtype: torch.dtype) -> torch.Tensor:
        return self._rounded().values().to(dtype)

    def parts(self) -> Rounded:
        return self._rounded().to(torch.device("cpu"))

    def to(self, device: torch.device) -> AffineWeight:
        if self.device == device:
            return self
        return replace(self, words=self.words.to(device), scale=self.scale.to(device), shift=self.shift.to(device))
