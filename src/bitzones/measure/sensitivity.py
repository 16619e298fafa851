"""What quantizing one part does to the whole model, measured end to end: KL(reference || changed), in nats.

Method ``exact``: one reference pass per batch keeps the hidden states that enter every layer; each (part, format) then swaps in the values
of the quantized weights and runs only the layers from the changed one on. Nothing before the change is computed again, and memory is
bounded by a batch. This module receives a model and weights; it does not know how they were quantized.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from bitzones.errors import NonFiniteError
from bitzones.measure import quantizers, structure
from bitzones.measure.calibration import Batch, Calibration
from bitzones.measure.parts import model_parts
from bitzones.measure.progress import Progress, silent
from bitzones.measure.variants import Variants
from bitzones.records import DivergenceCell, Part, PartSensitivity, SensitivityCell

__all__ = ["Candidate", "divergence_cell", "exact", "exact_cell", "kl_nats", "swapped", "whole"]


@dataclass(frozen=True)
class Candidate:
    """A change to measure: ``weights`` (module name -> dense values) of modules none of which lies before layer ``layer``."""

    layer: int
    weights: Mapping[str, torch.Tensor]


def kl_nats(reference: torch.Tensor, changed: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """KL(reference || changed) summed over the scored tokens of each sequence, in nats.

    Args:
        reference: log-probabilities, shape (sequences, length, vocabulary).
        changed: logits or log-probabilities, same shape.
        mask: 1 where a token is scored, shape (sequences, length).

    Returns:
        float64 of shape (sequences,): sum over tokens of sum_v p(v) (ln p(v) - ln q(v)), Kullback and Leibler 1951.
    """
    log_q = changed.float().log_softmax(-1)
    per_token = torch.where(mask.bool(), (reference.exp() * (reference - log_q)).sum(-1), 0.0)
    return per_token.double().sum(-1).clamp_min(0.0)  # equal distributions give a few -1e-7 by rounding


@contextmanager
def swapped(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Give the named modules other weights, and their own tensors back afterwards, also when interrupted."""
    originals: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
    try:
        for name, values in weights.items():
            parameter = model.get_submodule(name).weight
            assert isinstance(parameter, torch.nn.Parameter)
            if parameter.shape != values.shape:
                raise ValueError(f"{name}: weight of shape {tuple(parameter.shape)} cannot become {tuple(values.shape)}")
            originals.append((parameter, parameter.data))
            parameter.data = values
        yield
    finally:
        for parameter, values in originals:
            parameter.data = values


@torch.no_grad()
def exact(
    model: torch.nn.Module,
    layers: Sequence[torch.nn.Module],
    candidates: Sequence[Candidate],
    batches: Iterable[Batch],
    sequences: int,
    progress: Progress = silent,
) -> list[list[float] | None]:
    """KL of every candidate to the model as it is.

    Args:
        model: the reference; unchanged afterwards, bit for bit.
        layers: its decoder layers, in order.
        candidates: what to change, each measured alone.
        batches: the calibration set.
        sequences: how many sequences the batches hold together.

    Returns:
        For each candidate the KL of each sequence in nats (summed over its tokens, in the set's order), or None where the changed model
        gave NaN or infinity.

    Raises:
        NonFiniteError: the reference itself gives NaN or infinity.
    """
    results = [[0.0] * sequences for _ in candidates]
    broken: set[int] = set()
    for batch in batches:
        entering, reference = _reference_pass(model, layers, batch)
        for number, candidate in enumerate(candidates):
            with swapped(model, candidate.weights), _entered_at(layers, candidate.layer, entering[candidate.layer]):
                logits = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
            values = kl_nats(reference, logits, batch.mask)
            if not torch.isfinite(values).all():
                broken.add(number)
            for index, value in zip(batch.index, values.tolist(), strict=True):
                results[number][index] = value
            progress((min(batch.index) + (number + 1) / len(candidates) * len(batch.index)) / sequences)
    return [None if number in broken else values for number, values in enumerate(results)]


