"""Measures cells of one variant in turn, each until its verdict is known or its time is over."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic

from bitzones.duets.line_protocol import TimedCell
from bitzones.duets.pair import Pair, Quadruple, as_record
from bitzones.duets.watch import DuetWatch
from bitzones.regression.duet_verdicts import ratio_of, sequence
from bitzones.schema.cells import FailedCell
from bitzones.schema.duet_cells import Quadruples
from bitzones.schema.errors import DuetError, MeasureError, NotMeasuredError
from bitzones.stats.sequential import SequentialWord

__all__ = ["Plan", "Timed", "by_variant", "decide"]

ROUND_S = 0.05
"""A round of shorter calls makes several, so that waking a process up, some 0.1 ms, is a small part of what it takes."""

MOST_CALLS = 20

FIRST_LOOK, LOOK_EVERY = 8, 1.05
"""Looking is free of error and costs milliseconds: first when a verdict is possible, then whenever a twentieth has been added."""


@dataclass(frozen=True)
class Plan:
    """How cells are decided: tolerance, number of cells that share the error, time of each, and whether waits for a core are taken out.

    ``most`` is the number of quadruples after which a cell is left undecided.
    """

    tolerance: float
    family: int
    cell_limit_s: float
    queued: bool
    most: int | None = None


@dataclass
class Timed:
    """A cell and what has been measured of it."""

    cell: TimedCell
    calls: int
    found: list[Quadruple] = field(default_factory=list)
    took_s: float = 0.0
    next_look: int = FIRST_LOOK
    word: SequentialWord = "inconclusive"
    left_s: float = 0.0
    over: bool = False

    @property
    def record(self) -> Quadruples:
        """The quadruples as a cell holds them."""
        return as_record(self.found)

    def look(self, plan: Plan) -> None:
        """Decide, if that can be done by now, and estimate the time that is left."""
        if len(self.found) >= self.next_look:
            self.next_look = max(len(self.found) + 1, math.ceil(len(self.found) * LOOK_EVERY))
            known, margin = sequence(self.record, plan.family), math.log1p(plan.tolerance)
            self.word = known.word(margin)
            needed, rest = known.needed(margin), plan.cell_limit_s - self.took_s
            each = self.took_s / len(self.found)
            self.left_s = rest if needed is None else min(rest, (needed - len(self.found)) * each)
        enough = plan.most is not None and len(self.found) >= plan.most
        self.over = self.word != "inconclusive" or self.took_s >= plan.cell_limit_s or enough

    def line(self, plan: Plan) -> str:
        """The verdict in words."""
        ratio = ratio_of(sequence(self.record, plan.family))
        ends = "" if ratio.low is None or ratio.high is None else f" [{ratio.low - 1:+.1%}, {ratio.high - 1:+.1%}]"
        return f"{self.cell.key}: {self.word} {ratio.value - 1:+.1%}{ends}, {len(self.found)} quadruples, {self.took_s:.0f} s"


def by_variant(cells: Iterable[TimedCell]) -> Iterator[list[TimedCell]]:
    """Cells of one variant together: a side holds one variant at a time."""
    groups: dict[str, list[TimedCell]] = {}
    for cell in cells:
        groups.setdefault(cell.variant, []).append(cell)
    yield from groups.values()


def decide(pair: Pair, cells: Sequence[TimedCell], plan: Plan, watch: DuetWatch, kept: list[Timed], failed: list[FailedCell]) -> None:
    """Measure cells of one variant; what is measured is in ``kept`` and ``failed`` also where it ends by an error.

    Raises:
        DuetError: a side crashed or hung.
    """
    timed = list(_prepared(pair, cells, watch, failed))
    kept += timed
    while open_cells := [item for item in timed if not item.over]:
        for item in open_cells:
            began = monotonic()
            item.found.append(pair.quadruple(item.cell, item.calls, queued=plan.queued))
            item.took_s += monotonic() - began
            item.look(plan)
            if item.over:
                pair.forget([item.cell])
                watch.finished(item.line(plan), item.took_s)
        still = [item for item in open_cells if not item.over]
        if still:
            watch.going_on(
                f"{still[0].cell.variant}: {len(still)} cells, {len(still[0].found)} quadruples", sum(item.left_s for item in still)
            )


def _prepared(pair: Pair, cells: Sequence[TimedCell], watch: DuetWatch, failed: list[FailedCell]) -> Iterator[Timed]:
    for cell in cells:
        try:
            seconds = pair.prepare(cell)
        except DuetError:
            raise
        except MeasureError as error:
            status = "not measured" if isinstance(error, NotMeasuredError) else "failed"
            failed.append(FailedCell(variant=cell.variant, of=cell.kind, detail=cell.detail, status=status, reason=str(error)))
            watch.finished(f"{cell.key}: {status}: {error}", 0.0)
            continue
        yield Timed(cell, max(1, min(MOST_CALLS, math.ceil(ROUND_S / max(seconds, 1e-6)))))
