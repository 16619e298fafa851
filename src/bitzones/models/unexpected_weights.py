"""Refuses weights in a model's files that its architecture does not have, unless the profile allows leaving them out.

transformers ignores them silently: a model with the wrong ``config.json`` would be measured without its biases.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import parse_local_safetensors_file_metadata
from safetensors import safe_open
from transformers import PreTrainedModel

from bitzones.models import structure
from bitzones.schema.errors import ModelError

__all__ = ["KEY", "NOTHING", "Unexpected", "check"]

KEY = "model.allow_unexpected_weights"
"""The profile's key."""

_NAMED = 4
"""Kinds of weights that a message lists; a surplus layer has a dozen."""


@dataclass(frozen=True)
class Unexpected:
    """Number of weights that were left out, and their bytes in the files."""

    weights: int = 0
    bytes: int = 0


NOTHING = Unexpected()


@dataclass(frozen=True)
class _Stored:
    """The file that holds a tensor, and its size there."""

    file: Path
    bytes: int


def check(
    model: PreTrainedModel, unexpected: Collection[str], files: Sequence[Path], *, allowed: bool, notify: Callable[[str], None]
) -> Unexpected:
    """The weights in a model's files that the loaded model lacks.

    Args:
        model: as transformers loaded it.
        unexpected: names that transformers reported as unexpected.
        files: safetensors files; empty for a GGUF file, whose bytes are not reported.
        allowed: whether the profile allows leaving weights out.
        notify: receives a line about weights that were left out, including those that the architecture declares unnecessary.

    Raises:
        ModelError: weights were left out, or a tied head has a different tensor in the files, and the profile does not allow it.
    """
    stored = _stored(files)
    kind = type(model).__name__
    if names := _not_needed(model, stored):
        notify(f"left out, because {kind} does not need them: {_described(model, names, stored)}")
    _check_head(model, stored, allowed=allowed, notify=notify)
    if not unexpected:
        return NOTHING
    said = f"its files hold weights that {kind} does not have: {_described(model, unexpected, stored)}"
    if not allowed:
        raise ModelError(f"{said}; does its config.json belong to these weights? {KEY} = true measures it without them")
    notify(f"{said}; left out")
    return Unexpected(len(unexpected), _bytes(model, unexpected, stored))


def _stored(files: Iterable[Path]) -> dict[str, _Stored]:
    found: dict[str, _Stored] = {}
    for file in files:
        for name, info in parse_local_safetensors_file_metadata(file).tensors.items():
            start, end = info.data_offsets
            found[name] = _Stored(file, end - start)
    return found


def _not_needed(model: PreTrainedModel, stored: Collection[str]) -> list[str]:
    """Names that the architecture declares unnecessary, such as masks in old checkpoints and layers for speculative decoding."""
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None)
    if not patterns:
        return []
    held, ignored = set(model.state_dict()), re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
    return [name for name in stored if ignored.search(name) and not held.intersection(_spellings(model, name))]


def _check_head(model: PreTrainedModel, stored: dict[str, _Stored], *, allowed: bool, notify: Callable[[str], None]) -> None:
    """Refuse a head that the configuration ties to the embeddings while the files hold a different tensor for it."""
    names = _tied_names(model)
    if names is None:
        return
    head, embeddings = (next((found for found in _spellings(model, name) if found in stored), None) for name in names)
    if head is None or embeddings is None or torch.equal(_tensor(stored, head), _tensor(stored, embeddings)):
        return
    said = f"its config.json ties the head to the embeddings, but its files hold another tensor for {head} ({stored[head].bytes:,} bytes)"
    if not allowed:
        raise ModelError(f"{said}: tie_word_embeddings = false in config.json uses it; {KEY} = true accepts what transformers does with it")
    notify(f"{said}; {'the embeddings are' if structure.tied_embeddings(model) else 'that tensor is'} used")


def _tied_names(model: PreTrainedModel) -> tuple[str, str] | None:
    """Names of the weights of the head and of the embeddings, if the configuration ties them."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or not (getattr(model.config, "tie_word_embeddings", False) and getattr(model, "_tied_weights_keys", None)):
        return None
    names = {module: name for name, module in model.named_modules() if module in {head, embeddings}}
    return f"{names[head]}.weight", f"{names[embeddings]}.weight"


def _tensor(stored: dict[str, _Stored], name: str) -> torch.Tensor:
    with safe_open(stored[name].file, framework="pt") as file:
        found: torch.Tensor = file.get_tensor(name)
    return found


def _spellings(model: PreTrainedModel, name: str) -> tuple[str, ...]:
    """A weight's name with and without the prefix of the base model: files have either."""
    prefix = f"{model.base_model_prefix}."
    return name, name.removeprefix(prefix), prefix + name


def _bytes(model: PreTrainedModel, names: Iterable[str], stored: dict[str, _Stored]) -> int:
    places = (next((found for found in _spellings(model, name) if found in stored), None) for name in names)
    return sum(stored[place].bytes for place in places if place is not None)


def _described(model: PreTrainedModel, names: Collection[str], stored: dict[str, _Stored]) -> str:
    """Such as ``36 weights (18,432 bytes): model.layers.*.self_attn.q_proj.bias (12) and 2 more kinds``."""
    kinds: dict[str, list[str]] = {}
    for name in sorted(names):
        kinds.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", name), []).append(name)
    listed = ", ".join(f"{kind} ({len(found)})" if len(found) > 1 else found[0] for kind, found in [*kinds.items()][:_NAMED])
    more = f" and {len(kinds) - _NAMED} more kinds" if len(kinds) > _NAMED else ""
    size = f" ({_bytes(model, names, stored):,} bytes)" if stored else ""
    return f"{len(names)} weights{size}: {listed}{more}"