@torch.no_grad()
def whole(reference: torch.nn.Module, changed: torch.nn.Module, batches: Iterable[Batch], sequences: int) -> list[float]:
    """KL(reference || changed) of two whole models, per sequence as in `exact`.

    Raises:
        NonFiniteError: one of them gives NaN or infinity.
    """
    results = [0.0] * sequences
    for batch in batches:
        log_p = _log_probabilities(reference, batch)
        values = kl_nats(log_p, changed(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits, batch.mask)
        if not torch.isfinite(values).all():
            raise NonFiniteError("the quantized model's logits are NaN or infinite")
        for index, value in zip(batch.index, values.tolist(), strict=True):
            results[index] = value
    return results


def _log_probabilities(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    logits = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
    if not torch.isfinite(logits[batch.mask.bool()]).all():
        raise NonFiniteError("the reference's own logits are NaN or infinite: nothing can be compared with it")
    log_p: torch.Tensor = logits.float().log_softmax(-1)
    return log_p


def _reference_pass(model: torch.nn.Module, layers: Sequence[torch.nn.Module], batch: Batch) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Hidden states entering each layer, and the log-probabilities, of one unchanged pass."""
    entering: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entering.append(args[0] if args else kwargs["hidden_states"])

    handles = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in layers]
    try:
        return entering, _log_probabilities(model, batch)
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _entered_at(layers: Sequence[torch.nn.Module], start: int, hidden: torch.Tensor) -> Iterator[None]:
    """Make the model's own forward skip the layers before ``start`` and enter that one with ``hidden``.

    The model still prepares masks, positions and rotary tables itself, so nothing here depends on its architecture.
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


def divergence_cell(
    variant: str, reference: torch.nn.Module, changed: torch.nn.Module, calibration: Calibration, batches: Iterable[Batch]
) -> DivergenceCell:
    """The record of `whole` on a calibration set."""
    return DivergenceCell(
        variant=variant,
        calibration_sha256=calibration.sha256,
        sequence_tokens=calibration.sequence_tokens,
        kl_nats=tuple(whole(reference, changed, batches, len(calibration.sequences))),
    )


def exact_cell(variants: Variants, calibration: Calibration, batches: Iterable[Batch], progress: Progress) -> SensitivityCell:
    """The record of `exact` for every decoder layer and every format of the run."""
    parts = model_parts(variants.loaded.model)
    quantized = [variant for variant in variants.formats if variant != variants.reference_id]
    dense = {
        variant: {name: quantizers.dense(weight, variants.compute_dtype) for name, weight in variants.packed(variant).items()}
        for variant in quantized
    }
    pairs = [(part, variant) for part in parts for variant in quantized]
    results = exact(
        variants.reference,
        list(structure.decoder_layers(variants.reference).values()),
        [Candidate(part.layer, {name: dense[variant][name] for name in part.modules}) for part, variant in pairs],
        batches,
        len(calibration.sequences),
        progress,
    )
    return SensitivityCell(
        variant=variants.reference_id,
        method="exact",
        calibration_sha256=calibration.sha256,
        sequence_tokens=calibration.sequence_tokens,
        parts=parts,
        measurements=tuple(_measurement(variants, *pair, kl) for pair, kl in zip(pairs, results, strict=True)),
    )


def _measurement(variants: Variants, part: Part, variant: str, kl: list[float] | None) -> PartSensitivity:
    weights = [variants.packed(variant)[name] for name in part.modules]
    return PartSensitivity(
        part=part.name,
        format=variants.formats[variant],
        stored_bytes=sum(map(quantizers.stored_bytes, weights)),
        group_sizes=tuple(map(quantizers.group_size, weights)),
        kl_nats=None if kl is None else tuple(kl),
        failure="the changed model's logits are NaN or infinite" if kl is None else None,
    )
