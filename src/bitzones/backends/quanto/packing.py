"""Quantized weights as tensors: how quanto packs them, how many bytes they take and which values they stand for."""

from __future__ import annotations

from typing import TypeAlias

import torch
from optimum import quanto
from optimum.quanto.nn import QModuleMixin
from optimum.quanto.tensor import WeightQBitsTensor, WeightQBytesTensor
from optimum.quanto.tensor.packed import PackedTensor

from bitzones.backends.integers import Rounded

__all__ = [
    "Packed",
    "as_stored",
    "cast",
    "dense",
    "group_size",
    "moved_to",
    "pack",
    "packed_weights",
    "planned_group_size",
    "stored_bytes",
    "values",
]

Packed: TypeAlias = quanto.QTensor
"""A quantized weight as quanto stores it: packed integers, scales and shifts."""


def packed_weights(model: torch.nn.Module) -> dict[str, Packed]:
    """Module name -> frozen quantized weight, in the packing of a file and not in that of a kernel."""
    named = model.named_modules()
    return {n: as_stored(m.weight.data) for n, m in named if isinstance(m, QModuleMixin) and isinstance(m.weight, quanto.QTensor)}


def as_stored(weight: Packed) -> Packed:
    """The packing that quanto writes to a file. Kernels for bfloat16 and CUDA use others, and TinyGemm's loses some bits of the shift."""
    return weight.weight_qbits_tensor() if isinstance(weight, WeightQBitsTensor) and type(weight) is not WeightQBitsTensor else weight


def stored_bytes(weight: torch.Tensor) -> int:
    """Stored bytes of a weight: its packed integers, scales and shifts, read off the tensors and not computed from the bits."""
    if isinstance(weight, WeightQBitsTensor):
        plain = as_stored(weight)
        return stored_bytes(plain._data) + stored_bytes(plain._scale) + stored_bytes(plain._shift)
    if isinstance(weight, WeightQBytesTensor):
        return stored_bytes(weight._data) + stored_bytes(weight._scale)
    if isinstance(weight, PackedTensor):
        return stored_bytes(weight._data)
    return weight.numel() * weight.element_size()


def planned_group_size(columns: int) -> int | None:
    """The group size that quanto chooses for rows of this length; None if a whole row shares one scale.

    >>> planned_group_size(4096), planned_group_size(576), planned_group_size(100)
    (128, 96, None)
    """
    size: int | None = quanto.QLinear(columns, 1, bias=False, weights=quanto.qint4, device="meta").weight_group_size
    return size


def pack(rounded: Rounded, bits: int, group: int | None) -> Packed:
    """Packs integers, scales and shifts as quanto stores them.

    Args:
        rounded: a whole weight, with one scale and shift for each row and group.
        bits: 2 or 4.
        group: from `planned_group_size`.
    """
    size = rounded.integers.shape
    data = rounded.integers if group is None else rounded.integers.reshape(-1, group)
    qtype = quanto.qtypes[f"qint{bits}"]
    return WeightQBitsTensor(qtype, 0, group, size, (size[1], 1), data, rounded.scale.reshape(-1, 1), rounded.shift.reshape(-1, 1))


def moved_to(weight: Packed, device: torch.device) -> Packed:
    """The stored packing on another device; quanto's own ``to`` would pack it for a kernel."""
    if weight.device == device:
        return weight
    if isinstance(weight, WeightQBytesTensor):
        moved: Packed = weight.to(device)
        return moved
    data, scale, shift = (tensor.to(device) for tensor in (weight._data, weight._scale, weight._shift))
    return WeightQBitsTensor(weight.qtype, weight.axis, weight._group_size, weight.size(), weight.stride(), data, scale, shift)


def group_size(weight: torch.Tensor) -> int | None:
    """Number of input features that share one scale; None if a whole row does."""
    size: int | None = getattr(weight, "_group_size", None)
    return size


def cast(weight: Packed, dtype: torch.dtype) -> Packed:
    """The same integers with scales (and shifts) in ``dtype``; quanto's own ``to`` cannot change a dtype."""
    if isinstance(weight, WeightQBytesTensor):
        scale = weight._scale.to(dtype)
        return WeightQBytesTensor(weight.qtype, weight.axis, weight.size(), weight.stride(), weight._data, scale, weight.activation_qtype)
    plain = as_stored(weight)
    scale, shift = plain._scale.to(dtype), plain._shift
    shift = shift.to(dtype) if shift.dtype.is_floating_point else shift
    return WeightQBitsTensor(plain.qtype, plain.axis, plain._group_size, plain.size(), plain.stride(), plain._data, scale, shift)


def dense(weight: Packed, dtype: torch.dtype) -> torch.Tensor:
    """The dequantized weight in its original shape, computed in ``dtype``."""
    values: torch.Tensor = cast(weight, dtype).dequantize()
    return values


def values(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A weight as dense values; one that is not quantized is returned unchanged."""
    return dense(weight, dtype) if isinstance(weight, quanto.QTensor) else weight
