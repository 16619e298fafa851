"""Every figure over the runs of a folder, and where it changed.

A change point is a figure that `compare` calls worse or better than in the run before, so that a trend and the gate never disagree.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from bitzones.analysis.reader import RunFile
from bitzones.regression.compare import compare
from bitzones.regression.comparison import Comparison
from bitzones.regression.drift import drift, timed
from bitzones.regression.duet_changes import Duets, duets_of, is_of
from bitzones.regression.metrics import Reading, readings
from bitzones.schema.cell_key import CellKey
from bitzones.schema.duet_record import DuetFile
from bitzones.schema.errors import RunFileError
from bitzones.schema.profile_sections import Gate
from bitzones.schema.record import Record

__all__ = ["Point", "Trend", "trend"]


class Point(Record):
    """One figure of one run. ``change`` is worse or better than in the run before, or empty."""

    run: int
    reading: Reading
    change: str = ""


class Trend(Record):
    """Runs, oldest first: when, and what stood in them that another run had otherwise; and every figure of them."""

    runs: tuple[str, ...]
    releases: tuple[str, ...]
    points: tuple[Point, ...]

    @property
    def changes(self) -> tuple[Point, ...]:
        """The change points."""
        return tuple(point for point in self.points if point.change)


def trend(runs: Iterable[RunFile], gate: Gate | None = None, duets: Iterable[DuetFile] = ()) -> Trend:
    """The figures of runs in the order given, oldest first. Where a duet is of two neighbors, it judges their times.

    Raises:
        RunFileError: there are fewer than two runs.
    """
    found = list(runs)
    if len(found) < 2:
        raise RunFileError(f"a trend takes two runs or more, and there {'is one' if found else 'is none'}")
    points: list[Point] = []
    times, played = [timed(run) for run in found], list(duets)
    compared = [
        None,
        *(
            compare(old, new, gate or new.run.profile.gate, drift(times[number], times[:number]), _between(old, new, played))
            for number, (old, new) in enumerate(pairwise(found), 1)
        ),
    ]
    for number, (run, before) in enumerate(zip(found, compared, strict=True)):
        changed = _changed(before) if before is not None else {}
        points += [Point(run=number, reading=reading, change=changed.get(reading.cell, "")) for reading in readings(run)]
    releases = tuple("; ".join(item.differences) if item is not None else "" for item in compared)
    return Trend(runs=tuple(run.measured_at or run.path for run in found), releases=releases, points=tuple(points))


def _between(old: RunFile, new: RunFile, played: Iterable[DuetFile]) -> Duets:
    """What the last duet of two runs' releases says."""
    return next((duets_of(file) for file in sorted(played, key=lambda file: file.measured_at, reverse=True) if is_of(file, old, new)), {})


def _changed(comparison: Comparison) -> dict[CellKey, str]:
    """Of a cell that has several metrics the one counts that a reading is made of, the first."""
    return {cell.key: cell.metrics[0].status for cell in comparison.cells if cell.metrics and cell.metrics[0].status in {"worse", "better"}}
