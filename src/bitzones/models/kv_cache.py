"""A model's key-value cache, whatever its transformers calls it: 5.24 says ``cache`` where it was ``past_key_values``, and warns of the old
name; and caches of a fixed size, for steps that all have one shape.

This module does not know what is read into a cache.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import PreTrainedModel, StaticCache
from transformers.cache_utils import StaticLayer

__all__ = ["as_argument", "bytes_per_position", "can_wind_back", "name_of", "of_output", "static", "wind_back"]

NAMES = ("cache", "past_key_values")
"""Newest first."""


def name_of(model: PreTrainedModel) -> str | None:
    """What the model's ``forward`` calls its cache; None where it takes none."""
    takes = inspect.signature(model.forward).parameters
    return next((name for name in NAMES if name in takes), None)


def as_argument(model: PreTrainedModel, cache: Any) -> dict[str, Any]:
    """The cache as a keyword argument of the model's ``forward`` and ``generate``; nothing where the model takes none."""
    name = name_of(model)
    return {} if name is None else {name: cache}


def of_output(out: Any) -> Any:
    """The cache that a pass left; None where it left none."""
    return next((out[name] for name in NAMES if name in out), None)


def static(model: PreTrainedModel, positions: int) -> StaticCache | None:
    """A cache of a fixed number of positions, empty; None where the model cannot have one."""
    if name_of(model) is None or not getattr(model, "_can_compile_fullgraph", False):
        return None
    return StaticCache(config=model.config, max_cache_len=positions)


def can_wind_back(cache: StaticCache) -> bool:
    """Whether every layer's position is one number that can be set; a sliding window that has moved has lost what it would go back to."""
    return all(type(layer) is StaticLayer and isinstance(getattr(layer, "cumulative_length", None), torch.Tensor) for layer in cache.layers)


def wind_back(cache: StaticCache, positions: int) -> None:
    """Forget what came after the first positions: it is overwritten by what comes next."""
    layers: list[Any] = cache.layers
    for layer in layers:
        layer.cumulative_length.fill_(positions)


def bytes_per_position(cache: Any) -> float:
    """Bytes of keys and values that one position takes over all layers and sequences; of recurrent states nothing is known, and 0."""
    layers = [layer for layer in getattr(cache, "layers", ()) if isinstance(getattr(layer, "keys", None), torch.Tensor)]
    sizes: list[float] = [(layer.keys.nbytes + layer.values.nbytes) / layer.keys.shape[-2] for layer in layers]
    return sum(sizes)
