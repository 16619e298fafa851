"""Calibrated formats: integers chosen on the calibration set and stored as the backend stores its own.

`separately` rounds every module on the activations of the unchanged model, as a sensitivity requires: only that unit is changed.
`in_sequence` rounds a whole assignment layer by layer, on the activations of the layers rounded so far, so that later layers compensate
the errors of earlier ones. Formats with an importance matrix come out the same in both: it is the reference's, as that of llama.cpp is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from bitzones.backends import registry
from bitzones.backends.backend_protocol import Packed
from bitzones.backends.quantizing import group_size, quantized_alone
from bitzones.data.sequences import Batch
from bitzones.evaluation.swapping import swapped
from bitzones.models import structure
from bitzones.rounding.gptq import DAMPING, round_rows, towards
from bitzones.rounding.hessian import Entering, Moment, moments_of, shared, through
from bitzones.rounding.importance import Importance, importance_of
from bitzones.schema.errors import NonFiniteError
from bitzones.schema.formats import Format, format_bits
from bitzones.schema.progress import Progress, silent

__all__ = ["Calibrated", "by_layer", "in_sequence", "separately"]

FED_BACK, WEIGHED = "gptq", "imatrix"
"""Methods of calibrated formats: error feedback, and an importance matrix."""


@dataclass(frozen=True)
class Calibrated:
    """Rounded weights, and module -> reason for those that could not be calibrated and have the stock format's integers."""

    weights: dict[str, Packed] = field(default_factory=dict)
    fallbacks: dict[str, str] = field(default_factory=dict)


def separately(
    model: PreTrainedModel,
    formats: Sequence[str],
    batches: Sequence[Batch],
    dtype: torch.dtype,
    damping: float = DAMPING,
    progress: Progress = silent,
    staying: Mapping[str, Collection[str]] | None = None,
    only: Collection[int] | None = None,
) -> dict[str, Calibrated]:
    """Round every quantizable module to every calibrated format, each on the activations of the unchanged model.

    Args:
        model: the reference in its compute dtype; not modified.
        formats: calibrated formats; all are rounded in one pass over the layers.
        batches: the calibration set.
        dtype: storage dtype of scales and shifts.
        damping: see `gptq.round_rows`.
        progress: receives the share that is done.
        staying: format -> modules that it does not support (`quantizing.unsupported`).
        only: layers whose modules are rounded, all by default; the weights are the same bit for bit.

    Raises:
        NonFiniteError: an activation or a weight is NaN or infinite; the message names the module.
    """
    found = {name: Calibrated() for name in formats}
    last = max(range(len(structure.decoder_layers(model))) if only is None else only, default=0)
    for at, made in enumerate(by_layer(model, formats, batches, dtype, damping, staying, only)):
        for name, calibrated in made.items():
            found[name].weights.update(calibrated.weights)
            found[name].fallbacks.update(calibrated.fallbacks)
        progress((at + 1) / (last + 1))
    return found


@torch.no_grad()
def by_layer(
    model: PreTrainedModel,
    formats: Sequence[str],
    batches: Sequence[Batch],
    dtype: torch.dtype,
    damping: float = DAMPING,
    staying: Mapping[str, Collection[str]] | None = None,
    only: Collection[int] | None = None,
) -> Iterator[dict[str, Calibrated]]:
    """What `separately` makes, layer after layer: nothing of a layer is kept for the next but the hidden states that leave it."""
    layers, all_modules = list(structure.decoder_layers(model).values()), structure.quantizable_modules(model)
    wanted = range(len(layers)) if only is None else only
    modules = {name: layer for name, layer in all_modules.items() if layer in wanted}
    stays = staying or {}
    pairs = [(name, format_) for format_ in formats for name in modules if name not in stays.get(format_, ())]
    importances = _importances(model, pairs, batches)
    fed_back = [format_ for format_ in formats if Format.of(format_).method == FED_BACK]
    entering = Entering([() for _ in batches])
    for at in range(max(wanted, default=-1) + 1):
        found = {name: Calibrated() for name in formats}
        _weigh(model, [(name, format_) for name, format_ in pairs if modules[name] == at], importances, dtype, found)
        if fed_back:
            names = [name for name, layer in modules.items() if layer == at]
            moments, entering = moments_of(model, layers, names, entering, batches)
            for moment, together in _groups(moments, names):
                chosen = [(name, format_) for format_ in fed_back for name in together if name not in stays.get(format_, ())]
                rounded = _round(model, chosen, moment, dtype, damping) if chosen else []
                for (name, format_), (weight, why) in zip(chosen, rounded, strict=True):
                    _put(found[format_], name, weight, why)
        yield found


@torch.no_grad()
def in_sequence(
    model: PreTrainedModel,
    assignment: Mapping[str, str],
    batches: Sequence[Batch],
    dtype: torch.dtype,
    damping: float = DAMPING,
    progress: Progress = silent,
) -> Calibrated:
    """Round a whole assignment, each layer on the activations of the rounded layers before it, towards the reference's outputs.

    Args:
        model: the reference in its compute dtype; unchanged afterwards.
        assignment: module name -> stock or calibrated format; other modules keep the reference's format.
        batches: the calibration set.
        dtype: storage dtype of scales and shifts.
        damping: see `gptq.round_rows`.
        progress: receives the share that is done.

    Raises:
        NonFiniteError: as `separately`.
    """
    found = Calibrated()
    layers, modules = list(structure.decoder_layers(model).values()), structure.quantizable_modules(model)
    every = list(assignment.items())
    _weigh(model, every, _importances(model, every, batches), dtype, dict.fromkeys(assignment.values(), found))
    fed_back = [name for name, format_ in assignment.items() if Format.of(format_).method == FED_BACK]
    for name in set(assignment) - set(found.weights) - set(fed_back):
        _put(found, name, _stock(model, name, assignment[name], dtype), None)
    entering = Entering.first(batches)
    with ExitStack() as changed:
        for at in range(len(layers)) if fed_back else ():
            names = [name for name in assignment if modules.get(name) == at]
            calibrated = [name for name in names if name in fed_back]
            moments, leaving = moments_of(model, layers, calibrated, entering, batches)
            for moment, together in _groups(moments, calibrated):
                pairs = [(name, assignment[name]) for name in together]
                for name, (weight, why) in zip(together, _round(model, pairs, moment, dtype, damping), strict=True):
                    _put(found, name, weight, why)
            if names:
                changed.enter_context(swapped(model, {name: found.weights[name] for name in names}))
                leaving = Entering(through(model, layers, entering.now, batches), leaving.reference)
            entering = leaving
            progress((at + 1) / len(layers))
    return found


