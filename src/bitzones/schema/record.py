"""What every record of a run file is built from: the frozen base class, bounded numbers, and figures that may be missing.

A record rejects unknown keys, NaN and infinity, so that a bad run file fails when it is read and not in a report. Units are base units and
part of the field names: ``_bytes``, ``_s`` (seconds), ``_nats``.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bitzones.schema.cell_key import CellKey

__all__ = ["Figure", "Line", "Measured", "Record", "Shortage"]

LARGEST = 1e100
"""Largest accepted number: far beyond anything measurable, and small enough that sums of squares stay finite."""

MOST_LAYERS = 10_000
"""Most layers of a model: ten times the deepest published transformer (DeepNet, Wang et al. 2022)."""

Count = Annotated[int, Field(ge=0, le=2**60)]
Positive = Annotated[int, Field(ge=1, le=2**60)]
Layers = Annotated[int, Field(ge=0, le=MOST_LAYERS)]
Finite = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Record(BaseModel):
    """Base of all records: frozen, without unknown keys, NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Line(Record):
    """A finished piece of work, which a journal keeps as a line: ``key`` identifies it, ``what`` is the word for several."""

    what: ClassVar[str]

    @property
    def key(self) -> str:
        raise NotImplementedError


class Figure(Record):
    """A number that may be unavailable on a machine: ``value`` is null, never 0, unless ``status`` is ``ok``."""

    value: Finite | None
    unit: str
    status: str

    @model_validator(mode="after")
    def _null_unless_ok(self) -> Figure:
        if (self.value is None) == (self.status == "ok"):
            raise ValueError("value must be a number when status is 'ok' and null otherwise")
        return self


NOT_RECORDED = Figure(value=None, unit="bytes", status="not recorded")
"""A figure that older run files do not have."""


class Shortage(Record):
    """Memory that ran out at a batch size; bytes are null if neither the error nor the system reports them."""

    batch: Positive
    asked_bytes: Count | None = None
    free_bytes: Count | None = None


class Measured(Record):
    """Base of every cell."""

    schema_number: Literal[4] = Field(default=4, alias="schema")
    variant: str
    shortages: tuple[Shortage, ...] = ()
    """Batch sizes for which memory ran out before this one, largest first."""
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    @property
    def key(self) -> CellKey:
        """The identity of the cell: kind, variant and detail."""
        return CellKey(getattr(self, "kind", ""), self.variant, self._detail)

    @property
    def _detail(self) -> str:
        return ""
