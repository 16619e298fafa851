"""Weights that a kernel unpacks at every product, unpacked once, where a measurement asks for values and not for time or memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch.nn import functional

from bitzones.backends.weights import holder, weight_of
from bitzones.devices import device as devices

__all__ = ["unpacked_once"]

FREE_SHARE = 0.5
"""Of the free memory that dense copies may take; the other half is for the activations and logits of the measurement."""


@contextmanager
def unpacked_once(model: torch.nn.Module) -> Iterator[None]:
    """Within the block, a module whose kernel unpacks its weight at every product multiplies by values that were unpacked once.

    They are the values that the kernel multiplies by, so only the order of sums can differ. Short batches, such as those of generated
    answers, spend most of their time unpacking otherwise. The model stays as it is where its dense weights would not fit in `FREE_SHARE`
    of the free memory.
    """
    found = [module for module in model.modules() if _unpacks(module)]
    changed: list[torch.nn.Module] = []
    try:
        if _fit(found):
            for module in found:
                module.forward = partial(functional.linear, weight=_values(module), bias=getattr(module, "bias"))  # noqa: B009  # as any type
                changed.append(module)
        yield
    finally:
        for module in changed:
            del module.__dict__["forward"]


def _unpacks(module: torch.nn.Module) -> bool:
    """Whether a module's kernel is of that kind, and its forward its own: accelerate replaces those of offloaded modules."""
    backend = holder(module)
    return backend is not None and backend.kernel(module) in backend.unpacking_kernels and "forward" not in module.__dict__


def _fit(modules: list[torch.nn.Module]) -> bool:
    """Whether there is something to unpack, and room for it."""
    found = [module.get_parameter("weight") for module in modules]
    dense = sum(weight.numel() * weight.dtype.itemsize for weight in found)
    return bool(found) and dense <= FREE_SHARE * devices.free_bytes(found[0].device)


@torch.no_grad()
def _values(module: torch.nn.Module) -> torch.Tensor:
    packed = weight_of(module)
    assert packed is not None  # `_unpacks`
    return packed.values(module.get_parameter("weight").dtype)
