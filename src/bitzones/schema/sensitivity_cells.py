"""Units of decision and their sensitivities: measured exactly, and estimated by the Fisher proxy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from bitzones.schema.record import Count, Finite, Layers, Measured, NonNegative, Positive, Record

__all__ = ["AdaptiveSweep", "FisherCell", "SensitivityCell", "StopReason", "Unit", "UnitScores", "UnitSensitivity"]

StopReason = Literal["never taken", "always taken", "zone settled"]
"""Why a format of a unit was not measured on all sequences: hardly any plan took it, almost all did, or no zone depends on it any more."""


class Unit(Record):
    """A unit of decision: modules that are quantized together.

    ``layer`` is null for a unit after all layers, such as the head. ``weight_kurtosis`` is the fourth standardized moment of all its
    weights, 3 for a normal distribution; null if it was not computed. ``fused`` is the group of modules into which serving engines fuse a
    unit of one module; null for larger units.
    """

    name: str
    layer: Layers | None
    group: str | None = None
    modules: tuple[str, ...]
    parameters: Count
    reference_bytes: Count
    weight_kurtosis: NonNegative | None = None
    fused: str | None = None


class UnitSensitivity(Record):
    """The KL of the whole model after quantizing one unit to one format.

    ``kl_nats`` is the sum over the scored tokens of each sensitivity sequence, in the order of `SensitivityCell.sequence_tokens`; null with
    a ``failure`` if it could not be measured. An adaptive sweep has the first ones of `AdaptiveSweep.order`, and says in ``stopped`` why
    there are no more. ``weight_error`` is ||W - quantized W|| / ||W|| (Frobenius) over the unit's weights.
    ``stays`` names modules of the unit that stay in the reference's format, because no kernel supports them in this one
    (`ModelInfo.staying`); ``group_sizes`` are those of the others, in order. ``sampling_variance`` is the variance of each
    of ``kl_nats`` that comes from sampling rows of the head, in nats squared; null where all logits were computed. Each sequence has rows
    of its own, so an interval over sequences includes it.
    """

    unit: str
    format: str
    stored_bytes: Count
    group_sizes: tuple[int | None, ...]
    kl_nats: tuple[NonNegative, ...] | None
    weight_error: NonNegative | None = None
    failure: str | None = None
    stays: tuple[str, ...] = ()
    sampling_variance: tuple[NonNegative, ...] | None = None
    stopped: StopReason | None = None

    @model_validator(mode="after")
    def _measured_or_failed(self) -> UnitSensitivity:
        if (self.kl_nats is None) == (self.failure is None):
            raise ValueError("exactly one of kl_nats and failure must be given")
        if self.sampling_variance is not None and len(self.sampling_variance) != len(self.kl_nats or ()):
            raise ValueError("sampling_variance must have a value for each of kl_nats")
        return self

    def of_sequences(self, places: Sequence[int]) -> UnitSensitivity:
        """The same on some of the sequences."""
        parts = {"kl_nats": self.kl_nats, "sampling_variance": self.sampling_variance}
        return self.model_copy(update={key: tuple(part[place] for place in places) for key, part in parts.items() if part is not None})


class AdaptiveSweep(Record):
    """How a sweep was made that measured every unit and format on as many sequences as the plan and the zones needed.

    ``order`` are the places of the sequences in the order in which they were measured. ``looks`` are the sequences after each round.
    ``uniform_kl_nats`` is the KL of the whole model in a format, per sequence in the cell's order, from which estimates are made of what
    was not measured. ``regret_nats`` bounds, with 95% confidence, what the plan of least summed KL within ``budget`` costs above the one
    that measuring everything would give, in nats per token; ``budget`` is in bytes or nanoseconds.
    """

    order: tuple[Count, ...] = Field(min_length=1)
    looks: tuple[Positive, ...] = Field(min_length=1)
    uniform_kl_nats: dict[str, tuple[NonNegative, ...]]
    regret_nats: NonNegative
    budget: Count


class SensitivityCell(Measured):
    """KL(reference || model with only that unit quantized) for every unit and format; ``variant`` is the reference.

    ``passed_over`` counts train items that were skipped because they are longer than the model's positions. ``adaptive`` is null if
    everything was measured on all sequences.
    """

    kind: Literal["sensitivity"] = "sensitivity"
    method: Literal["exact"]
    granularity: Literal["layer", "group", "module"] = "layer"
    sequences_sha256: str
    sequence_tokens: tuple[Count, ...] = Field(min_length=1)
    passed_over: Count = 0
    units: tuple[Unit, ...] = Field(min_length=1)
    measurements: tuple[UnitSensitivity, ...]
    adaptive: AdaptiveSweep | None = None

    @property
    def places(self) -> tuple[int, ...]:
        """The places of the sequences in the order in which they were measured."""
        return tuple(range(len(self.sequence_tokens))) if self.adaptive is None else self.adaptive.order

    @property
    def measured_share(self) -> float:
        """Share of the KLs of units, formats and sequences that were measured and not estimated."""
        counts = [len(item.kl_nats) for item in self.measurements if item.kl_nats is not None]
        return sum(counts) / (len(counts) * len(self.sequence_tokens)) if counts else 1.0

    @model_validator(mode="after")
    def _consistent(self) -> SensitivityCell:
        if self.adaptive is not None:
            _check_adaptive(self.adaptive, len(self.sequence_tokens))
        names = {unit.name for unit in self.units}
        seen: set[tuple[str, str]] = set()
        for measured in self.measurements:
            where = f"{measured.unit} at {measured.format}"
            if measured.unit not in names:
                raise ValueError(f"{where} is not one of the units")
            if (measured.unit, measured.format) in seen:
                raise ValueError(f"{where} occurs twice")
            if measured.kl_nats is not None:
                _check_count(where, measured, len(self.sequence_tokens), partial=self.adaptive is not None)
            seen.add((measured.unit, measured.format))
        return self

    def of_sequences(self, places: Sequence[int], sha256: str) -> SensitivityCell:
        """The same sweep on some of the sequences: nothing is measured again. Only of a sweep that measured everything on all.

        Args:
            places: of the sequences in this cell's order.
            sha256: hash of these sequences.
        """
        assert self.adaptive is None, "a profile with plans by task or domain has no adaptive sweep"
        return self.model_copy(
            update={
                "sequences_sha256": sha256,
                "sequence_tokens": tuple(self.sequence_tokens[place] for place in places),
                "passed_over": 0,
                "measurements": tuple(item.of_sequences(places) for item in self.measurements),
            }
        )


def _check_adaptive(adaptive: AdaptiveSweep, sequences: int) -> None:
    if sorted(adaptive.order) != list(range(sequences)):
        raise ValueError("adaptive.order does not have every sequence once")
    for name, nats in adaptive.uniform_kl_nats.items():
        if len(nats) != sequences:
            raise ValueError(f"adaptive: {name} everywhere has {len(nats)} sequences, the cell has {sequences}")


def _check_count(where: str, measured: UnitSensitivity, sequences: int, *, partial: bool) -> None:
    count = len(measured.kl_nats or ())
    if count != sequences and not (partial and 0 < count < sequences):
        raise ValueError(f"{where} has {count} sequences, the cell has {sequences}")
    if (measured.stopped is None) != (count == sequences):
        raise ValueError(f"{where} has to say why it was measured on {count} of {sequences} sequences, and only then")


class UnitScores(Record):
    """The scores a of one unit in one format, by sample and then by sequence; mean(a^2)/2 estimates its KL in nats."""

    unit: str
    format: str
    nats: tuple[Finite, ...]


class FisherCell(Measured):
    """A second-order estimate of the KL of every unit in every format; sums of scores over units estimate plans with their interactions."""

    kind: Literal["fisher"] = "fisher"
    sequences_sha256: str
    sequence_tokens: tuple[Count, ...] = Field(min_length=1)
    samples: Positive
    units: tuple[Unit, ...] = Field(min_length=1)
    scores: tuple[UnitScores, ...]

    @model_validator(mode="after")
    def _consistent(self) -> FisherCell:
        names, wanted = {unit.name for unit in self.units}, self.samples * len(self.sequence_tokens)
        pairs = [(item.unit, item.format) for item in self.scores]
        if len(set(pairs)) < len(pairs):
            raise ValueError("a unit occurs twice at one format")
        for item in self.scores:
            if item.unit not in names:
                raise ValueError(f"{item.unit} is not one of the units")
            if len(item.nats) != wanted:
                raise ValueError(f"{item.unit} at {item.format} has {len(item.nats)} scores; samples times sequences are {wanted}")
        return self
