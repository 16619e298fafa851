"""Hidden states computed once and entered again, so that a change late in a model costs only what comes after it.

One pass over a model keeps how every decoder layer was called. From there a layer can be run again alone, and the model's own forward can
be made to start at any layer, or behind the last one, where only the final norm and the head are left. Masks, positions and rotary tables
are still prepared by the model itself, so nothing here depends on its architecture; that a layer needs nothing of the layers before it but
hidden states is what it relies on. It does not know what is changed, or why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from bitzones.data.sequences import Batch
from bitzones.evaluation.kl import logits_of

__all__ = ["Entry", "Passed", "entered_at", "hidden_of", "passed"]


@dataclass(frozen=True)
class Entry:
    """How a layer was called: ``hidden`` of shape (sequences, length, width), and the arguments that came with it."""

    hidden: torch.Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, layer: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        """What the layer makes of ``hidden``, called as it was."""
        return hidden_of(layer(hidden, *self.args, **self.kwargs))


@dataclass(frozen=True)
class Passed:
    """One pass: how each layer was called, and what the last one gave."""

    entries: list[Entry]
    after: torch.Tensor

    def entering(self, start: int) -> torch.Tensor:
        """Hidden states that enter layer ``start``; behind the last layer, those that leave it."""
        return self.after if start == len(self.entries) else self.entries[start].hidden


def passed(model: torch.nn.Module, layers: Sequence[torch.nn.Module], batch: Batch) -> tuple[Passed, torch.Tensor]:
    """One pass over the model as it is now: what it went through, and the logits, which are the largest tensor and not always needed."""
    entries: list[Entry] = []
    after: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        others = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        entries.append(Entry(args[0] if args else kwargs["hidden_states"], args[1:], others))

    def keep_last(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        after.append(hidden_of(output))

    handles = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in layers]
    handles.append(layers[-1].register_forward_hook(keep_last))
    try:
        logits = logits_of(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return Passed(entries, after[0]), logits


@contextmanager
def entered_at(layers: Sequence[torch.nn.Module], start: int, hidden: torch.Tensor) -> Iterator[None]:
    """Make the model's own forward skip the layers before ``start`` and enter that one with ``hidden``.

    Args:
        layers: the decoder layers, in order.
        start: index of the first that runs; with the number of layers all are skipped, and only what comes behind the last is computed.
        hidden: what enters it, or leaves the last layer: shape (sequences, length, width).
    """

    def enter(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    handle = layers[min(start, len(layers) - 1)].register_forward_pre_hook(enter, with_kwargs=True)
    own = [vars(layer).get("forward") for layer in layers[:start]]  # of a layer that lies elsewhere
    try:
        for layer in layers[:start]:
            layer.forward = _pass_through
        yield
    finally:
        handle.remove()
        for layer, forward in zip(layers[:start], own, strict=True):
            vars(layer).pop("forward", None)
            if forward is not None:
                layer.forward = forward


def _pass_through(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return hidden_states


def hidden_of(output: Any) -> torch.Tensor:
    """A layer's hidden states: its output, or the first of several."""
    hidden = output[0] if isinstance(output, tuple) else output
    assert isinstance(hidden, torch.Tensor)
    return hidden
