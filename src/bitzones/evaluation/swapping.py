"""Swaps weights of a model temporarily, so that one model can be measured with many changes and without copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from bitzones.backends.backend_protocol import Weight
from bitzones.backends.weights import values as values_of

__all__ = ["swapped"]


@contextmanager
def swapped(model: torch.nn.Module, weights: Mapping[str, Weight]) -> Iterator[None]:
    """Within the block, the named modules have other weights; their own tensors are restored afterwards, also when interrupted.

    A quantized weight is dequantized when it is swapped in.
    """
    originals: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
    try:
        for name, values in weights.items():
            parameter = model.get_submodule(name).weight
            assert isinstance(parameter, torch.nn.Parameter)
            if parameter.shape != values.shape:
                raise ValueError(f"{name}: weight of shape {tuple(parameter.shape)} cannot become {tuple(values.shape)}")
            originals.append((parameter, parameter.data))
            parameter.data = values_of(values, parameter.dtype)
        yield
    finally:
        for parameter, values in reversed(originals):
            parameter.data = values
