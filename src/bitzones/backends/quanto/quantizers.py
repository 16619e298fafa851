"""Quantizes modules with optimum-quanto and verifies, from the tensors, that each came out in its format.

quanto fails silently: a mistyped name quantizes nothing, quantizing a frozen module again keeps the old integers under a new name, and a
second ``quantize()`` matches modules of the first. So `quantize` takes exact module names, rejects what is quantized already, and reads
the result off the tensors.
"""

from __future__ import annotations

import copy
import glob
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import torch
from optimum import quanto
from optimum.quanto.nn import QModuleMixin

from bitzones.backends.quanto.extensions import extension_failure
from bitzones.backends.quanto.packing import Packed, cast, moved_to, packed_weights, stored_bytes
from bitzones.schema.errors import ModelError
from bitzones.schema.formats import Format, format_bits, is_calibrated

__all__ = ["expected_bytes", "is_quantizable", "packed_alone", "quantize", "set_compute_dtype", "stand_in", "verify"]

_OPTIMIZERS: dict[str, Callable[[], quanto.Optimizer]] = {
    "absmax": quanto.AbsmaxOptimizer,
    "max": quanto.MaxOptimizer,
    "hqq": quanto.HqqOptimizer,
}


_PRODUCTS: dict[type[torch.nn.Linear], bool] = {}
"""Class of linear layers with a forward of its own -> whether that is a plain product."""


def is_quantizable(module: torch.nn.Module) -> bool:
    """Whether quanto can quantize a module: a linear layer that is not quantized yet and computes no more than a product.

    Some classes of linear layers return more (the routers of Llama 4 and Phi 3.5 MoE): quanto would put a plain product in their place.
    """
    return isinstance(module, torch.nn.Linear) and not isinstance(module, QModuleMixin) and _is_product(module)


@torch.no_grad()
def _is_product(module: torch.nn.Linear) -> bool:
    """Whether a class with a forward of its own computes what `torch.nn.Linear` does; told once for each class, from its first module."""
    kind = type(module)
    if kind.forward is torch.nn.Linear.forward:
        return True
    if kind not in _PRODUCTS:
        given = torch.ones(1, module.in_features, dtype=module.weight.dtype, device=module.weight.device)
        try:
            found = kind.forward(module, given)
        except (TypeError, ValueError, RuntimeError, AttributeError):  # it takes something else
            found = None
        wanted = torch.nn.functional.linear(given, module.weight, module.bias)
        if not isinstance(found, torch.Tensor) or found.shape != wanted.shape:
            _PRODUCTS[kind] = False
        elif module.weight.is_meta:
            return True  # no values to compare yet
        else:
            _PRODUCTS[kind] = torch.allclose(found.float(), wanted.float(), rtol=1e-2, atol=1e-2 * float(wanted.abs().max()))
    return _PRODUCTS[kind]


def quantize(model: torch.nn.Module, assignment: Mapping[str, str], ready: Mapping[str, Packed] | None = None) -> None:
    """Quantize each named module to its format, in place, and freeze the model.

    Args:
        model: a model without quantized modules.
        assignment: module name -> format, as in ``{"model.layers.0.mlp.down_proj": "qint2:hqq"}``.
        ready: weights that are already quantized; required for calibrated formats. The others are quantized here.

    Raises:
        ModelError: the model has no module of that name, quanto cannot quantize it, the model is already quantized, or a weight did not
            come out in its format.
    """
    ready = ready or {}
    _check_before(model, assignment, ready)
    extension_failure()  # quanto unpacks weights while it searches for scales
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
        model.get_submodule(name).weight = torch.nn.Parameter(weight, requires_grad=False)  # freezing keeps it
    quanto.freeze(model)
    verify(model, assignment)


