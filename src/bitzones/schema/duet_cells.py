"""Cells of a duet: two environments that measured in turn, quadruple by quadruple. Raw times; `regression.duet_verdicts` judges them."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from bitzones.schema.cell_key import CellKey
from bitzones.schema.record import Measured, NonNegative, Positive, Record

__all__ = ["DuetCell", "Quadruples"]

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
            took
            for order, rounds in zip(self.orders, self.rounds_s, strict=True)
            for who, took in zip(order, rounds, strict=True)
            if who == side
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
