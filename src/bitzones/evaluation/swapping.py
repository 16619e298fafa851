"""Other weights in a model for a while: how one model is measured with many changes, without a copy for each.

This module does not know what the weights are, or why they are tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from bitzones.backends.quanto import packing

__all__ = ["swapped"]


@contextmanager
def swapped(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Give the named modules other weights, and their own tensors back afterwards, also when interrupted.

    A quantized weight is given as the values that it stands for, made only now.
    """
    originals: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
    try:
        for name, values in weights.items():
            parameter = model.get_submodule(name).weight
            assert isinstance(parameter, torch.nn.Parameter)
            if parameter.shape != values.shape:
                raise ValueError(f"{name}: weight of shape {tuple(parameter.shape)} cannot become {tuple(values.shape)}")
            originals.append((parameter, parameter.data))
            parameter.data = packing.values(values, parameter.dtype)
        yield
    finally:
        for parameter, values in reversed(originals):
            parameter.data = values
