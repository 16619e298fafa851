"""The only place that talks to optimum-quanto, because quanto fails silently and what was quantized must be what was asked for.

What goes wrong without it: a mistyped name quantizes nothing; quantizing a frozen module again leaves the old integers under a new name; a
second ``quantize()`` matches its own modules. So `quantize` takes exact module names, refuses what is already quantized, and reads the
result off the tensors. It does not know about layers, plans or measurements.
"""

from __future__ import annotations

import copy
import glob
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import torch
from optimum import quanto
from optimum.quanto.nn import QModuleMixin
from optimum.quanto.tensor import WeightQBitsTensor, WeightQBytesTensor
from optimum.quanto.tensor.packed import PackedTensor
from safetensors import SafetensorError
from transformers import PreTrainedModel

from bitzones.backends import checkpoint_files
from bitzones.backends.integers import Rounded
from bitzones.backends.quanto.extensions import extension_failure, unpack
from bitzones.schema.errors import ModelError
from bitzones.schema.formats import Format, format_bits, is_calibrated
from bitzones.schema.records import KernelKind

__all__ = [
    "Packed",
    "cast",
    "dense",
    "expected_bytes",
    "extension_failure",
    "group_size",
    "is_quantizable",
    "kernel",
    "kernel_kinds",
    "kernels",
    "needs_unpacking",
    "pack",
    "packed_alone",
    "packed_weights",
    "planned_group_size",
    "quantize",
    "reload",
    "repack_as_reloaded",
    "save",
    "set_compute_dtype",
    "stand_in",
    "stored_bytes",
    "unpack",
    "values",
    "verify",
]

Packed: TypeAlias = quanto.QTensor
"""A quantized weight as quanto stores it: packed integers, scales and shifts."""

DENSE = "dense"
"""The kernel of a module that is not quantized."""

_OPTIMIZERS: dict[str, Callable[[], quanto.Optimizer]] = {
    "absmax": quanto.AbsmaxOptimizer,
    "max": quanto.MaxOptimizer,
    "hqq": quanto.HqqOptimizer,
}


def is_quantizable(module: torch.nn.Module) -> bool:
    """Whether quanto has a quantized counterpart for a module's weight: linear layers, not yet quantized."""
    return isinstance(module, torch.nn.Linear) and not isinstance(module, QModuleMixin)


def quantize(model: torch.nn.Module, assignment: Mapping[str, str], ready: Mapping[str, Packed] | None = None) -> None:
    """Quantize and freeze, in place, each named module to its format.

    Args:
        model: a model of which no module is quantized yet.
        assignment: module name -> format, as in ``{"model.layers.0.mlp.down_proj": "qint2:hqq"}``.
        ready: weights that are quantized already, which calibrated formats need; the others are quantized here.

    Raises:
        ModelError: a name that the model does not have or that quanto cannot quantize, a model that is quantized already, or a weight that
            did not come out in its format.
    """
    ready = ready or {}
    _check_before(model, assignment, ready)
    extension_failure()  # quanto unpacks while it searches for scales
    by_format: defaultdict[str, list[str]] = defaultdict(list)
    for name, format_name in assignment.items():
        by_format[format_name].append(name)
    for format_name, names in by_format.items():
        quanto.quantize(
            model,
            weights=f"qint{format_bits(format_name)}",
            optimizer=_OPTIMIZERS.get(Format.of(format_name).method, quanto.MaxOptimizer)(),
            include=[glob.escape(name) for name in names],
        )
    for name, weight in ready.items():
        model.get_submodule(name).weight = torch.nn.Parameter(weight, requires_grad=False)  # freezing leaves it as it is
    quanto.freeze(model)
    verify(model, assignment)


