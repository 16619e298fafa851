"""The kernel that computes a module's matrix product, identified by the class of its weight."""

from __future__ import annotations

import torch
from optimum.quanto.nn import QModuleMixin
from optimum.quanto.tensor import WeightQBitsTensor

__all__ = ["UNPACKING", "kernel", "needs_unpacking"]

UNPACKING = frozenset({WeightQBitsTensor.__name__})
"""quanto unpacks its plain packing at every product; its other packings have fused kernels."""


def kernel(module: torch.nn.Module) -> str:
    """The class of a module's weight, by which quanto dispatches."""
    return type(module.weight.data).__name__


def needs_unpacking(module: torch.nn.Module) -> bool:
    """Whether a module's weight packs several integers into a byte."""
    return isinstance(module, QModuleMixin) and isinstance(module.weight, WeightQBitsTensor)
