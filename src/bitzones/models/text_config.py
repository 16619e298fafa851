"""What a configuration says about the language model: of a composite one, as vision-language models have, in its text configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["of", "plain_tokens", "special_tokens", "vocabulary"]


def of(model: PreTrainedModel) -> PretrainedConfig:
    """The configuration of the model's decoder: its own, unless it is composed of several."""
    config: PretrainedConfig = model.config.get_text_config(decoder=True)
    return config


def vocabulary(model: PreTrainedModel) -> int:
    """How many tokens there are."""
    size: int = of(model).vocab_size
    return size


def plain_tokens(model: PreTrainedModel) -> torch.Tensor:
    """Every token without a meaning of its own, in order, shape (tokens,): what random prompts are drawn from."""
    plain = torch.ones(vocabulary(model), dtype=torch.bool)
    plain[[token for token in special_tokens(model.config) if token < len(plain)]] = False
    return plain.nonzero().flatten() if plain.any() else torch.arange(len(plain))


def special_tokens(config: PretrainedConfig | None) -> set[int]:
    """Every token that a configuration names at any depth, as in ``pad_token_id`` or ``image_token_index``."""
    named = {} if config is None else config.to_dict()
    values = [value for key, value in _flat(named) if "token" in key and key.endswith(("_id", "_ids", "_index"))]
    tokens = [token for value in values for token in (value if isinstance(value, list) else [value])]
    return {token for token in tokens if isinstance(token, int) and token >= 0}


def _flat(settings: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value)
        else:
            yield str(key), value
