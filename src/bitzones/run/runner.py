"""The main job in one process: pytest over the benches with a progress bar, its own output kept in a log.

It does not decide or show: it leaves a run file.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bitzones.run import journal
from bitzones.run.given import Given
from bitzones.run.watching import Asked, watcher
from bitzones.schema import profile_files
from bitzones.schema.errors import MeasureError, OutputError
from bitzones.schema.profile import Profile

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

__all__ = ["Outcome", "alone", "bench_folder", "measure"]

JOURNAL_FILE = "journal.jsonl"
INTERRUPTED = "interrupted"
"""Folder, inside that of the report, of what an interrupted run has to say."""

_ALONE = (
    *("-p", "bitzones.plugin", "-p", "pytest_benchmark.plugin"),  # the only plugins beside pytest's own: see _isolated
    *("-p", "no:cacheprovider", "-p", "no:faulthandler"),  # the latter belongs to the process, which may run another pytest
    *("-c", os.devnull, "--import-mode=importlib"),
)


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


def bench_folder() -> Path:
    """Where the benches lie: inside an installed package, or at the top of a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / "bench", package.parents[1] / "bench"):
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


def measure(
    profile: str | Profile,
    folder: Path,
    data: Path | None = None,
    limit: int | None = None,
    *,
    resume: bool = False,
    given: Given | None = None,
    select: str | None = None,
) -> Outcome:
    """Run every bench of a profile and write ``run.json`` and ``pytest.log`` into ``folder``, which is held (`alone`).

    ``data`` and ``limit`` are those of `bitzones.schema.profile.Profile.resolved`. With ``resume``, cells that an earlier run here finished
    are taken from its journal. ``given`` are objects in memory in place of what the profile names; ``select`` is an expression of
    pytest's ``-k``. One that is interrupted leaves what it has in ``interrupted/run.json``.

    Raises:
        MeasureError: nothing could be measured; the message is the last line that pytest said.
        OutputError: the folder cannot be written; earlier files are as they were.
    """
    run_file, partial, log = folder / "run.json", folder / ".run.json.partial", folder / "pytest.log"
    chosen = profile_files.load(profile) if isinstance(profile, str) else profile
    arguments = [
        *_ALONE,
        str(bench_folder()),
        f"--confcutdir={bench_folder()}",
        f"--bitzones-journal={folder / JOURNAL_FILE}",
        *(["--bitzones-resume"] if resume else []),
        f"--benchmark-json={partial}",
        f"--rootdir={folder}",
        *(["-k", select] if select else []),
    ]
    with watcher() as seen:
        try:
            partial.unlink(missing_ok=True)
            code = _pytest(arguments, log, [seen, Asked(chosen.resolved(data, limit), given)])
            whole = partial.is_file() and not seen.stopped
            if whole:
                interrupted = code == pytest.ExitCode.INTERRUPTED  # the last cell decides the zones: it replaces no earlier report
                place = folder / INTERRUPTED / run_file.name if interrupted else run_file
                place.parent.mkdir(exist_ok=True)
                partial.replace(place)
                return Outcome(place, log, seen.failed, folder / JOURNAL_FILE, seen.finished, seen.cells, interrupted)
        except OSError as error:
            said = f"{folder}: cannot be written: {error.strerror or error}; earlier files are as they were"
            raise OutputError(seen.stopped or said) from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
    if code == pytest.ExitCode.INTERRUPTED and not seen.stopped:
        raise MeasureError("interrupted before the first cell was finished")
    raise MeasureError(seen.stopped or f"nothing was measured: {_last_line(log)} (all of pytest's output: {log})")


def _pytest(arguments: list[str], log: Path, plugins: list[object]) -> int:
    """Run pytest with its own output kept in a log.

    Raises:
        OSError: what was measured could not be written.
    """
    with (
        io.TextIOWrapper(io.BufferedWriter(_Log(log, "wb")), encoding="utf-8", errors="replace") as handle,
        contextlib.redirect_stdout(handle),
        contextlib.redirect_stderr(handle),
        _isolated(),
    ):
        return pytest.main(arguments, plugins=plugins)


@contextlib.contextmanager
def _isolated() -> Iterator[None]:
    """Keep the caller's pytest out of the run's: its options, its plugins, its warnings filters and the test that is running, if any.

    ``PYTEST_ADDOPTS`` with ``-n 2`` or ``--benchmark-disable`` would have every cell run and none recorded, and a plugin that shuffles,
    repeats or times out tests would change what is measured. What the run needs it names itself (`_ALONE`).
    """
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("PYTEST_")}
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    try:
        with warnings.catch_warnings(record=bool(kept)):
            if kept:  # inside another pytest, which may have made warnings errors, and would count these as its own
                warnings.simplefilter("default")
            yield
    finally:
        for name in [name for name in os.environ if name.startswith("PYTEST_")]:
            del os.environ[name]
        os.environ.update(kept)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "pytest said nothing"
