"""Layers run once and entered again, so that a change late in a model costs only what comes after it.

One pass over a model keeps how every decoder layer was called and what it did. From there a layer can be run again alone, and the model's
own forward can be made to start at any layer, or behind the last one, where only the final norm and the head are left: a layer that is
skipped returns what it returned, and puts into shared mappings what it put. Masks, positions and rotary tables are prepared by the model
itself, so nothing here depends on its architecture. That layers depend on each other in no other way is what
`bitzones.sensitivity.invariants` checks on the model at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch

from bitzones.data.sequences import Batch
from bitzones.evaluation.kl import logits_of
from bitzones.evaluation.layer_calls import Call, Left, Step, did, shielded
from bitzones.schema.errors import NotMeasuredError

__all__ = ["Passed", "by_token", "entered_at", "passed", "stepped"]


@dataclass(frozen=True)
class Passed:
    """One pass: how each layer was called, and what it did."""

    calls: list[Call]

    def before(self, start: int) -> list[Step]:
        """What the layers before ``start`` did, which is what stands before it; with the number of layers, before the final norm."""
        return [call.step for call in self.calls[:start]]


def passed(model: torch.nn.Module, layers: Sequence[torch.nn.Module], batch: Batch) -> tuple[Passed, torch.Tensor]:
    """One pass over the model as it is now: what it went through, and the logits, which are the largest tensor and not always needed."""
    calls: list[Call] = []
    with _keeping(layers, calls.append):
        logits = logits_of(model, batch)
    return Passed(calls), logits


@contextmanager
def _keeping(layers: Sequence[torch.nn.Module], keep: Callable[[Call], None]) -> Iterator[None]:
    """Tell of each call of some layers."""
    before: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def enter(_layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        before.append(shielded(args, kwargs))

    def leave(_layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        was = before.pop()
        keep(Call(*was, did(output, args, kwargs, was)))

    handles = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
    handles += [layer.register_forward_hook(leave, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def entered_at(layers: Sequence[torch.nn.Module], steps: Sequence[Step]) -> Iterator[None]:
    """Make the model's own forward skip the first layers: each does again what its step says, and the next one runs.

    Args:
        layers: the decoder layers, in order.
        steps: of the layers to skip; with those of all layers only what comes behind the last is computed.
    """
    skipped = layers[: len(steps)]
    own = [vars(layer).get("forward") for layer in skipped]  # of a layer that lies elsewhere
    try:
        for layer, step in zip(skipped, steps, strict=True):
            layer.forward = _doing(step)
        yield
    finally:
        for layer, forward in zip(skipped, own, strict=True):
            vars(layer).pop("forward", None)
            if forward is not None:
                layer.forward = forward


def _doing(step: Step) -> Callable[..., Any]:
    return lambda *args, **kwargs: step.again(args, kwargs)


@torch.no_grad()
def stepped(model: torch.nn.Module, layers: Sequence[torch.nn.Module], before: Sequence[Step], batch: Batch) -> list[Step]:
    """Run one layer more on a batch: the steps ``before`` it, of which only the last keeps all that was returned, and its own."""
    found: list[Step] = []

    def stop(call: Call) -> None:
        found.append(call.step)
        raise Left

    with _keeping([layers[len(before)]], stop), entered_at(layers, before), suppress(Left):
        model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    return [*(step.hollow(found[0].hidden) for step in before), *found]


def by_token(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Hidden states with the dimensions of ``mask``, which are sequences and length, in front; Gemma 3n has others before them.

    Raises:
        NotMeasuredError: there are no such dimensions, or it cannot be told which they are.
    """
    places = [at for at in range(hidden.ndim - 1) if hidden.shape[at : at + 2] == mask.shape]
    if len(places) != 1:
        raise NotMeasuredError(
            f"hidden states of shape {tuple(hidden.shape)} do not say which of them belong to the {mask.shape[1]} tokens of a sequence"
        )
    return hidden.movedim((places[0], places[0] + 1), (0, 1))
