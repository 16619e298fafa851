"""Quantizes modules by their formats' backends and verifies, from the tensors, that each came out in its format."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

import torch

from bitzones.backends import registry
from bitzones.backends.backend_protocol import Notify, Packed, Staying, silent
from bitzones.backends.linear import is_quantizable
from bitzones.backends.weights import holder, packed_weights
from bitzones.schema.errors import ModelError
from bitzones.schema.formats import Format

__all__ = ["expected_bytes", "group_size", "quantize", "quantized_alone", "set_compute_dtype", "stand_ins", "unsupported", "verify"]


def quantize(model: torch.nn.Module, assignment: Mapping[str, str], ready: Mapping[str, Packed] | None = None) -> None:
    """Quantize each named module to its format, in place.

    Args:
        model: a model without quantized modules.
        assignment: module name -> format, as in ``{"model.layers.0.mlp.down_proj": "qint2:hqq"}``.
        ready: weights that are already quantized; required for calibrated formats. The others are quantized here.

    Raises:
        ModelError: the model has no module of that name, it cannot be quantized, the model is already quantized, or a weight did not
            come out in its format.
    """
    ready = ready or {}
    parts = registry.by_backend(assignment)
    _check_before(model, assignment, ready)
    _check_shapes(model, assignment)
    for backend, formats in parts.items():
        backend.install(model, formats, {name: ready[name] for name in formats if name in ready})
    verify(model, assignment)


def _check_before(model: torch.nn.Module, assignment: Mapping[str, str], ready: Mapping[str, Packed]) -> None:
    modules = dict(model.named_modules())
    if not assignment:
        raise ModelError("nothing to quantize: no module was named")
    quantized = [name for name, module in modules.items() if holder(module) is not None]
    if quantized:
        raise ModelError(f"the model is already quantized ({quantized[0]} and {len(quantized) - 1} more): start from a fresh copy")
    for name in assignment:
        if name not in modules:
            raise ModelError(f"the model has no module {name!r}: nothing would be quantized")
        if not is_quantizable(modules[name]):
            raise ModelError(f"module {name!r} is a {type(modules[name]).__name__}: not quantizable")
    if raw := [name for name, format_ in assignment.items() if Format.of(format_).is_calibrated and name not in ready]:
        raise ModelError(f"module {raw[0]!r} and {len(raw) - 1} more: {assignment[raw[0]]} must first be rounded on the calibration set")
    if extra := sorted(set(ready) - set(assignment)):
        raise ModelError(f"module {extra[0]!r} has a quantized weight but no format")


def _check_shapes(model: torch.nn.Module, assignment: Mapping[str, str]) -> None:
    """Before anything changes: formats that run in another engine take these shapes. Kernels here are another matter (`unsupported`)."""
    elsewhere = [(name, format_) for name, format_ in assignment.items() if registry.of(format_).checkpoints is None]
    parameter = next(model.parameters())
    for format_, modules in unsupported(model, elsewhere, parameter.dtype, parameter.device).items():
        name, why = next(iter(modules.items()))
        raise ModelError(f"module {name!r} and {len(modules) - 1} more cannot be {format_}: {why}")


def verify(model: torch.nn.Module, assignment: Mapping[str, str]) -> None:
    """Check from the tensors that the named modules, and no others, hold weights in their formats.

    Raises:
        ModelError: names the first module that does not.
    """
    weights = packed_weights(model)
    for name, format_name in assignment.items():
        expected = Format.of(format_name).plain
        found = weights[name].format if name in weights else "not quantized"
        if found != expected:
            raise ModelError(f"module {name!r} should be {expected} and is {found}")
    if extra := sorted(set(weights) - set(assignment)):
        raise ModelError(f"module {extra[0]!r} is quantized and was not requested")


def expected_bytes(rows: int, columns: int, dtype: torch.dtype, format_name: str) -> int:
    """Stored bytes of a weight of this shape in a format, with scales in ``dtype``."""
    return registry.of(format_name).stored_bytes(Format.of(format_name), rows, columns, dtype)


def group_size(format_name: str, columns: int) -> int | None:
    """Number of input features that share a scale in rows of this length; None if a whole row does."""
    return registry.of(format_name).group_size(Format.of(format_name), columns)


def unsupported(
    model: torch.nn.Module,
    wanted: Iterable[tuple[str, str]],
    compute_dtype: torch.dtype,
    device: torch.device,
    notify: Notify = silent,
) -> dict[str, Mapping[str, str]]:
    """Format -> module -> why the module cannot be in it: its shape, or a kernel that is missing or wrong on this machine.

    Args:
        model: its weights may already be quantized.
        wanted: names of linear modules, each with a format.
        compute_dtype: the dtype of the arithmetic.
        device: the device of the arithmetic.
        notify: receives a line about anything that takes long or fails.

    Returns:
        Only formats that some module does not support.
    """
    apart: dict[str, list[tuple[str, str]]] = {}
    for name, format_name in wanted:
        apart.setdefault(Format.of(format_name).backend, []).append((name, format_name))
    found: dict[str, Mapping[str, str]] = {}
    for name, pairs in apart.items():
        stays: Staying = registry.backend(name).unsupported(model, pairs, compute_dtype, device, notify)
        found |= stays
    return found


def quantized_alone(weight: torch.Tensor, format_name: str, device: torch.device | None = None) -> Packed:
    """One weight in a stock format, packed for storage, on the weight's device. ``device`` is where it is quantized, if elsewhere."""
    made = registry.of(format_name).quantize(weight.to(device or weight.device), Format.of(format_name))
    return made.to(weight.device)


def stand_ins(modules: Sequence[torch.nn.Module], format_name: str, dtype: torch.dtype) -> list[torch.nn.Module]:
    """Quantized copies of dense linear modules, computing in ``dtype``: for timing only.

    Scales come from the backend's default method whatever the format's is, which changes values but not the work.
    """
    made = torch.nn.Sequential(*(copy.deepcopy(module) for module in modules))
    quantize(made, dict.fromkeys((name for name, _ in made.named_children()), Format.of(format_name).plain))
    set_compute_dtype(made, dtype)
    return list(made)


def set_compute_dtype(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Make a model compute in ``dtype``, in place; quantized weights keep their integers.

    Only tensors in the model's own dtype change: what a model keeps wider (rotary frequencies, some norms) stays that wide. If nothing has
    to change, nothing is rebuilt and a library's choice of kernels is kept. A weight in host memory of a model that runs on a GPU is packed
    for its kernel when it is moved there.
    """
    plain = [parameter for parameter in model.parameters() if _is_plain(parameter)]
    stored, kind = (plain[0].dtype, plain[0].device.type) if plain else (dtype, None)
    for module in model.modules():
        backend = holder(module)
        if backend is not None:
            backend.cast(module, dtype, kind)
        for tensor in [*module._parameters.values(), *module._buffers.values()]:
            if tensor is not None and tensor.dtype == stored and _is_plain(tensor):
                tensor.data = tensor.data.to(dtype)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether it is no library's own kind of tensor."""
    return not hasattr(tensor.data, "__tensor_flatten__")
