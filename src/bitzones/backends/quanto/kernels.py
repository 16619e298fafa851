"""Which kernel computes a module's product, read off the class of its weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
from optimum.quanto.nn import QModuleMixin
from optimum.quanto.tensor import WeightQBitsTensor

from bitzones.schema.performance_cells import KernelKind

__all__ = ["kernel", "kernel_kinds", "kernels", "needs_unpacking"]

DENSE = "dense"
"""The kernel of a module that is not quantized."""


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
