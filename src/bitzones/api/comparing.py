"""Two runs, cell by cell: what a release changed, and whether it is a regression."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from bitzones.analysis.reader import RunFile
from bitzones.api.analyzing import RunLike, as_run
from bitzones.api.dataframes import frame
from bitzones.regression import comparison as decided
from bitzones.regression import gate as gates
from bitzones.regression.baseline_store import stored
from bitzones.regression.compare import compare as compared
from bitzones.regression.comparison import CellDelta, Metric, Status
from bitzones.regression.drift import Drift, drift, timed
from bitzones.regression.duet_changes import Duets, duets_of, is_of, read_duet
from bitzones.schema.duet_record import DuetFile
from bitzones.schema.errors import RunFileError
from bitzones.schema.profile_sections import Gate

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "compare"]


class _Row(BaseModel):
    """One metric of one cell: a row of `Comparison.to_dataframe`."""

    kind: str
    variant: str
    detail: str
    metric: Metric


class Comparison(decided.Comparison):
    """Two runs cell by cell: ``cells`` in the order of the new run, each with one status and the metrics that it rests on.

    Statuses: ``failed``, ``missing``, ``worse``, ``inconclusive``, ``better``, ``new``, ``same``, ``incomparable``.

    Example:
        >>> found = bitzones.compare("old.json", "new.json")
        >>> found
        <Comparison of 'old.json' and 'new.json': 1 failed, 1 worse, 25 same>
        >>> [(cell.status, cell.kind, cell.variant, cell.detail) for cell in found.regressions]
        [('worse', 'latency', 'w4', 'decode-b1-p64-n16'), ('failed', 'latency', 'w2', 'prefill-b1-p64')]
    """

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.count(status)} {status}" for status in decided.STATUSES if self.count(status))
        return f"<Comparison of {self.old.path!r} and {self.new.path!r}: {counts}>"

    def _repr_html_(self) -> str:
        from bitzones.report.html.markdown_html import html  # noqa: PLC0415  # reports are worded only when they are asked for

        return str(html(self.to_markdown()))

    @property
    def verdicts(self) -> dict[tuple[str, str, str], Status]:
        """Status of every cell of either run, by kind, variant and detail (a task, a phase, or nothing)."""
        return {(cell.kind, cell.variant, cell.detail): cell.status for cell in self.cells}

    @property
    def regressions(self) -> tuple[CellDelta, ...]:
        """Cells that are worse, missing or failed in the new run."""
        return tuple(cell for cell in self.cells if cell.status in gates.FAIL_ON)

    def exit_code(self, fail_on: str | None = None) -> int:
        """The exit code of ``bitzones compare``: 0 where nothing is worse or gone, 1 where something is, 2 where nothing can be compared.

        Args:
            fail_on: statuses that count as a regression, separated by commas, as in ``--fail-on``; by default worse, missing and failed.

        Raises:
            ProfileError: one of them is unknown.
        """
        return gates.exit_code(self, gates.fail_on(fail_on))

    def to_markdown(self, fail_on: str | None = None) -> str:
        """Markdown for a pull request: the answer first, every metric in a fold. ``fail_on`` as for `exit_code`."""
        from bitzones.report.regression.delta import delta  # noqa: PLC0415

        return delta(self, self.exit_code(fail_on))

    def to_json(self) -> str:
        """The same for machines: this record (docs/schema.md) as JSON."""
        from bitzones.report.regression.delta import delta_json  # noqa: PLC0415

        return delta_json(self)

    def lines(self, fail_on: str | None = None) -> list[str]:
        """The result as plain text for a terminal: one line, and one for each cell that is gone or worse."""
        from bitzones.report.regression.delta import delta_lines  # noqa: PLC0415

        return delta_lines(self, self.exit_code(fail_on))

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each metric of each cell: old, new, change with its 95% interval, n and p. Units stand in ``metric_unit``.

        Raises:
            MissingPackageError: pandas is not installed (``pip install 'bitzones[pandas]'``).

        Example:
            >>> rows = found.to_dataframe()
            >>> rows[rows.metric_status == "worse"][["kind", "variant", "detail"]].values.tolist()
            [['latency', 'w4', 'decode-b1-p64-n16']]
        """
        rows = [
            _Row(kind=cell.kind, variant=cell.variant, detail=cell.detail, metric=metric) for cell in self.cells for metric in cell.metrics
        ]
        return frame(_Row, rows)


def compare(
    old: RunLike,
    new: RunLike,
    *,
    gate: Gate | None = None,
    history: Path | str | Sequence[RunFile] | None = None,
    duet: Path | str | DuetFile | None = None,
) -> Comparison:
    """Say for every cell of two runs whether it became worse, corrected for the number of tests.

    Args:
        old: the baseline: a run, or the path of a run file.
        new: the run that is judged.
        gate: tolerances; by default those of the new run's profile.
        history: runs of one release on this machine, four or more, or a folder of them. Where times differ more between them than
            within the two runs, that is what a change of times is judged by.
        duet: a duet of the releases of both runs, or its file: its verdicts on times replace those of the two runs.

    Returns:
        The comparison.

    Raises:
        RunFileError: a run file or the duet cannot be used, both runs are the same file, there is no such folder, or the duet is of other
            releases or another model.
        ArgumentError: ``old`` or ``new`` is neither a run nor a path.

    Example:
        >>> found = bitzones.compare("old.json", "new.json")
        >>> found.verdicts["latency", "w4", "decode-b1-p64-n16"], found.verdicts["latency", "w8", "decode-b1-p64-n16"]
        ('worse', 'same')
        >>> found.exit_code()
        1
    """
    if isinstance(old, str | Path) and isinstance(new, str | Path) and Path(old).resolve() == Path(new).resolve():
        raise RunFileError(f"{old}: compared with itself")
    base, judged = as_run(old), as_run(new)
    duets = _duets(base, judged, duet) if duet is not None else None
    found = compared(base, judged, gate if gate is not None else judged.run.profile.gate, _repeats(judged, history), duets)
    return Comparison(**dict(found))


def _duets(base: RunFile, judged: RunFile, duet: Path | str | DuetFile) -> Duets:
    file = duet if isinstance(duet, DuetFile) else read_duet(duet)
    if not is_of(file, base, judged):
        name = "the duet" if isinstance(duet, DuetFile) else duet
        raise RunFileError(f"{name}: it is of other releases or another model than {base.path} and {judged.path}")
    return duets_of(file)


def _repeats(judged: RunFile, history: Path | str | Sequence[RunFile] | None) -> Drift | None:
    if history is None:
        return drift(timed(judged), ())
    past = [item.run for item in stored(Path(history)) if item.run is not None] if isinstance(history, str | Path) else list(history)
    return drift(timed(judged), (timed(run) for run in past))
