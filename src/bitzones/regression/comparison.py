"""The result of `bitzones compare` as records: one status per cell, and every number that it rests on.

A file of these records (``--json``) has its own schema number.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from bitzones.analysis.plan import Around, ZoneWord
from bitzones.schema.cell_key import CellKey
from bitzones.schema.profile_sections import Gate
from bitzones.schema.record import Record
from bitzones.stats.intervals import Estimate

__all__ = ["STATUSES", "CellDelta", "Comparison", "MeasureUnit", "Metric", "Moved", "Repeats", "Side", "Status", "gravest"]

Status = Literal["failed", "missing", "worse", "inconclusive", "better", "new", "same", "incomparable"]
"""``inconclusive``: the spread is too large to see the tolerance. ``failed`` and ``missing`` are cells that the new run should have."""

STATUSES: tuple[Status, ...] = ("failed", "missing", "worse", "inconclusive", "better", "new", "same", "incomparable")
"""From the gravest to the one that says least: a cell has the first of those of its metrics."""

MeasureUnit = Literal["s", "share", "nats/token", "bytes", "ratio", "instructions"]


class Metric(Record):
    """One number of a cell, in both runs.

    ``change`` is new/old for times and bytes (``as_ratio``), else new - old, with a 95% interval where units were resampled. ``p`` is of
    being worse than the tolerance, corrected for all tests of its family. ``needed`` is how many ``units`` would have shown the
    tolerance with 80% power, where these could not.
    """

    name: str
    unit: MeasureUnit
    status: Status
    old: float | None = None
    new: float | None = None
    change: Estimate | None = None
    as_ratio: bool = False
    n: int | None = None
    units: Literal["rounds", "items", "sequences", "quadruples", "processes"] | None = None
    tolerance: float = 0.0
    p: float | None = None
    needed: int | None = None
    reason: str = ""


class CellDelta(Record):
    """One cell of either run. ``reason`` says in one line why it has its ``status``."""

    kind: str
    variant: str
    detail: str = ""
    status: Status
    reason: str
    metrics: tuple[Metric, ...] = ()

    @property
    def key(self) -> CellKey:
        """What the cell measures."""
        return CellKey(self.kind, self.variant, self.detail)


class Moved(Record):
    """A layer that has another zone than before."""

    layer: int
    old: ZoneWord
    new: ZoneWord


class Side(Record):
    """Which run is compared."""

    path: str
    measured_at: str | None
    bitzones: str
    model: str | None
    model_sha256: str | None
    machine: dict[str, str]
    versions: dict[str, str]


class Repeats(Record):
    """Runs of the same thing on this machine, and the standard deviation of the logarithm of the typical cell's median between them."""

    runs: int
    drift: float


class Comparison(Record):
    """Two runs, cell by cell in the order of the new run, what is missing from it last.

    ``differences`` are what may have caused them: model, profile, releases. ``other_machine`` says why times and the process's memory are
    not compared; ``moved`` is null where no zones can be told, for ``no_zones``. ``repeats`` is null where too few runs of the same thing
    were at hand: then intervals of times hold what differs within the two runs only. ``duets`` counts the cells whose times a duet judged.
    """

    schema_number: Literal[1] = Field(default=1, alias="schema")
    old: Side
    new: Side
    gate: Gate
    differences: tuple[str, ...]
    other_machine: str | None
    repeats: Repeats | None = None
    duets: int = 0
    cells: tuple[CellDelta, ...]
    moved: tuple[Moved, ...] | None
    no_zones: str | None
    zones_around: Around | None = None
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    def count(self, status: Status) -> int:
        """How many cells have this status."""
        return sum(cell.status == status for cell in self.cells)

    @property
    def compared(self) -> bool:
        """Whether anything at all could be compared: every cell is something else than incomparable or new somewhere."""
        return any(cell.status not in {"incomparable", "new"} for cell in self.cells)


def gravest(statuses: tuple[Status, ...]) -> Status:
    """The status of a cell with these metrics.

    >>> gravest(("same", "worse", "better")), gravest(("same", "incomparable"))
    ('worse', 'same')
    """
    return min(statuses, key=STATUSES.index)
