"""The kernel that computes a module's matrix product, identified by the class of its weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
from optimum.quanto.nn import QModuleMixin
from optimum.quanto.tensor import WeightQBitsTensor

from bitzones.schema.performance_cells import KernelKind

__all__ = ["kernel", "kernel_kinds", "kernels", "needs_unpacking"]

DENSE = "dense"
"""The kernel of an unquantized module."""


def kernel(module: torch.nn.Module) -> str:
    """The kernel of a module: the class of its weight, by which quanto dispatches."""
    return type(module.weight.data).__name__ if isinstance(module, QModuleMixin) else DENSE


def kernels(modules: Iterable[torch.nn.Module]) -> dict[str, int]:
    """Number of modules per kernel."""
    return dict(Counter(kernel(module) for module in modules))


def kernel_kinds(names: Iterable[str]) -> dict[str, KernelKind]:
    """The kind of each kernel. quanto unpacks its plain packing at every product; its other packings have fused kernels."""
    known: dict[str, KernelKind] = {DENSE: "dense", WeightQBitsTensor.__name__: "unpacked"}
    return {name: known.get(name, "fused") for name in names}


def needs_unpacking(module: torch.nn.Module) -> bool:
    """Whether a module's weight packs several integers into a byte."""
    return isinstance(module, QModuleMixin) and isinstance(module.weight, WeightQBitsTensor)
