"""A duet: two environments that measured in turn, quadruple by quadruple. Raw times only; `bitzones.regression.duet_verdicts` judges them.

A duet file has its own schema number. The same cells stand in the run file of ``pytest bench/ --bitzones-duet=OLD``.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from bitzones.schema.cell_key import CellKey
from bitzones.schema.cells import Cell, FailedCell
from bitzones.schema.profile_sections import Gate
from bitzones.schema.record import Count, Measured, NonNegative, Positive, Record
from bitzones.schema.run_record import Run

__all__ = ["DUET_SCHEMA", "DuetCell", "DuetFile", "DuetSide", "Quadruples"]

DUET_SCHEMA = 1

Seconds = Annotated[float, Field(gt=1e-9, le=1e6, allow_inf_nan=False)]
Four = tuple[Seconds, Seconds, Seconds, Seconds]
Waits = tuple[NonNegative, NonNegative, NonNegative, NonNegative]


class Quadruples(Record):
    """Four rounds at a time, two of each side, in an order that a coin chose: A is the old side and B the new one.

    ``rounds_s`` has each round in the order in which it ran: the median of its calls, less the time for which the call was ready to run and
    another process had the core. ``queued_s`` is that time, 0 where the system does not tell.
    """

    orders: tuple[Literal["ABBA", "BAAB"], ...] = ()
    rounds_s: tuple[Four, ...] = ()
    queued_s: tuple[Waits, ...] = ()

    @model_validator(mode="after")
    def _one_each(self) -> Quadruples:
        if not len(self.orders) == len(self.rounds_s) == len(self.queued_s):
            raise ValueError("orders, rounds_s and queued_s differ in length")
        return self

    def __len__(self) -> int:
        return len(self.orders)

    def of(self, side: Literal["A", "B"]) -> tuple[float, ...]:
        """The rounds of one side, in order."""
        return tuple(
            took for order, rounds in zip(self.orders, self.rounds_s, strict=True) for who, took in zip(order, rounds, strict=True) if who == side
        )

    @property
    def differences(self) -> tuple[float, ...]:
        """Of each quadruple, the mean logarithm of the new side's rounds less that of the old side's."""
        return tuple(
            sum((1 if who == "B" else -1) * math.log(took) for who, took in zip(order, rounds, strict=True)) / 2
            for order, rounds in zip(self.orders, self.rounds_s, strict=True)
        )


class DuetCell(Measured):
    """One timed cell of a duet: what ``of``, ``variant`` and ``detail`` name in a run, and for matrix products the first of the units.

    ``first`` was measured until it was decided or ``limit_s`` was over. A change was measured again by new processes (``again``), beside
    the new side against itself (``control``). ``family`` is the number of cells among which the error is shared; ``calls`` is that of
    each round. ``against`` has the old side's versions.
    """

    kind: Literal["duet"] = "duet"
    of: Literal["latency", "unit_latency"]
    detail: str
    calls: Positive
    family: Positive
    limit_s: NonNegative
    took_s: NonNegative
    first: Quadruples
    again: Quadruples | None = None
    control: Quadruples | None = None
    against: dict[str, str] = {}

    @property
    def judged(self) -> CellKey:
        """The cell of a run that this one is about."""
        return CellKey(self.of, self.variant, self.detail)

    @property
    def _detail(self) -> str:
        return f"{self.of} {self.detail}"


class DuetSide(Record):
    """One side: how it was named, whose source measured there (``own`` or ``given``: that of the driver), and what is no time."""

    spec: str
    source: Literal["own", "given"]
    run: Run
    cells: tuple[Cell, ...] = ()

    @property
    def releases(self) -> dict[str, str]:
        """Versions that may be the cause of a difference."""
        return {"bitzones": self.run.bitzones, **(self.run.environment.versions if self.run.environment else {})}


class DuetFile(Record):
    """Everything that a duet measured.

    ``way`` is how both sides measured: as a run does (``session``), or with calls that older releases know too (``basic``). ``cores`` are
    those that both sides shared, none where they were not pinned. ``in_turn`` is true where memory held one model only. ``aa`` is true
    where both sides are the same. ``stopped`` says why it ended early; empty where it did not.
    """

    schema_number: Literal[1] = Field(default=DUET_SCHEMA, alias="schema")
    bitzones: str
    measured_at: str
    took_s: NonNegative
    old: DuetSide
    new: DuetSide
    gate: Gate
    seed: Count
    way: Literal["session", "basic"]
    threads: Count
    cores: tuple[Count, ...] = ()
    in_turn: bool = False
    aa: bool = False
    cells: tuple[DuetCell, ...]
    failed: tuple[FailedCell, ...] = ()
    stopped: str = ""
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)
