"""Many runs: trends over releases, releases side by side, figures for plotting tools, and kept baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from bitzones.analysis.reader import RunFile
from bitzones.api.analyzing import RunLike, as_run
from bitzones.api.dataframes import frame
from bitzones.regression import baseline_store, change_points, duet_changes, release_matrix
from bitzones.regression.baseline_store import KeptRun
from bitzones.regression.metrics import Reading, duet_readings, readings
from bitzones.schema.duet_record import DuetFile
from bitzones.schema.errors import ArgumentError
from bitzones.schema.files import write_text
from bitzones.schema.profile_sections import Gate

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ReleaseMatrix",
    "Trend",
    "compare_releases",
    "export_metrics",
    "find_baseline",
    "list_baselines",
    "save_baseline",
    "trend",
]

STORAGE = Path(".benchmarks")
"""pytest-benchmark's own folder."""


class _Row(BaseModel):
    """One figure of one run: a row of `Trend.to_dataframe`."""

    measured_at: str
    kind: str
    variant: str
    detail: str
    unit: str
    value: float
    low: float | None
    high: float | None
    n: int
    change: str


class Trend(change_points.Trend):
    """The figures of several runs, oldest first: ``runs`` are the times of measurement, ``releases`` what changed since the run before.

    ``points`` has every figure of every run, ``changes`` those that are worse or better than in the run before.

    Example:
        >>> found = bitzones.trend(["old.json", "new.json"])
        >>> found
        <Trend of 2 runs: 1 change point>
        >>> [(point.change, point.reading.name) for point in found.changes]
        [('worse', 'time w4 decode, batch 1, 64 prompt tokens, 16 new tokens')]
    """

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        count = len(self.changes)
        return f"<Trend of {len(self.runs)} runs: {count} change point{'' if count == 1 else 's'}>"

    def to_html(self) -> str:
        """One self-contained page: every figure over the runs with its interval and change points."""
        from bitzones.report.regression.trend_page import trend_page  # noqa: PLC0415  # charts are loaded only if they are drawn

        return trend_page(self)

    def to_dataframe(self) -> pd.DataFrame:
        """A row per figure and run: value with its 95% interval, unit, n, and the change since the run before (worse, better or empty).

        Raises:
            MissingPackageError: pandas is not installed (``pip install 'bitzones[pandas]'``).
        """
        rows = [
            _Row(measured_at=self.runs[point.run], change=point.change, **point.reading.model_dump(include=set(_Row.model_fields)))
            for point in self.points
        ]
        return frame(_Row, rows)


class ReleaseMatrix(release_matrix.Matrix):
    """Runs of one profile with several releases of quanto and transformers; ``releases`` are each compared with ``baseline``."""

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return f"<ReleaseMatrix of {', '.join(item.name for item in self.releases)} against {self.name}>"

    def to_markdown(self) -> str:
        """One table row of statuses per release, and every metric in a fold below."""
        from bitzones.report.regression.matrix_page import matrix_page  # noqa: PLC0415

        return matrix_page(self)

    def lines(self) -> list[str]:
        """The result as plain text, one line per release."""
        from bitzones.report.regression.matrix_page import matrix_lines  # noqa: PLC0415

        return matrix_lines(self)


def trend(runs: Path | str | Sequence[RunLike], *, gate: Gate | None = None) -> Trend:
    """Follow every figure over several runs and find where it changed.

    A change point is a figure that `compare` calls worse or better than in the run before, so a trend and a comparison never disagree.

    Args:
        runs: a folder of run files, such as pytest-benchmark's storage, or two or more runs in order, oldest first. Broken files in a
            folder are left out (`list_baselines` names them). A duet file in the folder judges the times of two runs of its releases.
        gate: tolerances; by default those of each run's profile.

    Returns:
        The trend.

    Raises:
        RunFileError: there are fewer than two runs, a run file cannot be used, or there is no such folder.

    Example:
        >>> bitzones.trend(["old.json", "old.json"]).changes
        ()
    """
    if isinstance(runs, str | Path):
        found, duets = (
            [item.run for item in baseline_store.stored(Path(runs)) if item.run is not None],
            baseline_store.stored_duets(Path(runs)),
        )
    else:
        found, duets = [as_run(run) for run in runs], []
    return Trend(**dict(change_points.trend(found, gate, duets)))


