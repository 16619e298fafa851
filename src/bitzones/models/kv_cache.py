"""Key-value caches under whatever argument name transformers uses, and static caches, with which all decode steps have one shape.

transformers 5.24 renamed ``past_key_values`` to ``cache`` and warns about the old name.
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
    """The name of the cache argument of the model's ``forward``; None if it has none."""
    takes = inspect.signature(model.forward).parameters
    return next((name for name in NAMES if name in takes), None)


def as_argument(model: PreTrainedModel, cache: Any) -> dict[str, Any]:
    """The cache as a keyword argument for ``forward`` and ``generate``; empty if the model takes none."""
    name = name_of(model)
    return {} if name is None else {name: cache}


def of_output(out: Any) -> Any:
    """The cache in a model's output; None if there is none."""
    return next((out[name] for name in NAMES if name in out), None)


def static(model: PreTrainedModel, positions: int) -> StaticCache | None:
    """An empty static cache; None if the model does not support one."""
    if name_of(model) is None or not getattr(model, "_can_compile_fullgraph", False):
        return None
    return StaticCache(config=model.config, max_cache_len=positions)


def can_wind_back(cache: StaticCache) -> bool:
    """Whether every layer's position can be set back; a sliding window that has moved on has lost its earlier entries."""
    return all(type(layer) is StaticLayer and isinstance(getattr(layer, "cumulative_length", None), torch.Tensor) for layer in cache.layers)


def wind_back(cache: StaticCache, positions: int) -> None:
    """Set the cache back to its first ``positions``; later entries are overwritten by the next tokens."""
    layers: list[Any] = cache.layers
    for layer in layers:
        layer.cumulative_length.fill_(positions)


def bytes_per_position(cache: Any) -> float:
    """Bytes of keys and values per position, over all layers and sequences; recurrent states count as 0."""
    layers = [layer for layer in getattr(cache, "layers", ()) if isinstance(getattr(layer, "keys", None), torch.Tensor)]
    sizes: list[float] = [(layer.keys.nbytes + layer.values.nbytes) / layer.keys.shape[-2] for layer in layers]
    return sum(sizes)
