"""Measures the effect of quantizing one unit on the whole model, end to end: KL(reference || changed model), in nats.

Method ``exact``: one pass per batch keeps the input hidden states of every layer; each (unit, format) then swaps in the quantized weights
and runs only the layers from the changed one on. Nothing before the change is recomputed, and memory is bounded by a batch. A sweep can
start from a *base*, a model in which other units are already changed, to measure combined effects.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from bitzones.backends.backend_protocol import Packed, Weight
from bitzones.backends.weights import values as values_of
from bitzones.data.sequences import Batch, SequenceSet
from bitzones.evaluation.kl import as_log_probabilities, kl_nats, log_probabilities
from bitzones.evaluation.layer_replay import Passed, entered_at, passed
from bitzones.evaluation.sampled_kl import KlMeter, entering_head, meter
from bitzones.evaluation.swapping import swapped
from bitzones.models import structure
from bitzones.models.units import Granularity
from bitzones.schema.profile_sections import HeadUse
from bitzones.schema.progress import Progress, silent
from bitzones.schema.sensitivity_cells import SensitivityCell, StopReason, Unit, UnitSensitivity
from bitzones.sensitivity.variants import Variants

__all__ = ["NOT_FINITE", "Candidate", "Sweep", "exact", "exact_cell", "measurement"]

NOT_FINITE = "the changed model's logits are NaN or infinite"
"""Why a candidate has no KL."""


@dataclass(frozen=True)
class Candidate:
    """A change to measure: module name -> quantized or dense weight, with no module before ``layer``.

    ``layer`` is None if all of them are after the last layer, as the head is.
    """

    layer: int | None
    weights: Mapping[str, Weight]


@dataclass(frozen=True)
class Sweep:
    """KL(reference || model) per sequence, in nats summed over its tokens, of the ``base`` and of each candidate.

    A candidate whose logits are NaN or infinite is None. ``variances`` are those that the candidates' KLs have from sampling the head, in
    nats squared: 0 where it was computed whole.
    """

    base: list[float]
    candidates: list[list[float] | None]
    variances: list[list[float]] = field(default_factory=list)

    def found(self, number: int | None) -> tuple[list[float] | None, tuple[float, ...] | None]:
        """KL of a candidate, and its variance from sampling where there is any; neither where it has no KL, or is none of these."""
        kl = None if number is None else self.candidates[number]
        variance = () if number is None or kl is None or not self.variances else tuple(self.variances[number])
        return kl, variance if any(variance) else None


@torch.no_grad()
def exact(
    model: torch.nn.Module,
    layers: Sequence[torch.nn.Module],
    candidates: Sequence[Candidate],
    batches: Iterable[Batch],
    sequences: int,
    progress: Progress = silent,
    base: Mapping[str, Weight] | None = None,
    head: HeadUse = "whole",
) -> Sweep:
    """KL(reference || candidate) of every candidate, each applied alone on top of the base.

    Args:
        model: the reference; bit-for-bit unchanged afterwards, also when interrupted.
        layers: its decoder layers, in order.
        candidates: the changes to measure.
        batches: the sequences.
        sequences: total number of sequences.
        progress: receives the share that is done.
        base: weights that are changed for every candidate, unless the candidate has its own; nothing if None.
        head: ``sampled`` estimates a candidate's KL from some rows of the head where that is enough (`sampled_kl`). On a batch it does not
            depend on other candidates and batches.

    Raises:
        NonFiniteError: the logits of the reference or of the base are NaN or infinite.
    """
    made = Sweep([0.0] * sequences, [[0.0] * sequences for _ in candidates], [[0.0] * sequences for _ in candidates])
    broken: set[int] = set()
    based = {name: values_of(weight, model.get_parameter(f"{name}.weight").dtype) for name, weight in (base or {}).items()}
    for batch in batches:
        reference = log_probabilities(model, batch) if based else None
        with swapped(model, based):
            pass_, kl, measuring = _anchored(model, layers, batch, reference, head)
            if kl is not None:
                _put(made.base, batch, kl)
            for number, candidate in enumerate(candidates):
                start = len(layers) if candidate.layer is None else candidate.layer
                with swapped(model, candidate.weights), entered_at(layers, pass_.before(start)):
                    found = measuring.measured(candidate.weights)
                if not torch.isfinite(found.nats).all():
                    broken.add(number)
                _put(made.candidates[number] or [], batch, found.nats)
                _put(made.variances[number], batch, found.variance)
                progress((min(batch.index) + (number + 1) / len(candidates) * len(batch.index)) / sequences)
    kept = [None if number in broken else values for number, values in enumerate(made.candidates)]
    return Sweep(made.base, kept, made.variances)


def _anchored(
    model: torch.nn.Module, layers: Sequence[torch.nn.Module], batch: Batch, reference: torch.Tensor | None, head: HeadUse
) -> tuple[Passed, torch.Tensor | None, KlMeter]:
    """One pass over the model as it is now: what it went through, its KL if it is not the reference, and what measures changes of it."""
    with entering_head(model) as entered:
        pass_, logits = passed(model, layers, batch)
    log_q = as_log_probabilities(logits, batch)
    del logits  # as large as everything else that is kept
    kl = None if reference is None else kl_nats(reference, log_q, batch.mask)
    return pass_, kl, meter(model, batch, log_q if reference is None else reference, log_q, entered if head == "sampled" else ())


def _put(results: list[float], batch: Batch, values: torch.Tensor) -> None:
    for index, value in zip(batch.index, values.tolist(), strict=True):
        results[index] = value


def exact_cell(
    variants: Variants,
    units: Sequence[Unit],
    granularity: Granularity,
    sequence_set: SequenceSet,
    batches: Iterable[Batch],
    progress: Progress,
    head: HeadUse = "whole",
) -> SensitivityCell:
    """The record of `exact` for every unit and every format of the run."""
    pairs = [(unit, variant) for unit in units for variant in variants.uniform]
    measured = [(unit, variant) for unit, variant in pairs if variants.taken_by(unit, variants.formats[variant])]
    sweep = exact(
        variants.reference,
        list(structure.decoder_layers(variants.reference).values()),
        [Candidate(unit.layer, variants.weights(unit, variant)) for unit, variant in measured],
        batches,
        len(sequence_set.sequences),
        progress,
        head=head,
    )
    places = {(unit.name, variant): number for number, (unit, variant) in enumerate(measured)}
    return SensitivityCell(
        variant=variants.reference_id,
        method="exact",
        granularity=granularity,
        sequences_sha256=sequence_set.sha256,
        sequence_tokens=sequence_set.sequence_tokens,
        passed_over=sequence_set.passed_over,
        units=tuple(units),
        measurements=tuple(
            measurement(variants, unit, variant, variants.weights(unit, variant), *sweep.found(places.get((unit.name, variant))))
            for unit, variant in pairs
        ),
    )


def measurement(
    variants: Variants,
    unit: Unit,
    variant: str,
    weights: Mapping[str, Packed],
    kl: Sequence[float] | None,
    variance: tuple[float, ...] | None = None,
    stopped: StopReason | None = None,
) -> UnitSensitivity:
    """The record of one unit in one format.

    Args:
        weights: its quantized weights.
        kl: of each sequence; None where its logits are not finite or it stays.
        variance: that each has from sampling rows of the head; None where it was computed whole.
        stopped: why it was not measured on all sequences.
    """
    name = variants.formats[variant]
    stays = [module for module in unit.modules if module not in weights]
    dense = [variants.loaded.model.get_parameter(f"{module}.weight") for module in stays]
    return UnitSensitivity(
        unit=unit.name,
        format=name,
        stored_bytes=sum(weight.stored_bytes for weight in weights.values()) + sum(weight.nbytes for weight in dense),
        group_sizes=tuple(packed.group_size for packed in weights.values()),
        kl_nats=None if kl is None else tuple(kl),
        weight_error=_weight_error(variants, unit, weights) if weights else None,
        failure=None if kl is not None else NOT_FINITE if weights else variants.staying[name][unit.modules[0]],
        stays=tuple(stays),
        sampling_variance=variance,
        stopped=stopped,
    )


def _weight_error(variants: Variants, unit: Unit, weights: Mapping[str, Packed]) -> float | None:
    """||W - quantized W|| / ||W|| (Frobenius) over all weights of the unit; None if a quantized weight overflowed."""
    lost = total = 0.0
    for name in unit.modules:
        weight = variants.reference.get_parameter(f"{name}.weight")
        values = values_of(weights.get(name, weight), weight.dtype)
        lost += float((weight - values).float().square().sum(dtype=torch.float64))
        total += float(weight.float().square().sum(dtype=torch.float64))
    error = (lost / total) ** 0.5 if total else 0.0
    return error if math.isfinite(error) else None
