"""How a decoder layer was called and what came of it, as data: enough to call it again, or to do what it did without running it.

Most layers take hidden states and give hidden states. Some give more (attention weights, the indices of an indexer), which the model may
hand to the next layer, and some put keys and values into a mapping that later layers read (Gemma 3n, Gemma 4). All of it is kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch

from bitzones.models.decoder_list import first_tensor

__all__ = ["Address", "Call", "Left", "Step", "address", "did", "hidden_of", "mapped", "shielded", "tensors_in"]

Place: TypeAlias = int | str
"""Where an argument stands: its position, or its name."""

Address: TypeAlias = tuple[int, tuple[int, ...]]
"""What tells tensors apart that are alive together: where their values lie, and their shape."""


class Left(Exception):  # noqa: N818  (not an error)
    """A pass has come as far as it was asked for; the rest of the model is not needed."""


@dataclass(frozen=True)
class Step:
    """What a layer did: the ``output`` that it returned, and by argument the entries that it ``put`` into mappings that it was given."""

    output: Any
    put: Mapping[Place, Mapping[Any, Any]] = field(default_factory=dict)

    @property
    def hidden(self) -> torch.Tensor:
        """The hidden states that it gave, shape (sequences, length, width) in most models."""
        return hidden_of(self.output)

    def with_hidden(self, hidden: torch.Tensor) -> Step:
        """The same with other hidden states."""
        return replace(self, output=_with_hidden(self.output, hidden))

    def hollow(self, hidden: torch.Tensor) -> Step:
        """The same with other hidden states and without what else was returned: for a layer whose output only the next one reads."""
        return replace(self, output=_with_hidden(mapped(self.output, lambda _: None), hidden))

    def again(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do it again where the layer would have run with these arguments."""
        for place, entries in self.put.items():
            mapping = args[place] if isinstance(place, int) else kwargs[place]
            mapping.update(entries)
        return self.output


@dataclass(frozen=True)
class Call:
    """How a layer was called, mappings as they stood before it ran, and what it did."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    step: Step

    @property
    def hidden(self) -> torch.Tensor:
        """The hidden states that entered."""
        found = self.args[0] if self.args else self.kwargs["hidden_states"]
        assert isinstance(found, torch.Tensor)
        return found

    def run(self, layer: torch.nn.Module, change: Callable[[torch.Tensor], Any] = lambda tensor: tensor) -> Step:
        """What the layer does when it is called so again, each tensor it is given changed; the record stays as it is."""
        args, kwargs = mapped(self.args, change), mapped(self.kwargs, change)
        before = shielded(args, kwargs)
        return did(layer(*args, **kwargs), args, kwargs, before)


def shielded(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments, with copies of the mappings among them: what a layer puts into its own does not reach these."""
    return tuple(map(_shield, args)), {name: _shield(value) for name, value in kwargs.items()}


def _shield(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, MutableMapping) else value


def did(output: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], before: tuple[tuple[Any, ...], dict[str, Any]]) -> Step:
    """What a layer did, from what it returned and its arguments afterwards and before."""
    now, was = _by_place(args, kwargs), _by_place(*before)
    put = {place: _entries(value, was[place]) for place, value in now.items() if isinstance(value, MutableMapping)}
    return Step(output, {place: entries for place, entries in put.items() if entries})


def _by_place(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[Place, Any]:
    found: dict[Place, Any] = dict(enumerate(args))
    found.update(kwargs)
    return found


def _entries(now: Mapping[Any, Any], was: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: value for key, value in now.items() if key not in was or was[key] is not value}


def hidden_of(output: Any) -> torch.Tensor:
    """A layer's hidden states: its output, or the first of several."""
    hidden = first_tensor(output)
    assert hidden is not None
    return hidden


def _with_hidden(output: Any, hidden: torch.Tensor) -> Any:
    if isinstance(output, tuple):
        return _like(output, [hidden, *output[1:]])
    return [hidden, *output[1:]] if isinstance(output, list) else hidden


def _like(value: tuple[Any, ...], items: list[Any]) -> tuple[Any, ...]:
    """A tuple of the same class, named or not."""
    kind: Any = type(value)
    made: tuple[Any, ...] = kind(*items) if hasattr(value, "_fields") else tuple(items)
    return made


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested tuples, lists and mappings, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from tensors_in(inner)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from tensors_in(inner)


def mapped(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """The same nest of tuples, lists and mappings, each tensor changed; other objects are the same ones."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, tuple):
        return _like(value, [mapped(item, change) for item in value])
    if isinstance(value, list):
        return [mapped(item, change) for item in value]
    if isinstance(value, MutableMapping):
        made = copy.copy(value)
        made.update({key: mapped(item, change) for key, item in value.items()})
        return made
    return value


def address(tensor: torch.Tensor) -> Address:
    """Where a tensor's values lie, and their shape: a view of all of it has the same."""
    return tensor.data_ptr(), tuple(tensor.shape)