def _check_before(model: torch.nn.Module, assignment: Mapping[str, str], ready: Mapping[str, Packed]) -> None:
    modules = dict(model.named_modules())
    if not assignment:
        raise ModelError("nothing to quantize: no module was named")
    quantized = [name for name, module in modules.items() if isinstance(module, QModuleMixin)]
    if quantized:
        raise ModelError(f"the model is quantized already ({quantized[0]} and {len(quantized) - 1} more): start from a fresh copy")
    for name in assignment:
        if name not in modules:
            raise ModelError(f"the model has no module {name!r}: nothing would be quantized")
        if not is_quantizable(modules[name]):
            raise ModelError(f"module {name!r} is a {type(modules[name]).__name__}: not quantizable by quanto")
    if raw := [name for name, format_name in assignment.items() if is_calibrated(format_name) and name not in ready]:
        raise ModelError(
            f"module {raw[0]!r} and {len(raw) - 1} more: {assignment[raw[0]]} has to be rounded on calibration sequences first"
        )
    if extra := sorted(set(ready) - set(assignment)):
        raise ModelError(f"module {extra[0]!r} comes with a quantized weight and no format was asked for")


def verify(model: torch.nn.Module, assignment: Mapping[str, str]) -> None:
    """Read off the tensors that exactly the named modules are frozen in their formats.

    Raises:
        ModelError: naming the first module that is not.
    """
    weights = packed_weights(model)
    for name, format_name in assignment.items():
        expected = f"qint{format_bits(format_name)}"
        found = weights[name].qtype.name if name in weights else "not quantized"
        if found != expected:
            raise ModelError(f"module {name!r} should be {expected} and is {found}")
    if extra := sorted(set(weights) - set(assignment)):
        raise ModelError(f"module {extra[0]!r} is quantized and was not asked for")


def packed_weights(model: torch.nn.Module) -> dict[str, Packed]:
    """Module name -> frozen quantized weight, packed as it would be stored: without what a kernel makes of it in memory."""
    named = model.named_modules()
    return {n: _as_stored(m.weight.data) for n, m in named if isinstance(m, QModuleMixin) and isinstance(m.weight, quanto.QTensor)}


def _as_stored(weight: Packed) -> Packed:
    """The packing that quanto writes to a file; kernels on bfloat16 and CUDA have others, and lose a little of the shift (TinyGemm)."""
    return weight.weight_qbits_tensor() if isinstance(weight, WeightQBitsTensor) and type(weight) is not WeightQBitsTensor else weight


def stored_bytes(weight: torch.Tensor) -> int:
    """Bytes that storing a weight takes: packed integers, scales and shifts, read off the tensors, never bits times parameters."""
    if isinstance(weight, WeightQBitsTensor):
        plain = _as_stored(weight)
        return stored_bytes(plain._data) + stored_bytes(plain._scale) + stored_bytes(plain._shift)
    if isinstance(weight, WeightQBytesTensor):
        return stored_bytes(weight._data) + stored_bytes(weight._scale)
    if isinstance(weight, PackedTensor):
        return stored_bytes(weight._data)
    return weight.numel() * weight.element_size()


@lru_cache
def expected_bytes(rows: int, columns: int, dtype: torch.dtype, format_name: str) -> int:
    """Stored bytes that a weight of this shape will take in a format, before its values are quantized: read off a weight of zeros."""
    extension_failure()
    linear = torch.nn.Linear(columns, rows, bias=False, dtype=dtype)
    linear.weight.data.zero_()
    made = torch.nn.Sequential(linear)
    bits = format_bits(format_name)
    quanto.quantize(made, weights=f"qint{bits}")  # how scales are chosen changes no size
    quanto.freeze(made)
    return stored_bytes(packed_weights(made)["0"])


def planned_group_size(columns: int) -> int | None:
    """Weights that will share a scale in a row of so many, or None where a whole row does: quanto's own choice.

    >>> planned_group_size(4096), planned_group_size(576), planned_group_size(100)
    (128, 96, None)
    """
    size: int | None = quanto.QLinear(columns, 1, bias=False, weights=quanto.qint4, device="meta").weight_group_size
    return size


def pack(rounded: Rounded, bits: int, group: int | None) -> Packed:
    """Integers, scales and shifts that were chosen elsewhere, as quanto stores them.

    Args:
        rounded: of a whole weight, scales and shifts one for each row and group.
        bits: 2 or 4.
        group: as `planned_group_size` says.
    """
    size = rounded.integers.shape
    data = rounded.integers if group is None else rounded.integers.reshape(-1, group)
    qtype = quanto.qtypes[f"qint{bits}"]
    return WeightQBitsTensor(qtype, 0, group, size, (size[1], 1), data, rounded.scale.reshape(-1, 1), rounded.shift.reshape(-1, 1))


