"""The main job in one process: pytest over the benches with a progress bar, its own output kept in a log.

It does not decide or show: it leaves a run file.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bitzones.run import journal
from bitzones.run.plugin import HELD, JOURNAL, NOTIFY, PROGRESS
from bitzones.schema.errors import MeasureError, OutputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

__all__ = ["Outcome", "alone", "bench_folder", "measure"]

JOURNAL_FILE = "journal.jsonl"
INTERRUPTED = "interrupted"
"""Folder, inside that of the report, of what an interrupted run has to say."""


@dataclass(frozen=True)
class Outcome:
    """What a run left: the run file, the log of pytest's own output, the journal, and how many cells did not come out.

    One that was ``interrupted`` has the cells that were ``finished`` of ``cells``; its run file lies in a folder of its own.
    """

    run_file: Path
    log: Path
    failed: int
    journal: Path
    finished: int
    cells: int
    interrupted: bool = False

    def settle(self) -> None:
        """Remove the journal once the report is there, unless cells failed: ``--resume`` then tries these again, and only these."""
        if not self.failed and not self.interrupted:
            with contextlib.suppress(OSError):
                self.journal.unlink(missing_ok=True)


class _Log(io.FileIO):
    """Pytest's own output, as far as there is room for it: a log that cannot be written ends no run."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


class _Bar:
    """A pytest plugin that moves a progress bar by cells, and inside long cells by what they say of themselves."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar = progress.add_task("loading", total=None)
        self.cells = 0
        self._done = 0
        self.failed = 0
        self.stopped = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        self._config = config
        config.stash[HELD] = True
        config.stash[PROGRESS] = self._within
        config.stash[NOTIFY] = self._progress.console.print

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.cells = len(session.items)
        self._progress.update(self._bar, total=self.cells)

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

    @property
    def finished(self) -> int:
        """Cells that the journal holds, those of an earlier run among them."""
        kept = self._config.stash.get(JOURNAL, None)
        return 0 if kept is None else kept.finished()

    def _within(self, share: float) -> None:
        self._progress.update(self._bar, completed=self._done + share)


def bench_folder() -> Path:
    """Where the benches lie: inside an installed package, or at the top of a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / "_bench", package.parents[1] / "bench"):
        if folder.is_dir():
            return folder
    raise MeasureError("the benches are missing from this installation; reinstall bitzones")


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder for one run, from its first line to its report.

    Raises:
        OutputError: another run is writing there, or nobody can.
    """
    with journal.sole(folder / JOURNAL_FILE):
        yield


def measure(profile: str, folder: Path, data: Path | None = None, limit: int | None = None, *, resume: bool = False) -> Outcome:
    """Run every bench of a profile and write ``run.json`` and ``pytest.log`` into ``folder``, which is held (`alone`).

    ``data`` and ``limit`` are those of `bitzones.schema.profile.Profile.resolved`. With ``resume``, what an earlier run here has finished is taken
    from its journal. One that is interrupted leaves what it has in ``interrupted/run.json``.

    Raises:
        MeasureError: nothing could be measured; the message is the last line that pytest said.
        OutputError: the folder cannot be written; earlier files are as they were.
    """
    run_file, partial, log = folder / "run.json", folder / ".run.json.partial", folder / "pytest.log"
    arguments = [
        str(bench_folder()),
        f"--bitzones-profile={profile}",
        *([f"--bitzones-data={data}"] if data else []),
        *([f"--bitzones-limit={limit}"] if limit else []),
        f"--bitzones-journal={folder / JOURNAL_FILE}",
        *(["--bitzones-resume"] if resume else []),
        f"--benchmark-json={partial}",
        f"--rootdir={folder}",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
    ]
    with _progress() as progress:
        bar = _Bar(progress)
        try:
            partial.unlink(missing_ok=True)
            code = _pytest(arguments, log, bar)
            whole = partial.is_file() and not bar.stopped
            if whole:
                interrupted = code == pytest.ExitCode.INTERRUPTED  # the last cell decides the zones: it replaces no earlier report
                place = folder / INTERRUPTED / run_file.name if interrupted else run_file
                place.parent.mkdir(exist_ok=True)
                partial.replace(place)
                return Outcome(place, log, bar.failed, folder / JOURNAL_FILE, bar.finished, bar.cells, interrupted)
        except OSError as error:
            said = f"{folder}: cannot be written: {error.strerror or error}; earlier files are as they were"
            raise OutputError(bar.stopped or said) from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
    if code == pytest.ExitCode.INTERRUPTED and not bar.stopped:
        raise MeasureError("interrupted before the first cell was finished")
    raise MeasureError(bar.stopped or f"nothing was measured: {_last_line(log)} (all of pytest's output: {log})")


def _pytest(arguments: list[str], log: Path, bar: _Bar) -> int:
    """Run pytest with its own output kept in a log.

    Raises:
        OSError: what was measured could not be written.
    """
    with (
        io.TextIOWrapper(io.BufferedWriter(_Log(log, "wb")), encoding="utf-8", errors="replace") as handle,
        contextlib.redirect_stdout(handle),
        contextlib.redirect_stderr(handle),
    ):
        return pytest.main(arguments, plugins=[bar])


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
