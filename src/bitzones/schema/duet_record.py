"""A duet file: what two environments measured in turn, and what each measured besides that is no time. It has its own schema number.

The same cells stand in the run file of ``pytest bench/ --bitzones-duet=OLD``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from bitzones.schema.cells import Cell, FailedCell
from bitzones.schema.duet_cells import DuetCell
from bitzones.schema.profile_sections import Gate
from bitzones.schema.record import Count, NonNegative, Record
from bitzones.schema.run_record import Run

__all__ = ["DUET_SCHEMA", "DuetFile", "DuetSide"]

DUET_SCHEMA = 1


class DuetSide(Record):
    """One side: how it was named, whose source measured there (``own`` or ``given``: that of the driver), and what is no time."""

    spec: str
    source: Literal["own", "given"]
    run: Run
    cells: tuple[Cell, ...] = ()

    @property
    def releases(self) -> dict[str, str]:
        """Versions that may be the cause of a difference."""
        return self.run.releases


class DuetFile(Record):
    """Everything that a duet measured.

    ``way`` is how both sides measured: as a run does (``session``), or with calls that older releases know too (``basic``);
    ``counted`` where instructions of the deciding side were counted, which `InstructionsCell` of both sides has. ``cores`` are
    those that both sides shared, none where they were not pinned. ``in_turn`` is true where memory held one model only. ``aa`` is true
    where both sides are the same. ``stopped`` says why it ended early; empty where it did not.
    """

    schema_number: Literal[1] = Field(default=1, alias="schema")
    bitzones: str
    measured_at: str
    took_s: NonNegative
    old: DuetSide
    new: DuetSide
    gate: Gate
    seed: Count
    way: Literal["session", "basic", "counted"]
    threads: Count
    cores: tuple[Count, ...] = ()
    in_turn: bool = False
    aa: bool = False
    cells: tuple[DuetCell, ...]
    failed: tuple[FailedCell, ...] = ()
    stopped: str = ""
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)
