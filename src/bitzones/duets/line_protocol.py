"""The line protocol between the driver of a duet and its two sides: one JSON object a line, a question and its answer.

    {"do": "hello"}                       protocol, bitzones, source (own or given), ways (how the side can measure)
    {"do": "load", "profile", "way"}      run (`bitzones.schema.run_record.Run`), cells (`TimedCell`)
    {"do": "prepare", "cell"}             shape, and the seconds of one warm call
    {"do": "round", "cell", "calls"}      calls: of each the seconds that passed, and those in which it waited for a core
    {"do": "checks"}                      cells that are no times: memory, accuracy, divergence
    {"do": "unload"}                      nothing; frees the model, "load" brings it back

A side that cannot answer says ``{"error": ..., "status": "failed" | "not measured"}`` and goes on; it ends when its input does.
"""

from __future__ import annotations

from typing import Literal

from bitzones.schema.cell_key import CellKey
from bitzones.schema.record import Record

__all__ = ["PROTOCOL", "TimedCell", "Way"]

PROTOCOL = 1
"""Raised when a question or an answer changes its meaning: sides of different numbers do not play together."""

Way = Literal["session", "basic"]
"""How a side measures: as a run does, or with basic calls that every release of quanto and transformers knows."""


class TimedCell(Record):
    """What one round times: a latency cell of a run, or the matrix products of units with the same shapes in a variant's format."""

    kind: Literal["latency", "unit_latency"]
    variant: str
    detail: str

    @property
    def key(self) -> CellKey:
        """The identity of the cell."""
        return CellKey(self.kind, self.variant, self.detail)