def _importances(model: PreTrainedModel, pairs: Iterable[tuple[str, str]], batches: Sequence[Batch]) -> dict[str, Importance]:
    """The importance of the modules of those (module, format) pairs whose format takes an importance matrix."""
    names = list(dict.fromkeys(name for name, format_ in pairs if Format.of(format_).method == WEIGHED))
    return importance_of(model, names, batches) if names else {}


def _weigh(
    model: PreTrainedModel,
    pairs: Iterable[tuple[str, str]],
    importances: Mapping[str, Importance],
    dtype: torch.dtype,
    found: Mapping[str, Calibrated],
) -> None:
    """Round those (module, format) pairs whose format takes an importance matrix, each as if alone, and put them under their format."""
    for name, format_ in pairs:
        if Format.of(format_).method == WEIGHED:
            _put(found[format_], name, *_weighed(model, name, format_, importances.get(name), dtype))


def _weighed(
    model: PreTrainedModel, name: str, format_: str, importance: Importance | None, dtype: torch.dtype
) -> tuple[Packed, str | None]:
    if importance is None:
        return _stock(model, name, Format.of(format_).stock.name, dtype), "no token reached it"
    weight = model.get_parameter(f"{name}.weight").detach().to(dtype)
    return registry.of(format_).weigh(weight, importance.mean, Format.of(format_)), None


def _put(found: Calibrated, name: str, weight: Packed, why: str | None) -> None:
    found.weights[name] = weight
    if why is not None:
        found.fallbacks[name] = why


def _groups(moments: Mapping[str, Moment], names: Sequence[str]) -> list[tuple[Moment | None, list[str]]]:
    """Modules with the same inputs, grouped, and each module that never ran on its own."""
    return [*shared(moments).values(), *((None, [name]) for name in names if name not in moments)]


def _round(
    model: PreTrainedModel, pairs: Sequence[tuple[str, str]], moment: Moment | None, dtype: torch.dtype, damping: float
) -> list[tuple[Packed, str | None]]:
    """The weights of (module, calibrated format) pairs with the same inputs, and the reason if they fall back to the stock format."""
    width = model.get_parameter(f"{pairs[0][0]}.weight").shape[1]
    tokens = moment.tokens if moment else 0
    if moment is None or tokens < width:
        why = f"{tokens} tokens reached it, and {width} input features need at least as many"
        return [(_stock(model, name, Format.of(format_).stock.name, dtype), why) for name, format_ in pairs]
    found: dict[tuple[str, str], Packed] = {}
    for grid, alike in _by_grid(pairs, width).items():
        found |= zip(alike, _fed_back(model, alike, moment, grid, dtype, damping), strict=True)
    return [(found[pair], None) for pair in pairs]


def _by_grid(pairs: Sequence[tuple[str, str]], width: int) -> dict[tuple[int, bool], list[tuple[str, str]]]:
    """Columns that share a scale, whether zeros are whole -> pairs; their rows are rounded together, also where their bits differ."""
    found: dict[tuple[int, bool], list[tuple[str, str]]] = {}
    for name, format_ in pairs:
        found.setdefault((group_size(format_, width) or width, registry.of(format_).whole_zeros), []).append((name, format_))
    return found


def _fed_back(
    model: PreTrainedModel, pairs: Sequence[tuple[str, str]], moment: Moment, grid: tuple[int, bool], dtype: torch.dtype, damping: float
) -> list[Packed]:
    """The weights of (module, format) pairs with the same inputs and grid (`_by_grid`), rounded with error feedback."""
    weights = [model.get_parameter(f"{name}.weight").detach() for name, _ in pairs]
    bits = [format_bits(format_) for _, format_ in pairs]
    rows = [len(weight) for weight in weights]
    home, device = weights[0].device, moment.total.device  # where the weights are stored, and where they ran
    levels = torch.cat([torch.full((count,), 2.0**width - 1, device=device) for count, width in zip(rows, bits, strict=True)])
    try:
        hessian = moment.total.double()
        wanted = torch.cat(weights).to(device).float()
        if moment.drift.any():
            wanted = towards(wanted, hessian, moment.drift.double(), damping)
        size, whole = grid
        rounded = round_rows(wanted, hessian, levels, size, dtype, damping, whole=whole).to(home)
    except NonFiniteError as error:
        raise NonFiniteError(f"{pairs[0][0]}: {error}") from error
    starts = [sum(rows[:number]) for number in range(len(rows))]
    return [
        registry.of(format_).pack(rounded.rows(start, start + count), Format.of(format_))
        for start, count, (_, format_) in zip(starts, rows, pairs, strict=True)
    ]


def _stock(model: PreTrainedModel, name: str, format_: str, dtype: torch.dtype) -> Packed:
    return quantized_alone(model.get_parameter(f"{name}.weight").detach().to(dtype), format_, model.device)
