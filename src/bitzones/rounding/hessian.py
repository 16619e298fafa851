"""Second moments of the inputs of a decoder layer's modules on the calibration set, which GPTQ calls the Hessian.

Layers are processed one at a time, so that memory does not grow with the depth of the model: the hidden states of all sequences are run
through one layer and become the inputs of the next. Modules that read the same tensor (q, k and v; gate and up) share one moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from bitzones.data.sequences import Batch
from bitzones.evaluation.layer_replay import entered_at, hidden_of

__all__ = ["Entering", "Moment", "embedded", "moments_of", "shared", "through"]


@dataclass(eq=False)
class Moment:
    """Moments of the inputs x of one or several modules, and of z, the same inputs in the reference; float32, shape (width, width).

    Args:
        total: sum of x x^T.
        drift: sum of (z - x) x^T; 0 if the inputs are those of the reference.
        tokens: number of inputs.
    """

    total: torch.Tensor
    drift: torch.Tensor
    tokens: int = 0


class _Left(Exception):  # noqa: N818  (not an error: it skips the rest of the model)
    """The requested layer has run."""


@contextmanager
def _until(stop: RemovableHandle) -> Iterator[None]:
    """Run a model up to a hook that raises `_Left`, then remove the hook."""
    try:
        yield
    except _Left:
        pass
    finally:
        stop.remove()


@torch.no_grad()
def embedded(model: torch.nn.Module, layers: Sequence[torch.nn.Module], batches: Sequence[Batch]) -> list[torch.Tensor]:
    """The hidden states that enter the first layer, one tensor of shape (sequences, length, width) per batch."""
    found: list[torch.Tensor] = []

    def stop(_layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])
        raise _Left

    for batch in batches:
        with _until(layers[0].register_forward_pre_hook(stop, with_kwargs=True)):
            model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    return found


@torch.no_grad()
def through(
    model: torch.nn.Module, layers: Sequence[torch.nn.Module], at: int, entering: Sequence[torch.Tensor], batches: Sequence[Batch]
) -> list[torch.Tensor]:
    """The output hidden states of layer ``at``, given its inputs ``entering``."""
    found: list[torch.Tensor] = []

    def stop(_layer: torch.nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        found.append(hidden_of(output))
        raise _Left

    for batch, hidden in zip(batches, entering, strict=True):
        with _until(layers[at].register_forward_hook(stop)), entered_at(layers, at, hidden):
            model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    return found


@dataclass(frozen=True)
class Entering:
    """The hidden states of every batch that stand before a layer: as the layers before it give them, and as the reference's did."""

    now: list[torch.Tensor]
    reference: list[torch.Tensor] | None = None


def moments_of(
    model: torch.nn.Module,
    layers: Sequence[torch.nn.Module],
    at: int,
    names: Sequence[str],
    entering: Entering,
    batches: Sequence[Batch],
) -> tuple[dict[str, Moment], Entering]:
    """The moment of each named module of layer ``at``, and the output hidden states of the layer, whose weights are the reference's.

    Padding is excluded if a module receives whole sequences. An expert receives only the tokens that were routed to it, and padding among
    them cannot be recognized: use batches without padding for experts. Such tokens are not paired with the reference's tokens either.

    Returns:
        Modules that read the same tensor share one `Moment`; a module that never ran has none.
    """
    found: dict[str, Moment] = {}
    leaving = Entering([], None if entering.reference is None else [])
    for number, batch in enumerate(batches):
        were: dict[str, torch.Tensor] = {}
        if entering.reference is not None and leaving.reference is not None:
            with _watching(model, names, were.__setitem__):
                leaving.reference.extend(through(model, layers, at, [entering.reference[number]], [batch]))
        with _watching(model, names, _adder(found, were, batch.mask)):
            leaving.now.extend(through(model, layers, at, [entering.now[number]], [batch]))
    return found, leaving


@contextmanager
def _watching(model: torch.nn.Module, names: Sequence[str], tell: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
    """Call ``tell`` with the name and the input of each named module whenever it runs."""

    def watch(name: str) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], None]:
        return lambda _module, args: tell(name, args[0])

    handles = [model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adder(found: dict[str, Moment], were: Mapping[str, torch.Tensor], mask: torch.Tensor) -> Callable[[str, torch.Tensor], None]:
    """A function that adds the inputs of modules during one pass to their moments, once per tensor."""
    seen: dict[tuple[int, int], tuple[torch.Tensor, Moment]] = {}  # keeps the tensors alive, so that no address is reused

    def add(name: str, given: torch.Tensor) -> None:
        key = (given.data_ptr(), given.numel())
        if name not in found:
            found[name] = seen[key][1] if key in seen else _empty(given)
        if key not in seen or seen[key][1] is not found[name]:
            _add(found[name], given, were.get(name), mask)
        seen.setdefault(key, (given, found[name]))

    return add


def _empty(given: torch.Tensor) -> Moment:
    square = (given.shape[-1], given.shape[-1])
    return Moment(torch.zeros(square, device=given.device), torch.zeros(square, device=given.device))


def _add(moment: Moment, given: torch.Tensor, was: torch.Tensor | None, mask: torch.Tensor) -> None:
    mask = mask.to(given.device)
    whole = given.shape[:-1] == mask.shape
    inputs = (given[mask.bool()] if whole else given.flatten(0, -2)).float()
    moment.total.addmm_(inputs.T, inputs)
    if was is not None and whole:
        moment.drift.addmm_((was[mask.bool()].float() - inputs).T, inputs)
    moment.tokens += len(inputs)


def shared(found: Mapping[str, Moment]) -> dict[int, tuple[Moment, list[str]]]:
    """Groups modules by their moment."""
    groups: dict[int, tuple[Moment, list[str]]] = {}
    for name, moment in found.items():
        groups.setdefault(id(moment), (moment, []))[1].append(name)
    return groups
