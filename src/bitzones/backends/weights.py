"""Weights of any backend, and of none: values, bytes, and what a model holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import torch

from bitzones.backends import registry
from bitzones.backends.backend_protocol import Backend, Packed, Weight
from bitzones.backends.integers import Rounded
from bitzones.schema.performance_cells import KernelKind

__all__ = [
    "DENSE",
    "holder",
    "kernel",
    "kernel_kinds",
    "kernels",
    "own_memory",
    "packed_weights",
    "parts_of",
    "plain_tensors",
    "resident_bytes",
    "stored_bytes",
    "untimed",
    "values",
    "weight_of",
]

DENSE = "dense"
"""The kernel of an unquantized module."""


def values(weight: Weight, dtype: torch.dtype) -> torch.Tensor:
    """A weight as dense values; one that is not quantized is returned unchanged."""
    return weight if isinstance(weight, torch.Tensor) else weight.values(dtype)


def stored_bytes(weight: Weight) -> int:
    """Bytes of a weight as it lies in memory or in a file."""
    return sum(tensor.nbytes for tensor in plain_tensors(weight)) if isinstance(weight, torch.Tensor) else weight.stored_bytes


def plain_tensors(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """What a tensor is made of.

    A library's own kind, such as a parameter of a quantized module, is made of others (torch's ``__tensor_flatten__``).
    """
    data = tensor.data  # a parameter hides what it is made of
    if not hasattr(data, "__tensor_flatten__"):
        yield data
        return
    for name in data.__tensor_flatten__()[0]:
        yield from plain_tensors(getattr(data, name))


def resident_bytes(modules: Iterable[torch.nn.Module]) -> int:
    """Bytes of memory behind all parameters and buffers of some modules; storage that several share counts once, and whole."""
    found = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for module in modules
        for owned in (*module.parameters(), *module.buffers())
        for tensor in plain_tensors(owned)
    }
    return sum(found.values())


def own_memory(module: torch.nn.Module) -> None:
    """Copy every parameter and buffer of a module in place: none is then a part of a file that is mapped into memory."""
    for owned in (*module.parameters(), *module.buffers()):
        _own(owned)


def _own(tensor: torch.Tensor) -> None:
    if not hasattr(tensor, "__tensor_flatten__"):
        tensor.data = tensor.data.clone()
        return
    for name in tensor.__tensor_flatten__()[0]:
        inner = getattr(tensor, name)
        if hasattr(inner, "__tensor_flatten__"):
            _own(inner)
        else:
            setattr(tensor, name, inner.clone())


def holder(module: torch.nn.Module) -> Backend | None:
    """The backend that quantized a module; None where none did."""
    return next((backend for backend in registry.loaded() if backend.holds(module)), None)


def weight_of(module: torch.nn.Module) -> Packed | None:
    """The quantized weight of a module; None where it has none."""
    backend = holder(module)
    return None if backend is None else backend.weight_of(module)


def parts_of(module: torch.nn.Module) -> Rounded:
    """Integers, scales and shifts of a quantized module's weight.

    Raises:
        ModelError: it is not made of these.
    """
    weight = weight_of(module)
    assert weight is not None  # the module was quantized
    return weight.parts()


def packed_weights(model: torch.nn.Module) -> dict[str, Packed]:
    """Module name -> quantized weight, in the packing of a file and not in that of a kernel."""
    found = ((name, weight_of(module)) for name, module in model.named_modules())
    return {name: weight for name, weight in found if weight is not None}


def kernel(module: torch.nn.Module) -> str:
    """The kernel of a module's product."""
    backend = holder(module)
    return DENSE if backend is None else backend.kernel(module)


def kernels(modules: Iterable[torch.nn.Module]) -> dict[str, int]:
    """Number of modules per kernel."""
    return dict(Counter(map(kernel, modules)))


def kernel_kinds(names: Iterable[str]) -> dict[str, KernelKind]:
    """The kind of each kernel."""
    unpacking = {name for backend in registry.loaded() for name in backend.unpacking_kernels}
    return {name: "dense" if name == DENSE else "unpacked" if name in unpacking else "fused" for name in names}


def untimed(modules: Iterable[torch.nn.Module]) -> str | None:
    """Why times of some of the modules would say nothing of their formats on this machine; None if all would."""
    for module in modules:
        backend = holder(module)
        if backend is not None and (why := backend.untimed(module)) is not None:
            return why
    return None