def packed_alone(weight: torch.Tensor, format_name: str, device: torch.device | None = None) -> Packed:
    """One weight in a stock format, packed as it would be stored, where the weight lies; quantized there, or on another device."""
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype, device="meta")
    linear.weight = torch.nn.Parameter(weight.to(device or weight.device), requires_grad=False)
    made = torch.nn.Sequential(linear)
    quantize(made, {"0": format_name})
    return _moved(packed_weights(made)["0"], weight.device)


def _moved(weight: Packed, device: torch.device) -> Packed:
    """As it would be stored, on a device; quanto's own ``to`` would pack it for a kernel there."""
    if weight.device == device:
        return weight
    if isinstance(weight, WeightQBytesTensor):
        moved: Packed = weight.to(device)
        return moved
    data, scale, shift = (tensor.to(device) for tensor in (weight._data, weight._scale, weight._shift))
    return WeightQBitsTensor(weight.qtype, weight.axis, weight._group_size, weight.size(), weight.stride(), data, scale, shift)


def stand_in(modules: Sequence[torch.nn.Module], format_name: str, dtype: torch.dtype) -> list[torch.nn.Module]:
    """Linear modules of the same values as the given dense ones, in a format and computing in ``dtype``: for timing, not for measuring.

    Their scales are those of quanto's default optimizer, whatever the format's: that changes values and not the work.
    """
    made = torch.nn.Sequential(*(copy.deepcopy(module) for module in modules))
    quantize(made, dict.fromkeys((name for name, _ in made.named_children()), f"qint{format_bits(format_name)}"))
    set_compute_dtype(made, dtype)
    return list(made)


def group_size(weight: torch.Tensor) -> int | None:
    """Weights that share a scale along the input features, or None where a whole row does."""
    size: int | None = getattr(weight, "_group_size", None)
    return size


def kernel(module: torch.nn.Module) -> str:
    """What computes a module's product: the class of its weight tensor, since quanto chooses kernels by it."""
    return type(module.weight.data).__name__ if isinstance(module, QModuleMixin) else DENSE


def kernels(modules: Iterable[torch.nn.Module]) -> dict[str, int]:
    """How many modules each kernel computes."""
    return dict(Counter(kernel(module) for module in modules))


def kernel_kinds(names: Iterable[str]) -> dict[str, KernelKind]:
    """The kind of each kernel. quanto unpacks its plain packing at every product; its other classes have kernels."""
    known: dict[str, KernelKind] = {DENSE: "dense", WeightQBitsTensor.__name__: "unpacked"}
    return {name: known.get(name, "fused") for name in names}


def needs_unpacking(module: torch.nn.Module) -> bool:
    """Whether a module's weight is several integers to a byte."""
    return isinstance(module, QModuleMixin) and isinstance(module.weight, WeightQBitsTensor)


def cast(weight: Packed, dtype: torch.dtype) -> Packed:
    """The same integers with scales (and shifts) widened to ``dtype``; quanto's own ``to`` refuses to change a dtype."""
    if isinstance(weight, WeightQBytesTensor):
        scale = weight._scale.to(dtype)
        return WeightQBytesTensor(weight.qtype, weight.axis, weight.size(), weight.stride(), weight._data, scale, weight.activation_qtype)
    plain = _as_stored(weight)
    scale, shift = plain._scale.to(dtype), plain._shift
    shift = shift.to(dtype) if shift.dtype.is_floating_point else shift
    return WeightQBitsTensor(plain.qtype, plain.axis, plain._group_size, plain.size(), plain.stride(), plain._data, scale, shift)


def dense(weight: Packed, dtype: torch.dtype) -> torch.Tensor:
    """The values that a quantized weight stands for, shape as before quantization, computed in ``dtype``."""
    values: torch.Tensor = cast(weight, dtype).dequantize()
    return values