def compare_releases(runs: Sequence[RunLike], *, baseline: str | None = None) -> ReleaseMatrix:
    """Compare runs of one profile with several releases against one of them.

    Args:
        runs: two or more runs or run files, as ``bitzones release`` writes them; a run is named after its file.
        baseline: name of the run to judge the others against, without ``.json``; by default the last one.

    Returns:
        The releases in the order given, without the baseline.

    Raises:
        RunFileError: there are fewer than two runs, two have one name, none has the baseline's, or their profiles differ.

    Example:
        >>> found = bitzones.compare_releases(["new.json", "old.json"])
        >>> found
        <ReleaseMatrix of new against old>
        >>> found.lines()[0]
        'new: accuracy same; KL to the reference same; stored bytes same; quantized as asked, saved and loaded -'
    """
    return ReleaseMatrix(**dict(release_matrix.matrix([as_run(run) for run in runs], baseline)))


def export_metrics(run: RunLike | DuetFile, folder: Path | str, *, format: str = "github-action-benchmark") -> tuple[Path, ...]:  # noqa: A002  # as in --format
    """Write a run's figures for a benchmark-plotting tool, which reads only times from pytest-benchmark's own files.

    Args:
        run: a run or a duet, or the path of its file. Of a duet the ratios of times are written.
        folder: created if it does not exist.
        format: ``github-action-benchmark`` (customSmallerIsBetter.json and customBiggerIsBetter.json) or ``bencher`` (bencher.json).

    Returns:
        The files.

    Raises:
        ArgumentError: the format is unknown.
        RunFileError: the run file cannot be used.
        OutputError: a file cannot be written.

    Example:
        >>> [path.name for path in bitzones.export_metrics("run.json", "metrics", format="bencher")]
        ['bencher.json']
    """
    from bitzones.report.regression.metric_files import FORMATS, metrics_files  # noqa: PLC0415

    chosen = next((name for name in FORMATS if name == format), None)
    if chosen is None:
        raise ArgumentError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    written = []
    for name, text in metrics_files(_readings(run), chosen).items():
        write_text(Path(folder) / name, text)
        written.append(Path(folder) / name)
    return tuple(written)


def _readings(run: RunLike | DuetFile) -> tuple[Reading, ...]:
    if isinstance(run, DuetFile):
        return duet_readings(run)
    if isinstance(run, str | Path) and Path(run).is_file() and duet_changes.is_duet(Path(run).read_bytes()):
        return duet_readings(duet_changes.read_duet(run))
    return readings(as_run(run))


def save_baseline(run: Path | str, *, name: str | None = None, storage: Path | str = STORAGE) -> Path:
    """Copy a run file to where ``bitzones compare --against`` and `find_baseline` look.

    Args:
        run: path of the run file.
        name: part of the file name; by default the time of the measurement.
        storage: folder of kept runs.

    Returns:
        The copy.

    Raises:
        RunFileError: it is not a run file, or is already kept.
        OutputError: it cannot be written, or the name is not usable in a file name.

    Example:
        >>> bitzones.save_baseline("run.json", name="main", storage="kept").name
        '0001_main.json'
        >>> [item.path.name for item in bitzones.list_baselines("kept")]
        ['0001_main.json']
    """
    return baseline_store.save(Path(run), Path(storage), name)


def list_baselines(storage: Path | str = STORAGE) -> tuple[KeptRun, ...]:
    """List the run files below a folder.

    Args:
        storage: folder of kept runs, such as pytest-benchmark's storage. Other JSON files in it are ignored.

    Returns:
        The run files, oldest first: each with its ``run``, or the ``fault`` that makes it unusable.

    Raises:
        RunFileError: there is no such folder.
    """
    return tuple(baseline_store.stored(Path(storage)))


def find_baseline(run: RunLike, storage: Path | str = STORAGE) -> RunFile:
    """Find the run to compare with: the newest kept run of the same profile, model and machine.

    Args:
        run: the run that is to be compared, or its path; the run itself is never returned.
        storage: folder of kept runs.

    Returns:
        The kept run.

    Raises:
        RunFileError: there is none; the message says how the kept runs differ.
    """
    return baseline_store.newest_like(as_run(run), list_baselines(storage), Path(storage))
