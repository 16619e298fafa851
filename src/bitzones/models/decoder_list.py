"""Which list of modules is the list of decoder layers: the one that the text model's forward pass runs through, told by watching one pass.

Names, sizes and classes do not tell. A vision tower may be deeper than the language model, a layer may hold a list of adapters, and a
hybrid model has layers of several classes. What a pass does tells: each layer is given hidden states and gives some of the same shape,
which the next layer of the list is given, once each and in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from bitzones.models import text_config
from bitzones.schema.errors import ModelError

__all__ = ["TOKENS", "few_tokens", "first_tensor", "names", "same"]

TOKENS = 5
"""Length of the watched pass: enough that a layer's hidden states are not taken for a single vector."""


@dataclass
class _List:
    """A list of modules: which of them were called, in order, with what first tensor each was given and gave."""

    modules: torch.nn.ModuleList
    order: list[int] = field(default_factory=list)
    given: list[torch.Tensor | None] = field(default_factory=list)
    gave: list[torch.Tensor | None] = field(default_factory=list)

    @property
    def in_order(self) -> bool:
        """Whether the first modules of the list ran, once each, in the order of the list."""
        return bool(self.order) and self.order == list(range(len(self.order))) and len(self.gave) == len(self.order)

    @property
    def hands_on(self) -> bool:
        """Whether each module gave what the next was given, of the shape that it was given itself."""
        pairs = zip(self.given, self.gave, strict=True)
        kept = all(a is not None and b is not None and a.ndim > 1 and a.shape == b.shape for a, b in pairs)
        return kept and all(same(a, b) for a, b in zip(self.gave, self.given[1:], strict=False))


def names(model: torch.nn.Module) -> tuple[str, ...]:
    """Names of the decoder layers, in order, from one pass over a few tokens; the model is as it was afterwards.

    A list inside a module of another list is never taken: it belongs to a layer, as experts and adapters do.

    Raises:
        ModelError: the pass fails, no list of modules does what decoder layers do, or several do.
    """
    lists = {name: _List(module) for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList) and len(module)}
    outer = {name: found for name, found in lists.items() if not any(name.startswith(f"{other}.") for other in lists)}
    what = type(model).__name__
    if not outer:
        raise ModelError(f"{what} has no list of decoder layers")
    try:
        _watched_pass(model, outer)
    except (RuntimeError, NotImplementedError) as error:
        if not _on_meta(model):
            raise ModelError(_failed(what, error)) from error
        return _guessed(model, outer)
    except Exception as error:
        raise ModelError(_failed(what, error)) from error
    return _chosen(what, outer)


def _failed(what: str, error: Exception) -> str:
    return f"the decoder layers of {what} cannot be told: a pass over {TOKENS} tokens ends in {type(error).__name__}: {str(error)[:200]}"


def _chosen(what: str, lists: Mapping[str, _List]) -> tuple[str, ...]:
    able = {name: found for name, found in lists.items() if found.in_order and found.hands_on}
    several = {name: found for name, found in able.items() if len(found.order) > 1} or able
    if len(several) > 1:
        said = ", ".join(f"{name} ({len(found.order)})" for name, found in several.items())
        raise ModelError(f"the decoder layers of {what} cannot be told: a pass runs through several lists of layers: {said}")
    if not several:
        raise ModelError(f"{what} has no list of decoder layers that a pass runs through once and in order{_hint(lists)}")
    ((name, found),) = several.items()
    return tuple(f"{name}.{number}" for number in found.order)


def _hint(lists: Mapping[str, _List]) -> str:
    """What the largest of the lists did instead."""
    called = {name: found for name, found in lists.items() if found.order}
    if not called:
        return f" (none of {', '.join(lists)} was run)"
    name, found = max(called.items(), key=lambda pair: sum(p.numel() for p in pair[1].modules.parameters()))
    if len(set(found.order)) < len(found.order):
        return f": {name} is run more than once in a pass, so that a layer has no one place in it"
    if not found.in_order:
        return f": {name} runs layers {', '.join(map(str, found.order[:8]))}"
    return f": in {name} a layer is given something else than the hidden states that the one before it gave"


@torch.no_grad()
def _watched_pass(model: torch.nn.Module, lists: Mapping[str, _List]) -> None:
    mode = [(module, module.training) for module in model.modules()]
    with _watching(lists):
        try:
            model.eval()
            model(use_cache=False, **few_tokens(model))
        finally:
            for module, training in mode:
                module.training = training


@contextmanager
def _watching(lists: Mapping[str, _List]) -> Iterator[None]:
    handles = []

    def enter(found: _List, number: int) -> Any:
        def hook(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.order.append(number)
            found.given.append(first_tensor(args or kwargs.get("hidden_states")))

        return hook

    def leave(found: _List) -> Any:
        return lambda _module, _args, output: found.gave.append(first_tensor(output))

    for found in lists.values():
        for number, module in enumerate(found.modules):
            handles.append(module.register_forward_pre_hook(enter(found, number), with_kwargs=True))
            handles.append(module.register_forward_hook(leave(found)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def few_tokens(model: torch.nn.Module, sequences: int = 1, length: int = TOKENS) -> dict[str, torch.Tensor]:
    """Arguments of ``forward`` for a few plain tokens, without those that the configuration gives a meaning (padding, images).

    Returns:
        ``input_ids`` and ``attention_mask``, both of shape (sequences, length).
    """
    if isinstance(model, PreTrainedModel):
        plain, device = text_config.plain_tokens(model), model.device
        plain = plain[plain > 0] if len(plain) > 1 else plain  # token 0 often stands for padding without being called so
    else:
        plain, device = torch.arange(1, sequences * length + 1), next((p.device for p in model.parameters()), torch.device("cpu"))
    ids = plain[torch.arange(sequences * length) % len(plain)].view(sequences, length).to(device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def first_tensor(value: Any) -> torch.Tensor | None:
    """A tensor, or the first of several; None where there is none in that place."""
    first = value[0] if isinstance(value, tuple | list) and value else value
    return first if isinstance(first, torch.Tensor) else None


def same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    """Whether two tensors are one, or a view of all of it, or hold the same values."""
    if one is None or other is None or one.shape != other.shape:
        return False
    if one is other or one.untyped_storage()._cdata == other.untyped_storage()._cdata:
        return True
    return not one.is_meta and torch.equal(one, other.to(one.device))


def _on_meta(model: torch.nn.Module) -> bool:
    return any(p.is_meta for p in model.parameters())


def _guessed(model: torch.nn.Module, lists: Mapping[str, _List]) -> tuple[str, ...]:
    """The largest list of the text model, for a model without storage whose pass depends on values; checked once there are weights."""
    decoder = model.get_decoder() if isinstance(model, PreTrainedModel) else model
    inside = {id(module) for module in decoder.modules()}
    text = {name: found for name, found in lists.items() if id(found.modules) in inside} or lists
    name = max(text, key=lambda name: sum(p.numel() for p in text[name].modules.parameters()))
    return tuple(f"{name}.{number}" for number in range(len(text[name].modules)))