def values(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A weight as dense values: what a quantized one stands for, and another one as it is."""
    return dense(weight, dtype) if isinstance(weight, quanto.QTensor) else weight


def set_compute_dtype(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Make a model compute in ``dtype``, in place; quantized weights keep their integers.

    Only what is in the model's own dtype changes: what a model keeps wider (rotary frequencies, some norms) stays as wide. Where nothing
    has to change, nothing is rebuilt, and quanto's choice of kernels stands. A weight that lies on the host while the model runs on a GPU
    is packed for a kernel when it comes there.
    """
    plain = [p for p in model.parameters() if not isinstance(p, quanto.QTensor)]
    stored, kind = (plain[0].dtype, plain[0].device.type) if plain else (dtype, None)
    for module in model.modules():
        if isinstance(module, QModuleMixin) and isinstance(module.weight, quanto.QTensor):
            weight = module.weight.data
            wanted = cast(weight, dtype) if weight.dtype != dtype else weight
            if wanted is weight and weight.device.type == kind:
                wanted = weight.optimize()  # what was rounded elsewhere has no kernel yet
            if type(wanted) is not type(weight) or wanted.dtype != weight.dtype:
                module.weight = torch.nn.Parameter(wanted, requires_grad=False)
        for tensor in [*module._parameters.values(), *module._buffers.values()]:
            if tensor is not None and tensor.dtype == stored and not isinstance(tensor, quanto.QTensor):
                tensor.data = tensor.data.to(dtype)


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write a quantized model as quanto does: safetensors, ``config.json`` and ``quanto_qmap.json``, and a README.md where there is none.

    Tensors keep the names that the model's modules have: quanto's loader does not translate those of an original checkpoint.

    Raises:
        ModelError: no module of the model is quantized.
        OSError: the folder cannot be written.
    """
    try:
        with checkpoint_files.own_names(model):
            quanto.QuantizedModelForCausalLM(model).save_pretrained(folder)
        for file in sorted(folder.glob("*.safetensors")):
            checkpoint_files.align(file)
    except ValueError as error:
        raise ModelError(f"quanto cannot save the model: {str(error)[:300]}") from error


def reload(folder: Path) -> PreTrainedModel:
    """The model that ``QuantizedModelForCausalLM.from_pretrained(folder)`` gives anybody, on the CPU; no code in the folder is run.

    quanto loads with ``strict=False``: a tensor that no file holds is left with whatever was in memory. So every tensor of the model has to
    be in a file, and what comes back has to be compared, with `verify` and by what it computes.

    Raises:
        ModelError: quanto cannot load it, or no file holds one of the model's tensors.
    """
    extension_failure()
    try:
        model = quanto.QuantizedModelForCausalLM.from_pretrained(folder, trust_remote_code=False, local_files_only=True)._wrapped
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder}: quanto cannot load this: {str(error)[:300]}") from error
    assert isinstance(model, PreTrainedModel)
    if absent := checkpoint_files.not_in_files(model, folder):
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise ModelError(f"{folder}: no file holds the model's tensor {absent[0]!r}{more}: quanto would leave it with arbitrary values")
    for weight in (m.weight for m in model.modules() if isinstance(m, QModuleMixin) and isinstance(m.weight, WeightQBytesTensor)):
        if weight._data.data_ptr() % checkpoint_files.ALIGNMENT:  # files that were not aligned are read as they lie
            weight._data = weight._data.clone()
    return model.requires_grad_(requires_grad=False)


def repack_as_reloaded(model: torch.nn.Module) -> None:
    """Give every weight, in place, the packing that it has after a save and a `reload`, on the device where it is.

    A kernel's packing (TinyGemm) can lose a little of a shift each time it is made, where the values of a group lie on one side of zero. A
    model that was just quantized has been through it once, a reloaded one twice; after this both have.
    """
    for module in model.modules():
        if isinstance(module, QModuleMixin) and isinstance(module.weight, quanto.QTensor):
            device = module.weight.device
            module.weight = torch.nn.Parameter(_as_stored(module.weight.data).to("cpu").optimize().to(device), requires_grad=False)
