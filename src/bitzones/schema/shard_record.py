"""A sweep in pieces: what all pieces share, the blocks that were measured, and the file of one shard.

A *candidate* is a unit in a format that quantizes some of it, numbered in the order of the sweep's cell. A *block* is a batch of sequences
with a range of consecutive candidates: what is measured at a time, on any machine, with the same result.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isclose
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from bitzones.schema.errors import RunFileError
from bitzones.schema.record import Count, Line, NonNegative, Positive, Record
from bitzones.schema.run_record import Run
from bitzones.schema.sensitivity_cells import SensitivityCell, Unit, UnitSensitivity

__all__ = ["Block", "MeasuredBlock", "Shard", "SweepLayout"]


BY_SEQUENCE = ("kl_nats", "sampling_variance")
"""Fields of a measurement that have a value for each sequence."""

SAME_ERROR = 1e-4
"""Most relative difference between two errors of the same weights: another processor sums in another order."""


class Block(Record):
    """A batch, by its number, and the candidates from ``first`` to the one before ``end``."""

    batch: Count
    first: Count
    end: Count

    def __str__(self) -> str:
        return f"batch {self.batch}, candidates {self.first} to {self.end - 1}"


class MeasuredBlock(Line):
    """A block and what came out: a measurement of each candidate whose ``kl_nats`` are those of the batch's sequences, in its order."""

    what: ClassVar[str] = "blocks"

    block: Block
    measurements: tuple[UnitSensitivity, ...] = Field(min_length=1)
    seconds_s: NonNegative

    @property
    def key(self) -> str:
        return str(self.block)


class SweepLayout(Record):
    """What all blocks of a sweep share.

    ``batches`` are places in the sensitivity set; ``stays`` are the measurements of units that a format leaves as they are, which no block
    has.
    """

    variant: str
    granularity: Literal["layer", "group", "module"]
    sequences_sha256: str
    sequence_tokens: tuple[Count, ...] = Field(min_length=1)
    passed_over: Count
    units: tuple[Unit, ...] = Field(min_length=1)
    formats: tuple[str, ...]
    stays: tuple[UnitSensitivity, ...]
    batches: tuple[tuple[Count, ...], ...]

    @property
    def candidates(self) -> tuple[tuple[str, str], ...]:
        """Unit and format of every candidate, in order."""
        left_out = {(item.unit, item.format) for item in self.stays}
        return tuple(pair for pair in self._pairs if pair not in left_out)

    @property
    def _pairs(self) -> tuple[tuple[str, str], ...]:
        return tuple((unit.name, format_) for unit in self.units for format_ in self.formats)

    def cell(self, blocks: Iterable[MeasuredBlock]) -> SensitivityCell:
        """The cell that the sweep gives as a whole.

        Raises:
            RunFileError: a candidate lacks a batch, has one twice, or was quantized differently in two blocks; the message names it.
        """
        found: dict[tuple[str, str], dict[int, UnitSensitivity]] = {pair: {} for pair in self.candidates}
        for measured in blocks:
            for item in measured.measurements:
                self._put(found, measured.block.batch, item)
        whole = {(item.unit, item.format): item for item in self.stays}
        whole |= {pair: self._joined(parts) for pair, parts in found.items() if self._complete(pair, parts)}
        return SensitivityCell(
            variant=self.variant,
            method="exact",
            granularity=self.granularity,
            sequences_sha256=self.sequences_sha256,
            sequence_tokens=self.sequence_tokens,
            passed_over=self.passed_over,
            units=self.units,
            measurements=tuple(whole[pair] for pair in self._pairs),
        )

    def _put(self, found: dict[tuple[str, str], dict[int, UnitSensitivity]], batch: int, item: UnitSensitivity) -> None:
        parts = found.get((item.unit, item.format))
        where = f"{item.unit} at {item.format}, batch {batch}"
        if parts is None or batch >= len(self.batches):
            raise RunFileError(f"{where}: no part of this sweep")
        if batch in parts:
            raise RunFileError(f"{where}: measured twice")
        if item.kl_nats is not None and len(item.kl_nats) != len(self.batches[batch]):
            raise RunFileError(f"{where}: {len(item.kl_nats)} sequences, the batch has {len(self.batches[batch])}")
        parts[batch] = item

    def _complete(self, pair: tuple[str, str], parts: dict[int, UnitSensitivity]) -> bool:
        if lacking := sorted(set(range(len(self.batches))) - set(parts)):
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise RunFileError(f"{pair[0]} at {pair[1]}: batch {lacking[0]}{more} of {len(self.batches)} not measured")
        return True

    def _joined(self, parts: dict[int, UnitSensitivity]) -> UnitSensitivity:
        """One measurement of those on every batch; without a KL if one of them has none."""
        first = parts[0]
        if not all(_made_alike(first, item) for item in parts.values()):
            raise RunFileError(f"{first.unit} at {first.format}: two shards quantized it differently, so that they do not belong together")
        if broken := next((item for item in parts.values() if item.kl_nats is None), None):
            return broken
        whole = {field: self._by_sequence({batch: getattr(item, field) for batch, item in parts.items()}) for field in BY_SEQUENCE}
        return UnitSensitivity.model_validate({**first.model_dump(), **whole})

    def _by_sequence(self, parts: dict[int, tuple[float, ...] | None]) -> tuple[float, ...] | None:
        """Values of all sequences, from those of each batch: 0 where a batch has none, and none where no batch has any."""
        if all(values is None for values in parts.values()):
            return None
        whole = [0.0] * len(self.sequence_tokens)
        for batch, values in parts.items():
            for place, value in zip(self.batches[batch], values or (0.0,) * len(self.batches[batch]), strict=True):
                whole[place] = value
        return tuple(whole)


def _made_alike(one: UnitSensitivity, other: UnitSensitivity) -> bool:
    """Whether two measurements are of the same quantized weights, by what they record of them."""
    plain = [(item.stored_bytes, item.group_sizes, item.stays) for item in (one, other)]
    errors = one.weight_error or 0.0, other.weight_error or 0.0
    return plain[0] == plain[1] and isclose(*errors, rel_tol=SAME_ERROR)


class Shard(Record):
    """The file of shard ``number`` of ``of``: everything that results depend on, what it shares with the others, and its blocks."""

    format: Literal["bitzones-shard"] = "bitzones-shard"
    schema_number: Literal[1] = Field(default=1, alias="schema")
    number: Positive
    of: Positive
    fingerprint: dict[str, Any]
    run: Run
    layout: SweepLayout
    blocks: tuple[MeasuredBlock, ...]
    measured_at: str
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    @property
    def seconds_s(self) -> float:
        """That its blocks took."""
        return sum(measured.seconds_s for measured in self.blocks)
