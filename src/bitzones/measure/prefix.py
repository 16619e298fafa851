"""Running a model from one of its layers on, because nothing before a change has to be computed again.

The model's own forward prepares masks, positions and rotary tables each time, so nothing here depends on its architecture. This module
does not know why a layer is entered, or what changed in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["entered_at"]


@contextmanager
def entered_at(layers: Sequence[torch.nn.Module], start: int, hidden: torch.Tensor) -> Iterator[None]:
    """Make the model's own forward skip the layers before ``start`` and enter that one with ``hidden``.

    Args:
        layers: the decoder layers, in order.
        start: index of the first that runs.
        hidden: what enters it, shape (sequences, length, width).
    """

    def enter(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    handle = layers[start].register_forward_pre_hook(enter, with_kwargs=True)
    try:
        for layer in layers[:start]:
            layer.forward = _pass_through
        yield
    finally:
        handle.remove()
        for layer in layers[:start]:
            layer.__dict__.pop("forward", None)


def _pass_through(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return hidden_states
