"""What enters the modules of one decoder layer on calibration sequences: the second moments that GPTQ calls the Hessian.

One layer at a time, so that memory is bounded by a layer whatever the depth of the model: the hidden states of all sequences stand before
a layer, are run through it, and stand before the next. Modules that read the same tensor (q, k and v; gate and up) share one moment. This
module does not know what the moments are for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from bitzones.measure.calibration import Batch
from bitzones.measure.prefix import entered_at

__all__ = ["Moment", "embedded", "moments_of", "shared", "through"]


@dataclass(eq=False)
class Moment:
    """Sum of x x^T over the inputs x of one or several modules, float32 of shape (width, width), and how many inputs there were."""

    total: torch.Tensor
    tokens: int = 0


class _Left(Exception):  # noqa: N818  (not an error: the rest of the model is not needed)
    """The layer that was asked for has run."""


@contextmanager
def _left_after(module: torch.nn.Module, keep: Callable[[Any], None], *, before: bool = False) -> Iterator[None]:
    """Run a model only as far as a module, whose output (or first input) is kept."""

    def leave_before(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(args[0] if args else kwargs["hidden_states"])
        raise _Left

    def leave_after(_module: torch.nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        keep(output[0] if isinstance(output, tuple) else output)
        raise _Left

    handle = module.register_forward_pre_hook(leave_before, with_kwargs=True) if before else module.register_forward_hook(leave_after)
    try:
        yield
    except _Left:
        pass
    finally:
        handle.remove()


@torch.no_grad()
def embedded(model: torch.nn.Module, layers: Sequence[torch.nn.Module], batches: Sequence[Batch]) -> list[torch.Tensor]:
    """The hidden states that enter the first layer: of each batch, shape (sequences, length, width)."""
    found: list[torch.Tensor] = []
    for batch in batches:
        with _left_after(layers[0], found.append, before=True):
            model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    return found


@torch.no_grad()
def through(
    model: torch.nn.Module, layers: Sequence[torch.nn.Module], at: int, entering: Sequence[torch.Tensor], batches: Sequence[Batch]
) -> list[torch.Tensor]:
    """The hidden states that leave layer ``at``, where those ``entering`` it are given."""
    found: list[torch.Tensor] = []
    for batch, hidden in zip(batches, entering, strict=True):
        with _left_after(layers[at], found.append), entered_at(layers, at, hidden):
            model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    return found


def moments_of(
    model: torch.nn.Module,
    layers: Sequence[torch.nn.Module],
    at: int,
    names: Sequence[str],
    entering: Sequence[torch.Tensor],
    batches: Sequence[Batch],
) -> tuple[dict[str, Moment], list[torch.Tensor]]:
    """The moment of each named module of layer ``at``, and the hidden states that leave the layer.

    Padding is left out where a module is given whole sequences. An expert is given the tokens that were sent to it, and padding among them
    cannot be told apart: give batches without padding then.

    Returns:
        Modules that read the same tensor have the same `Moment`; a module that was never run has none.
    """
    found: dict[str, Moment] = {}
    leaving: list[torch.Tensor] = []
    for batch, hidden in zip(batches, entering, strict=True):
        with _recording(model, names, batch, found):
            leaving += through(model, layers, at, [hidden], [batch])
    return found, leaving


@contextmanager
def _recording(model: torch.nn.Module, names: Sequence[str], batch: Batch, found: dict[str, Moment]) -> Iterator[None]:
    """Add what the named modules are given during one pass to their moments."""
    seen: dict[tuple[int, int], tuple[torch.Tensor, Moment]] = {}  # the tensors are kept, so that no address is given out twice

    def watch(name: str) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], None]:
        def add(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            given = args[0]
            key = (given.data_ptr(), given.numel())
            if name not in found:
                found[name] = seen[key][1] if key in seen else Moment(torch.zeros(given.shape[-1], given.shape[-1], device=given.device))
            if key not in seen or seen[key][1] is not found[name]:
                _add(found[name], given, batch.mask)
            seen.setdefault(key, (given, found[name]))

        return add

    handles = [model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add(moment: Moment, given: torch.Tensor, mask: torch.Tensor) -> None:
    inputs = (given[mask.bool()] if given.shape[:-1] == mask.shape else given.flatten(0, -2)).float()
    moment.total.addmm_(inputs.T, inputs)
    moment.tokens += len(inputs)


def shared(found: Mapping[str, Moment]) -> dict[int, tuple[Moment, list[str]]]:
    """The modules of each moment."""
    groups: dict[int, tuple[Moment, list[str]]] = {}
    for name, moment in found.items():
        groups.setdefault(id(moment), (moment, []))[1].append(name)
    return groups
