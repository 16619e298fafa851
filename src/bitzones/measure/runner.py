"""The main job in one process: pytest over the benches with a progress bar, its own output kept in a log.

It does not decide or show: it leaves a run file.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bitzones.errors import MeasureError, OutputError
from bitzones.measure.plugin import NOTIFY, PROGRESS

__all__ = ["Outcome", "bench_folder", "measure"]


@dataclass(frozen=True)
class Outcome:
    """What a run left: the run file, the log of pytest's own output, and how many cells did not come out."""

    run_file: Path
    log: Path
    failed: int


class _Bar:
    """A pytest plugin that moves a progress bar by cells, and inside long cells by what they say of themselves."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar = progress.add_task("loading", total=None)
        self._done = 0
        self.failed = 0
        self.stopped = ""

    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[PROGRESS] = self._within
        config.stash[NOTIFY] = self._progress.console.print

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._progress.update(self._bar, total=len(session.items))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._progress.update(self._bar, description=nodeid.rpartition("::test_")[2])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed += 1
            self._progress.console.print(
                f"failed: {report.nodeid.rpartition('::')[2]}: {report.longreprtext.splitlines()[-1]}", markup=False
            )
        if report.when == "teardown":
            self._done += 1
            self._progress.update(self._bar, completed=self._done)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self.stopped = str(excinfo.value).removeprefix("bitzones: ")

    def _within(self, share: float) -> None:
        self._progress.update(self._bar, completed=self._done + share)


def bench_folder() -> Path:
    """Where the benches lie: inside an installed package, or at the top of a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / "_bench", package.parents[1] / "bench"):
        if folder.is_dir():
            return folder
    raise MeasureError("the benches are missing from this installation; reinstall bitzones")


def measure(profile: str, folder: Path, data: Path | None = None, limit: int | None = None) -> Outcome:
    """Run every bench of a profile and write ``run.json`` and ``pytest.log`` into ``folder``.

    ``data`` and ``limit`` are those of `bitzones.profile.Profile.resolved`.

    Raises:
        MeasureError: nothing could be measured; the message is the last line that pytest said.
        OutputError: the folder cannot be written.
    """
    run_file, partial, log = folder / "run.json", folder / ".run.json.partial", folder / "pytest.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        handle = log.open("w", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}") from error
    with handle, _progress() as progress:
        bar = _Bar(progress)
        arguments = [
            str(bench_folder()),
            f"--bitzones-profile={profile}",
            *([f"--bitzones-data={data}"] if data else []),
            *([f"--bitzones-limit={limit}"] if limit else []),
            f"--benchmark-json={partial}",
            f"--rootdir={folder}",
            "-p",
            "no:cacheprovider",
            "-c",
            os.devnull,
        ]
        with contextlib.redirect_stdout(handle), contextlib.redirect_stderr(handle):
            code = pytest.main(arguments, plugins=[bar])
    if not partial.is_file():
        raise MeasureError(bar.stopped or f"nothing was measured: {_last_line(log)} (all of pytest's output: {log})")
    if code == pytest.ExitCode.INTERRUPTED:  # the last cell decides the zones: what is there makes no report, and replaces none
        interrupted = partial.replace(folder / "run.interrupted.json")
        raise MeasureError(f"interrupted: the cells that were finished are in {interrupted}; an earlier report is as it was")
    partial.replace(run_file)
    return Outcome(run_file, log, bar.failed)


def _progress() -> Progress:
    """A bar on the real standard error, which pytest's capture does not reach."""
    console = Console(file=os.fdopen(os.dup(2), "w"))
    columns = (
        TextColumn("{task.description:<28}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "pytest said nothing"
