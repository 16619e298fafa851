"""Second moments of the inputs of a decoder layer's modules on the calibration set, which GPTQ calls the Hessian.

Layers are processed one at a time, so that memory does not grow with the depth of the model: the hidden states of all sequences are run
through one layer and become the inputs of the next, along with the keys and values that later layers take from earlier ones. Modules that
read the same tensor (q, k and v; gate and up) share one moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch

from bitzones.data.sequences import Batch
from bitzones.evaluation.layer_calls import Step
from bitzones.evaluation.layer_replay import stepped

__all__ = ["Before", "Entering", "Moment", "moments_of", "shared", "through"]


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


Before: TypeAlias = Sequence[Step]
"""The calls of the layers that precede a layer, on one batch."""


def through(
    model: torch.nn.Module, layers: Sequence[torch.nn.Module], entering: Sequence[Before], batches: Sequence[Batch]
) -> list[Before]:
    """The calls that precede the next layer, one per batch, given those that precede a layer; the first layer has none."""
    return [stepped(model, layers, before, batch) for before, batch in zip(entering, batches, strict=True)]


@dataclass(frozen=True)
class Entering:
    """What stands before a layer on every batch: as the layers before it give it, and as the reference's did."""

    now: list[Before]
    reference: list[Before] | None = None

    @classmethod
    def first(cls, batches: Sequence[Batch]) -> Entering:
        """Before the first layer, where nothing has drifted yet."""
        return cls([() for _ in batches], [() for _ in batches])


def moments_of(
    model: torch.nn.Module,
    layers: Sequence[torch.nn.Module],
    names: Sequence[str],
    entering: Entering,
    batches: Sequence[Batch],
) -> tuple[dict[str, Moment], Entering]:
    """The moment of each named module of the layer that is entered, and what leaves it, which is as the reference's.

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
                leaving.reference.extend(through(model, layers, [entering.reference[number]], [batch]))
        with _watching(model, names, _adder(found, were, batch.mask)):
            leaving.now.extend(through(model, layers, [entering.now[number]], [batch]))
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
