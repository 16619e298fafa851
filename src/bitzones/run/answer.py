"""The analysis of a run for the plugin: behind the fixture `bitzones_run` and the last lines of a session."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bitzones
from bitzones.schema.errors import BitzonesError, PlanError

if TYPE_CHECKING:
    from bitzones.analysis.reader import RunFile
    from bitzones.run.stash import Recorded
    from bitzones.schema.record import Measured
    from bitzones.schema.run_record import Run

__all__ = ["AnalyzedRun", "analyzed", "failures", "lines"]


@dataclass(frozen=True)
class AnalyzedRun:
    """A run and its analysis; attributes of the analysis are available here too."""

    run: RunFile
    analysis: Any

    @property
    def plan(self) -> Any:
        """The plan that the analysis recommends.

        Raises:
            PlanError: the run has none; the message says why.
        """
        found = getattr(self.analysis, "plan", None)
        if found is None and (decision := self.analysis.decision) is not None:
            found = decision.plan
        if found is None:
            raise PlanError(f"{self.run.path}: no plan: {self.analysis.no_decision}")
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.analysis, name)


def analyzed(run: RunFile | Path | str) -> AnalyzedRun:
    """Analyze a run or a run file.

    Raises:
        RunFileError: it is not a run file, or has no results.
    """
    from bitzones.analysis.analyze import analyse
    from bitzones.analysis.reader import read_run

    found = read_run(run) if isinstance(run, str | Path) else run
    return AnalyzedRun(found, getattr(bitzones, "analyze", analyse)(found))


def failures(cells: Recorded) -> list[str]:
    """One line per cell without a result."""
    from bitzones.analysis.reader import one_line
    from bitzones.schema.cells import FailedCell

    return [
        one_line(f"{cell.status}: {node.rpartition('::')[2]}: {cell.reason}")
        for node, (cell, _) in cells.items()
        if isinstance(cell, FailedCell)
    ]


def lines(run: Run, cells: Iterable[tuple[Measured, float | None]]) -> Iterator[str]:
    """The result of the cells of this session, without a file; nothing if they have no accuracy or sensitivity."""
    from bitzones.analysis.reader import RunFile
    from bitzones.report.markdown import summary
    from bitzones.schema.quality_cells import AccuracyCell, PerplexityCell
    from bitzones.schema.sensitivity_cells import SensitivityCell

    found = list(cells)
    if not any(isinstance(cell, AccuracyCell | PerplexityCell | SensitivityCell) for cell, _ in found):
        return
    run_file = RunFile(
        path="this session", measured_at=None, run=run, cells=tuple(cell for cell, _ in found), took=tuple(took for _, took in found)
    )
    try:
        yield from summary.headline(analyzed(run_file).analysis)
    except BitzonesError as error:
        yield str(error)
