"""The file of a tuned plan's weights: what rounding the plan's sequences again would not give.

A safetensors file with ``MODULE.integers`` (uint8, several integers to a byte, the first in the lowest bits, row after row),
``MODULE.scale`` and ``MODULE.shift`` (rows, groups) of every tuned module, in the dtypes that quanto stores, and under its own name every
dense parameter that was tuned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from bitzones.backends.integers import Rounded
from bitzones.schema.errors import OutputError, PlanError
from bitzones.schema.files import beside
from bitzones.schema.formats import format_bits
from bitzones.tuning import packed_weights
from bitzones.tuning.packed_weights import Packed

__all__ = ["StoredWeights", "folded", "read", "unfolded", "write"]

BYTE = 8
"""Bits."""

PARTS = ("integers", "scale", "shift")


@dataclass(frozen=True)
class StoredWeights:
    """Module -> packed weight, and name -> dense parameter, as stored."""

    packed: dict[str, Packed] = field(default_factory=dict)
    dense: dict[str, torch.Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def put_dense(self, model: torch.nn.Module) -> None:
        """Set the model's dense parameters to the tuned ones, in the dtype that the model has them in."""
        for name, values in self.dense.items():
            model.get_parameter(name).copy_(values)


def folded(integers: torch.Tensor, bits: int) -> torch.Tensor:
    """Integers of ``bits`` bits, ``8 / bits`` to a byte, the first in the lowest bits; zeros fill the last byte.

    >>> folded(torch.tensor([[1, 2, 3], [0, 3, 1]], dtype=torch.uint8), 2).tolist()  # 1 + 2 * 4 + 3 * 16, 3 + 1 * 4
    [57, 7]
    """
    each = BYTE // bits
    flat = torch.nn.functional.pad(integers.flatten(), (0, -integers.numel() % each)).view(-1, each)
    return sum((flat[:, place] << (bits * place) for place in range(1, each)), flat[:, 0])


def unfolded(data: torch.Tensor, bits: int, shape: tuple[int, int]) -> torch.Tensor:
    """What `folded` folded, uint8 of shape ``shape``."""
    each = BYTE // bits
    flat = torch.stack([(data >> (bits * place)) & (2**bits - 1) for place in range(each)], dim=1).flatten()
    return flat[: shape[0] * shape[1]].view(shape)


def write(path: Path, weights: Mapping[str, Packed], dense: Mapping[str, torch.Tensor]) -> str:
    """Write a file and return its SHA-256.

    Raises:
        OutputError: it cannot be written.
    """
    tensors = dict(dense)
    for name, weight in weights.items():
        rounded = packed_weights.parts(weight)
        values = (folded(rounded.integers, format_bits(weight.format)), rounded.scale, rounded.shift)
        tensors |= {f"{name}.{part}": value for part, value in zip(PARTS, values, strict=True)}
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    try:
        with beside(path) as place:
            place.write_bytes(data)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    return hashlib.sha256(data).hexdigest()


def read(path: Path, sha256: str, model: torch.nn.Module, formats: Mapping[str, str]) -> StoredWeights:
    """The weights of a file, for a model whose ``formats`` are those of a plan.

    Args:
        path: of the file.
        sha256: that the plan has for it.
        model: dense, of the plan.
        formats: module -> format of every module that the plan quantizes; those of more than 4 bits are not in the file.

    Raises:
        PlanError: the file is missing, another one, or of another model.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PlanError(f"{path}: cannot be read: {error.strerror}; the plan is tuned, and its weights belong beside it") from error
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise PlanError(f"{path}: not the weights that the plan was tuned to: SHA-256 is {found[:12]}..., the plan says {sha256[:12]}...")
    try:
        tensors = load(data)
    except (SafetensorError, ValueError) as error:
        raise PlanError(f"{path}: no safetensors file") from error
    try:
        packed = {name: _packed(tensors, model, name, form) for name, form in formats.items() if packed_weights.tunable(form)}
        for name, values in tensors.items():
            _check_dense(model, name, values)
    except (KeyError, ValueError, AttributeError, RuntimeError) as error:
        raise PlanError(f"{path}: the weights of another model or plan: {type(model).__name__} has no place for {error}") from error
    return StoredWeights(packed, tensors)


def _check_dense(model: torch.nn.Module, name: str, values: torch.Tensor) -> None:
    if model.get_parameter(name).shape != values.shape:
        raise ValueError(name)


def _packed(tensors: dict[str, torch.Tensor], model: torch.nn.Module, name: str, format_name: str) -> Packed:
    """One weight, whose parts are taken out of ``tensors``."""
    data, scale, shift = (tensors.pop(f"{name}.{part}") for part in PARTS)
    weight = model.get_parameter(f"{name}.weight")
    rows, columns = weight.shape
    bits = format_bits(format_name)
    if data.dtype != torch.uint8 or len(data) != -(-rows * columns * bits // BYTE) or scale.dtype != weight.dtype:
        raise ValueError(f"{name}.integers")
    if scale.shape != shift.shape or scale.ndim != 2 or len(scale) != rows or columns % scale.shape[1]:
        raise ValueError(f"{name}.scale")
    return packed_weights.pack(Rounded(unfolded(data, bits, (rows, columns)), scale, shift).to(weight.device), bits)