def _check_before(model: torch.nn.Module, assignment: Mapping[str, str], ready: Mapping[str, Packed]) -> None:
    modules = dict(model.named_modules())
    if not assignment:
        raise ModelError("nothing to quantize: no module was named")
    quantized = [name for name, module in modules.items() if isinstance(module, QModuleMixin)]
    if quantized:
        raise ModelError(f"the model is already quantized ({quantized[0]} and {len(quantized) - 1} more): start from a fresh copy")
    for name in assignment:
        if name not in modules:
            raise ModelError(f"the model has no module {name!r}: nothing would be quantized")
        if not is_quantizable(modules[name]):
            raise ModelError(f"module {name!r} is a {type(modules[name]).__name__}: not quantizable by quanto")
    if raw := [name for name, format_name in assignment.items() if is_calibrated(format_name) and name not in ready]:
        raise ModelError(f"module {raw[0]!r} and {len(raw) - 1} more: {assignment[raw[0]]} must first be rounded on the calibration set")
    if extra := sorted(set(ready) - set(assignment)):
        raise ModelError(f"module {extra[0]!r} has a quantized weight but no format")


def verify(model: torch.nn.Module, assignment: Mapping[str, str]) -> None:
    """Check from the tensors that the named modules, and no others, are frozen in their formats.

    Raises:
        ModelError: names the first module that is not.
    """
    weights = packed_weights(model)
    for name, format_name in assignment.items():
        expected = f"qint{format_bits(format_name)}"
        found = weights[name].qtype.name if name in weights else "not quantized"
        if found != expected:
            raise ModelError(f"module {name!r} should be {expected} and is {found}")
    if extra := sorted(set(weights) - set(assignment)):
        raise ModelError(f"module {extra[0]!r} is quantized and was not requested")


@lru_cache
def expected_bytes(rows: int, columns: int, dtype: torch.dtype, format_name: str) -> int:
    """Stored bytes of a weight of this shape in a format, read off a quantized weight of zeros."""
    extension_failure()
    linear = torch.nn.Linear(columns, rows, bias=False, dtype=dtype)
    linear.weight.data.zero_()
    made = torch.nn.Sequential(linear)
    bits = format_bits(format_name)
    quanto.quantize(made, weights=f"qint{bits}")  # the size does not depend on the optimizer
    quanto.freeze(made)
    return stored_bytes(packed_weights(made)["0"])


def packed_alone(weight: torch.Tensor, format_name: str, device: torch.device | None = None) -> Packed:
    """One weight in a stock format, packed for storage, on the weight's device. ``device`` is where it is quantized, if elsewhere."""
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype, device="meta")
    linear.weight = torch.nn.Parameter(weight.to(device or weight.device), requires_grad=False)
    made = torch.nn.Sequential(linear)
    quantize(made, {"0": format_name})
    return moved_to(packed_weights(made)["0"], weight.device)


def stand_in(modules: Sequence[torch.nn.Module], format_name: str, dtype: torch.dtype) -> list[torch.nn.Module]:
    """Quantized copies of dense linear modules, computing in ``dtype``: for timing only.

    Scales come from quanto's default optimizer whatever the format's method is, which changes values but not the work.
    """
    made = torch.nn.Sequential(*(copy.deepcopy(module) for module in modules))
    quantize(made, dict.fromkeys((name for name, _ in made.named_children()), f"qint{format_bits(format_name)}"))
    set_compute_dtype(made, dtype)
    return list(made)


def set_compute_dtype(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Make a model compute in ``dtype``, in place; quantized weights keep their integers.

    Only tensors in the model's own dtype change: what a model keeps wider (rotary frequencies, some norms) stays that wide. If nothing has
    to change, nothing is rebuilt and quanto's choice of kernels is kept. A weight in host memory of a model that runs on a GPU is packed
    for its kernel when it is moved there.
    """
    plain = [p for p in model.parameters() if not isinstance(p, quanto.QTensor)]
    stored, kind = (plain[0].dtype, plain[0].device.type) if plain else (dtype, None)
    for module in model.modules():
        if isinstance(module, QModuleMixin) and isinstance(module.weight, quanto.QTensor):
            weight = module.weight.data
            wanted = cast(weight, dtype) if weight.dtype != dtype else weight
            if wanted is weight and weight.device.type == kind:
                wanted = weight.optimize()  # a weight that was rounded elsewhere has no kernel yet
            if type(wanted) is not type(weight) or wanted.dtype != weight.dtype:
                module.weight = torch.nn.Parameter(wanted, requires_grad=False)
        for tensor in [*module._parameters.values(), *module._buffers.values()]:
            if tensor is not None and tensor.dtype == stored and not isinstance(tensor, quanto.QTensor):
                tensor.data = tensor.data.to(dtype)
