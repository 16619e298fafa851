"""Key-value caches under whatever argument name transformers uses, and static caches, with which all decode steps have one shape.

transformers 5.24 renamed ``past_key_values`` to ``cache`` and warns about the old name.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, StaticCache
from transformers.cache_utils import StaticLayer

from bitzones.devices import device as devices
from bitzones.models import text_config

__all__ = [
    "Static",
    "as_argument",
    "bytes_per_position",
    "can_wind_back",
    "forget",
    "growing_refusal",
    "name_of",
    "of_output",
    "static",
    "wind_back",
]

NAMES = ("cache", "past_key_values")
"""Newest first."""

REMEMBERED = "rope_deltas"
"""Attribute in which a vision-language model keeps how far a prompt's positions are from its tokens' numbers."""

PROBED = 4
"""Tokens of the prompt on which a model is asked whether it computes on a cache of a fixed size."""

LEAST_APART = 1e-3
"""Share of the largest logit below which logits on two kinds of cache are one result in another order of summation. A mask or a bias in the
wrong place moves them by a large part of their size."""

FORGOTTEN = 0.1
"""The same for steps on a model's own cache and a whole pass. transformers' steps of Bamba are 0.006 off; without what came before, a small
Llama is 1.7 off."""

NOISE = 8
"""The same in rounding steps of the dtype, where those are more."""


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


@dataclass(frozen=True)
class Static:
    """An empty cache of a fixed number of positions; None where the model cannot have one, and why where it says that it can."""

    cache: StaticCache | None
    refused: str | None = None


def static(model: PreTrainedModel, positions: int) -> Static:
    """A cache of a fixed number of positions, if the model computes on one what it computes on a growing one.

    Some say that they can and cannot: a Falcon with alibi adds biases for the positions that are filled to scores of all positions.
    """
    if name_of(model) is None or not getattr(model, "_can_compile_fullgraph", False):
        return Static(None)
    refused = _static_refusal(model)
    return Static(StaticCache(config=model.config, max_cache_len=positions) if refused is None else None, refused)


@torch.no_grad()
def growing_refusal(model: PreTrainedModel) -> str | None:
    """Why the model cannot be decoded on the cache that it makes itself; None if it can, and if it hands out none.

    RecurrentGemma takes a cache and returns none: it keeps its state in its modules.
    """
    if name_of(model) is None:
        return None
    return _refusal(model, lambda: _steps(model, None), lambda: _whole(model), "without a cache", FORGOTTEN)


@torch.no_grad()
def _static_refusal(model: PreTrainedModel) -> str | None:
    def fixed() -> torch.Tensor | None:
        return _steps(model, StaticCache(config=model.config, max_cache_len=PROBED + 2))

    return _refusal(model, fixed, lambda: _steps(model, None), "on a growing cache", LEAST_APART)


def _refusal(
    model: PreTrainedModel, tried: Callable[[], torch.Tensor | None], trusted: Callable[[], torch.Tensor | None], where: str, bound: float
) -> str | None:
    """Why a cache is not taken, from a short prompt and a step after it: an error, or logits that are not the trusted ones."""
    try:
        found = tried()
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        if devices.is_out_of_memory(error):
            raise
        return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    if found is None or (expected := trusted()) is None:
        return None
    apart, scale = float((found - expected).abs().max()), float(expected.abs().max())
    if apart <= max(bound, NOISE * torch.finfo(model.dtype).eps) * scale or not (math.isfinite(apart) and math.isfinite(scale)):
        return None
    return f"logits differ by up to {apart:.2g} from those {where}"


def _steps(model: PreTrainedModel, cache: StaticCache | None) -> torch.Tensor | None:
    """Logits of the last token of a prompt, and of one token after it, float32 of shape (2, 1, vocabulary); None without a cache."""
    forget(model)
    ids = _probe(model)
    first = model(input_ids=ids[:, :PROBED], use_cache=True, **(as_argument(model, cache) if cache is not None else {}))
    if (kept := of_output(first)) is None:
        return None
    then = model(input_ids=ids[:, PROBED:], use_cache=True, **as_argument(model, kept))
    return torch.stack([first.logits[:, -1], then.logits[:, -1]]).float()


def _whole(model: PreTrainedModel) -> torch.Tensor:
    """What `_steps` gives, in one pass without a cache."""
    forget(model)
    logits: torch.Tensor = model(input_ids=_probe(model), use_cache=False).logits
    return logits[:, -2:].transpose(0, 1).float()


def _probe(model: PreTrainedModel) -> torch.Tensor:
    return text_config.plain_tokens(model)[: PROBED + 1].to(model.device)[None]


def forget(model: PreTrainedModel) -> None:
    """Drop what a model keeps of its last prompt beside the cache: Qwen-VL's offsets of positions, whose batch may be another one's."""
    for module in model.modules():
        if getattr(module, REMEMBERED, None) is not None:
            setattr(module, REMEMBERED, None)


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
