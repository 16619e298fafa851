"""Quantizes modules with optimum-quanto.

quanto fails silently: a mistyped name quantizes nothing, quantizing a frozen module again keeps the old integers under a new name, and a
second ``quantize()`` matches modules of the first. So `install` takes exact names of modules that `bitzones.backends.quantizing` has
looked at, and that module reads the result off the tensors.
"""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import lru_cache

import torch
from optimum import quanto
from optimum.quanto.nn import QModuleMixin

from bitzones.backends.quanto.extensions import extension_failure
from bitzones.backends.quanto.packing import Packed, cast, moved_to, packed_weights, stored_bytes
from bitzones.schema.formats import Format

__all__ = ["cast_module", "expected_bytes", "install", "packed_alone"]

_OPTIMIZERS: dict[str, Callable[[], quanto.Optimizer]] = {
    "absmax": quanto.AbsmaxOptimizer,
    "max": quanto.MaxOptimizer,
    "hqq": quanto.HqqOptimizer,
}


def install(model: torch.nn.Module, formats: Mapping[str, Format], ready: Mapping[str, Packed]) -> None:
    """Quantize the named modules in place and freeze them; those that are ``ready`` get these weights."""
    extension_failure()  # quanto unpacks weights while it searches for scales
    alike: defaultdict[Format, list[str]] = defaultdict(list)
    for name, format_ in formats.items():
        alike[format_].append(name)
    for format_, names in alike.items():
        quanto.quantize(
            model,
            weights=f"qint{format_.bits}",
            optimizer=_OPTIMIZERS.get(format_.method, quanto.MaxOptimizer)(),
            include=[glob.escape(name) for name in names],
        )
    for name, weight in ready.items():
        model.get_submodule(name).weight = torch.nn.Parameter(weight, requires_grad=False)  # freezing keeps it
    quanto.freeze(model)


@lru_cache
def expected_bytes(rows: int, columns: int, dtype: torch.dtype, bits: int) -> int:
    """Stored bytes of a weight of this shape, read off a quantized weight of zeros."""
    extension_failure()
    linear = torch.nn.Linear(columns, rows, bias=False, dtype=dtype)
    linear.weight.data.zero_()
    made = torch.nn.Sequential(linear)
    quanto.quantize(made, weights=f"qint{bits}")  # the size does not depend on the optimizer
    quanto.freeze(made)
    return stored_bytes(packed_weights(made)["0"])


def packed_alone(weight: torch.Tensor, format_: Format) -> Packed:
    """One weight in a stock format, packed for storage, on the weight's device."""
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype, device="meta")
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    made = torch.nn.Sequential(linear)
    install(made, {"0": format_}, {})
    return moved_to(packed_weights(made)["0"], weight.device)


def cast_module(module: torch.nn.Module, dtype: torch.dtype, device_type: str | None) -> None:
    """Make a frozen module compute in ``dtype``, in place; its integers stay. See `bitzones.backends.backend_protocol.Backend.cast`."""
    if not (isinstance(module, QModuleMixin) and isinstance(module.weight, quanto.QTensor)):
        return
    weight = module.weight.data
    wanted = cast(weight, dtype) if weight.dtype != dtype else weight
    if wanted is weight and weight.device.type == device_type:
        wanted = weight.optimize()  # a weight that was rounded elsewhere has no kernel yet
    if type(wanted) is not type(weight) or wanted.dtype != weight.dtype:
        module.weight = torch.nn.Parameter(wanted, requires_grad=False)
