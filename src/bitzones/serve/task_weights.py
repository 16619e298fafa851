"""The weights in which two checkpoints of one model differ, and the modules that these weights make.

A task's file holds tensors under the names that quanto's own checkpoint has them under, so that it is a part of such a checkpoint and
nothing else.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load

from bitzones.backends import quantizing, registry
from bitzones.backends.weights import weight_of
from bitzones.models import sources
from bitzones.schema.errors import ModelError, PlanError
from bitzones.schema.formats import REFERENCE_NAMES, Format

__all__ = ["Difference", "alternatives", "difference"]


@dataclass(frozen=True)
class Difference:
    """What one checkpoint stores that another does not.

    ``tensors`` by their names in a checkpoint; ``modules`` are those whose weight differs; ``dense`` names parameters that are no linear
    module's weight.
    """

    tensors: dict[str, torch.Tensor]
    modules: tuple[str, ...]
    dense: tuple[str, ...]

    def only(self, modules: Collection[str]) -> Difference:
        """The part in some of the modules."""
        kept = {name: tensor for name, tensor in self.tensors.items() if _owner(name, self.modules) in modules}
        return Difference(kept, tuple(name for name in self.modules if name in modules), ())

    @property
    def stored_bytes(self) -> int:
        """Of all its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def difference(base: Path, other: Path, planned: Collection[str]) -> Difference:
    """What the checkpoint in ``other`` stores that the one in ``base`` does not, bit for bit.

    A module is whole: if one of its tensors differs, all of them belong to the difference.

    Args:
        base: folder of a checkpoint.
        other: folder of a checkpoint of the same model.
        planned: modules that the plan of either names.

    Raises:
        ModelError: a folder has no weights.
    """
    with ExitStack() as stack:
        here, there = ({name: file for file in _opened(folder, stack) for name in file.keys()} for folder in (base, other))  # noqa: SIM118
        owners = {name: _owner(name, planned) for name in there}
        changed = {
            owners[name]
            for name, file in there.items()
            if name not in here or not _same(here[name].get_tensor(name), file.get_tensor(name))
        }
        tensors = {name: file.get_tensor(name) for name, file in there.items() if owners[name] in changed}
    modules = tuple(name for name in planned if name in changed)
    return Difference(tensors, modules, tuple(sorted(changed - set(modules))))


def _opened(folder: Path, stack: ExitStack) -> list[Any]:
    """Readers of the files, which safetensors gives no types for."""
    return [stack.enter_context(safe_open(file, framework="pt")) for file in sources.shards(folder)]


def _owner(tensor: str, planned: Collection[str]) -> str:
    """The planned module that a tensor belongs to; else its own name."""
    module, _, _ = tensor.partition(".weight")
    if module not in planned:
        module, _, _ = tensor.rpartition(".")
    return module if module in planned else tensor


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(_bits(one), _bits(other))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def alternatives(
    model: torch.nn.Module, data: bytes, formats: Mapping[str, str], dense: tuple[str, ...], where: Path
) -> dict[str, torch.nn.Module]:
    """Module name -> the module that takes its place for a task; what a module does not differ in, such as a bias, is shared.

    Args:
        model: of the base, on the CPU, in its stored dtype.
        data: the bytes of a task's file.
        formats: module that differs -> its format, or the reference's name.
        dense: other parameters that differ.
        where: the file, for messages.

    Raises:
        PlanError: the file is damaged, or of another model.
    """
    try:
        tensors = load(data)
        parts: defaultdict[str, dict[str, torch.Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            owner = name if name in dense else _owner(name, formats)
            parts[owner][name.removeprefix(f"{owner}.")] = tensor
        _check_names(set(parts), {*formats, *dense})
        made = {name: _linear(model.get_submodule(name), parts[name], chosen) for name, chosen in formats.items()}
        for name in dense:
            owner, _, key = name.rpartition(".")
            made[owner] = _with_parameter(made.get(owner) or model.get_submodule(owner), key, tensors[name])
    except (SafetensorError, ModelError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise PlanError(f"{where}: no weights of this model: {error}") from error
    return made


def _check_names(found: set[str], expected: set[str]) -> None:
    if odd := sorted(found ^ expected):
        raise ValueError(f"{odd[0]!r} is in only one of the file and the record")


def _linear(base: torch.nn.Module, tensors: dict[str, torch.Tensor], format_name: str) -> torch.nn.Module:
    if not isinstance(base, torch.nn.Linear):
        raise TypeError(f"a {type(base).__name__} is no linear module")
    rows, columns = base.out_features, base.in_features
    if format_name not in REFERENCE_NAMES.values():
        made = registry.checkpoints(registry.DEFAULT).read_module(base, tensors, Format.of(format_name))
        weight = weight_of(made)
        assert weight is not None
        dtype = tensors["weight._scale"].dtype
        if weight.stored_bytes != quantizing.expected_bytes(rows, columns, dtype, format_name):
            raise ValueError(f"a weight of {rows} x {columns} in {format_name} takes other bytes")
        return made
    if tensors["weight"].shape != (rows, columns):
        raise ValueError(f"a weight of {rows} x {columns} has the shape {tuple(tensors['weight'].shape)}")
    made = torch.nn.Linear(columns, rows, bias=False, device="meta")
    made.weight, made.bias = torch.nn.Parameter(tensors["weight"], requires_grad=False), base.bias
    return made.eval()


def _with_parameter(base: torch.nn.Module, key: str, values: torch.Tensor) -> torch.nn.Module:
    """A module that shares everything with another but one parameter."""
    if base.get_parameter(key).shape != values.shape:
        raise ValueError(f"parameter {key!r} of a {type(base).__name__} has another shape")
    made = copy.copy(base)
    made._parameters = {**base._parameters, key: torch.nn.Parameter(values, requires_grad=False)}
    return made
