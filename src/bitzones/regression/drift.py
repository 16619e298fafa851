"""Drift between runs: how far a median moves when the same thing is run again, which no number of rounds within a run can show.

A shared machine has fast and slow hours, and a cell of sixty rounds sees one of them. Runs that differ in nothing (profile, model, machine,
releases) measure this; two runs alone cannot (Kalibera & Jones 2013, ISMM, "Rigorous benchmarking in reasonable time": repeat at the
highest level that has variance).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bitzones.analysis.contention import contended_by
from bitzones.analysis.reader import RunFile
from bitzones.regression.time_changes import Drifted, machine
from bitzones.schema.cell_key import CellKey
from bitzones.schema.performance_cells import LatencyCell
from bitzones.schema.profile import PLAN

__all__ = ["MIN_FREEDOM", "Drift", "Timed", "between", "drift", "medians", "timed"]

MIN_FREEDOM = 3
"""Runs, less one for each release: four of one release, or more of several. Student's t pays for how little so few say."""

Medians = Mapping[CellKey, float]
"""Logarithms of a run's medians."""


@dataclass(frozen=True)
class Drift:
    """Standard deviation of the logarithm of a median between ``runs`` runs of the same thing: of the typical cell, and by cell.

    ``freedom`` is that of the runs, not of their cells: a slow hour is slow for all of them.
    """

    runs: int
    freedom: int
    typical: float
    cells: Mapping[CellKey, float]

    def of(self, cell: LatencyCell) -> Drifted:
        """The larger of the cell's own and the typical: a cell's own rests on few runs, and some drift more than others."""
        return Drifted(max(self.typical, self.cells.get(cell.key, 0.0)), self.freedom)


@dataclass(frozen=True)
class Timed:
    """What a run says of its times: what was measured and on what, by which releases, and its medians."""

    subject: str
    release: str
    medians: Medians


def timed(run: RunFile) -> Timed:
    """A run's times. Without an environment they are of no known release, like which there is no other."""
    made = run.run
    subject = f"{run.settings_sha256} {made.model.sha256 if made.model else None} {sorted(machine(made.environment).items())}"
    release = f"{made.bitzones} {made.environment.model_dump_json() if made.environment else run.path}"
    return Timed(subject, release, medians(run.of(LatencyCell)))


def drift(like: Timed, past: Iterable[Timed]) -> Drift | None:
    """Of the runs that have profile, model and machine of ``like``, release by release; None where they are too few.

    Args:
        like: what is to be judged: left out where it is among the others, or it would excuse itself.
        past: any runs; a storage of baselines.
    """
    releases: dict[str, list[Medians]] = {}
    for run in past:
        if run.subject == like.subject and run != like:
            releases.setdefault(run.release, []).append(run.medians)
    return between(list(releases.values()))


def between(releases: Sequence[Iterable[Medians]]) -> Drift | None:
    """Of runs by their medians, those of one release together; None where fewer than `MIN_FREEDOM` would be left.

    A run that lies there twice counts once.
    """
    groups = [list({tuple(sorted(run.items())): run for run in runs if run}.values()) for runs in releases]
    groups = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    if freedom < MIN_FREEDOM:
        return None
    own = {}
    for cell in dict.fromkeys(cell for group in groups for run in group for cell in run):
        values = [[run[cell] for run in group if cell in run] for group in groups]
        squares, free = sum(len(v) * float(np.var(v)) for v in values if v), sum(len(v) - 1 for v in values if v)
        if free >= MIN_FREEDOM:
            own[cell] = math.sqrt(squares / free)
    if not own:
        return None
    return Drift(sum(map(len, groups)), freedom, float(np.median(list(own.values()))), own)


def medians(cells: Iterable[LatencyCell]) -> Medians:
    """Of the cells that were not contended; without those of the plan, which may be another in every run."""
    found = {}
    for cell in cells:
        median = float(np.median(cell.rounds_s))
        if cell.variant != PLAN and median > 0 and not contended_by(cell):
            found[cell.key] = math.log(median)
    return found
