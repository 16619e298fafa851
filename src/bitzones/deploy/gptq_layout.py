"""The tensors in which GPTQ and AutoRound checkpoints store a linear layer of ``(integer - zero) * scale``.

``qweight`` is int32 of shape (columns * bits / 32, rows), packed along the columns, lowest bits first; ``qzeros`` of shape
(groups, rows * bits / 32), packed along the rows; ``scales`` float16 of shape (groups, rows); ``g_idx`` the group of each column. Zeros are
stored as they are (GPTQ's version 2): version 1 stores them less one, and has no zero of 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from bitzones.backends.bit_words import WORD_BITS, pack, unpack
from bitzones.backends.integers import Rounded
from bitzones.backends.weights import parts_of
from bitzones.deploy.safetensors_stream import Entry
from bitzones.deploy.zero_points import zeros
from bitzones.schema.errors import PlanError

__all__ = ["WEIGHTS", "entries", "rounds", "values"]

WEIGHTS = "model.safetensors"


def rounds(parts: Rounded, bits: int) -> str | None:
    """What of a weight these tensors would round; None if nothing."""
    if zeros(parts, bits) is None:
        return "a zero point that is no whole number"
    off = parts.scale.float() != parts.scale.half().float()
    return f"a scale of {float(parts.scale[off][0]):.6g}, which is no float16" if off.any() else None


def entries(model: PreTrainedModel, name: str, bits: int, group: int | None, *, indices: bool) -> Iterator[Entry]:
    """The tensors of a module, made when they are written; ``indices`` adds ``g_idx``."""
    rows, columns = model.get_parameter(f"{name}.weight").shape
    groups = columns // (group or columns)
    yield Entry(f"{name}.qweight", torch.int32, (columns * bits // WORD_BITS, rows), partial(_integers, model, name, bits))
    yield Entry(f"{name}.qzeros", torch.int32, (groups, rows * bits // WORD_BITS), partial(_zeros, model, name, bits))
    yield Entry(f"{name}.scales", torch.float16, (groups, rows), partial(_scales, model, name))
    if indices:
        yield Entry.of(f"{name}.g_idx", torch.arange(columns, dtype=torch.int32) // (columns // groups))


def _parts(model: PreTrainedModel, name: str) -> Rounded:
    return parts_of(model.get_submodule(name))


def _integers(model: PreTrainedModel, name: str, bits: int) -> torch.Tensor:
    return pack(_parts(model, name).integers, bits).view(torch.int32).T


def _zeros(model: PreTrainedModel, name: str, bits: int) -> torch.Tensor:
    found = zeros(_parts(model, name), bits)
    assert found is not None  # `rounds`
    return pack(found.T.contiguous(), bits).view(torch.int32)


def _scales(model: PreTrainedModel, name: str) -> torch.Tensor:
    return _parts(model, name).scale.half().T


def values(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Module -> the weights that its integers, scales and zeros stand for, float32, read from a folder.

    Raises:
        PlanError: it holds a recipe.
    """
    if not (folder / WEIGHTS).is_file():
        raise PlanError(f"{folder}: a recipe, which stores no weights that can be compared: a plan of int formats is exported with weights")
    return _values(folder / WEIGHTS)


def _values(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(file, framework="pt") as handle:
        for name in [key.removesuffix(".qweight") for key in handle.keys() if key.endswith(".qweight")]:  # noqa: SIM118  # no mapping
            words, packed, scales = (handle.get_tensor(f"{name}.{kind}") for kind in ("qweight", "qzeros", "scales"))
            rows = scales.shape[1]
            bits = packed.shape[1] * WORD_BITS // rows
            integers = unpack(words.T.contiguous().view(torch.uint32), bits)
            zero = unpack(packed.view(torch.uint32), bits, rows).T
            yield name, Rounded(integers, scales.T, scales.T.float() * zero).values()
