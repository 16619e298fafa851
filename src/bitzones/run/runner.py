"""Runs pytest over the benches in this process, with a progress bar and pytest's own output in a log, and writes the run file."""

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
from bitzones.run.ray_options import RayOptions
from bitzones.run.watching import Asked, watcher
from bitzones.schema import profile_files
from bitzones.schema.errors import MeasureError, OutputError
from bitzones.schema.profile import Profile
from bitzones.schema.profile_sections import By, Effort

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

__all__ = ["Outcome", "alone", "bench_folder", "measure"]

JOURNAL_FILE = "journal.jsonl"
INTERRUPTED = "interrupted"
"""Folder inside the report's folder for the result of an interrupted run."""

_ALONE = (
    *("-p", "bitzones.plugin", "-p", "pytest_benchmark.plugin"),  # the only plugins beside pytest's own: see _isolated
    *("-p", "no:cacheprovider", "-p", "no:faulthandler"),  # the latter belongs to the process, which may run another pytest
    *("-c", os.devnull, "--import-mode=importlib"),
)


@dataclass(frozen=True)
class Outcome:
    """The files of a run: the run file, the log of pytest's own output and the journal; and the number of failed cells.

    An ``interrupted`` run has ``finished`` of ``cells`` cells, and its run file is in a separate folder.
    """

    run_file: Path
    log: Path
    failed: int
    journal: Path
    finished: int
    cells: int
    interrupted: bool = False

    def settle(self) -> None:
        """Remove the journals after the report is written, unless cells failed: then ``--resume`` retries only these."""
        if not self.failed and not self.interrupted:
            with contextlib.suppress(OSError):
                for place in (self.journal, *journal.sweep_journals(self.journal.parent)):
                    place.unlink(missing_ok=True)


class _Log(io.FileIO):
    """The log of pytest's own output. A failing write, as on a full disk, does not end the run."""

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
    """Lock a folder for one run, from its first line to its report.

    Raises:
        OutputError: another run is writing there, or the folder is not writable.
    """
    with journal.sole(folder / JOURNAL_FILE):
        yield


def measure(
    profile: str | Profile,
    folder: Path,
    data: Path | None = None,
    limit: int | None = None,
    *,
    by: By | None = None,
    effort: Effort | None = None,
    resume: bool = False,
    given: Given | None = None,
    select: str | None = None,
    sweep: Path | None = None,
    ray: RayOptions | None = None,
) -> Outcome:
    """Run every bench of a profile and write ``run.json`` and ``pytest.log`` to ``folder``, which must be locked (`alone`).

    ``data``, ``limit``, ``by`` and ``effort`` are those of `bitzones.schema.profile.Profile.resolved`. With ``resume``, cells that an
    earlier run in this folder finished are taken from its journal. ``given`` has objects in memory that replace what the profile names;
    ``select`` is an expression for pytest's ``-k``. ``sweep`` is a file of `analysis.merging` whose sensitivities are adopted; ``ray`` is
    a cluster that measures them. An interrupted run writes its cells to ``interrupted/run.json``.

    Raises:
        MeasureError: nothing could be measured; the message is the last line of pytest's output.
        OutputError: the folder cannot be written; earlier files are unchanged.
    """
    run_file, partial, log = folder / "run.json", folder / ".run.json.partial", folder / "pytest.log"
    chosen = profile_files.load(profile) if isinstance(profile, str) else profile
    arguments = _arguments(folder, partial, resume=resume, select=select, sweep=sweep)
    with watcher() as seen:
        try:
            partial.unlink(missing_ok=True)
            code = _pytest(arguments, log, [seen, Asked(chosen.resolved(data, limit, by, effort), given, ray)])
            whole = partial.is_file() and not seen.stopped
            if whole:
                interrupted = code == pytest.ExitCode.INTERRUPTED  # incomplete, so it must not replace an earlier report
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


def _arguments(folder: Path, run_file: Path, *, resume: bool, select: str | None, sweep: Path | None) -> list[str]:
    return [
        *_ALONE,
        str(bench_folder()),
        f"--confcutdir={bench_folder()}",
        f"--bitzones-journal={folder / JOURNAL_FILE}",
        *(["--bitzones-resume"] if resume else []),
        f"--benchmark-json={run_file}",
        f"--rootdir={folder}",
        *(["-k", select] if select else []),
        *([f"--bitzones-sweep={sweep}"] if sweep else []),
    ]


def _pytest(arguments: list[str], log: Path, plugins: list[object]) -> int:
    """Run pytest with its own output in a log.

    Raises:
        OSError: the results could not be written.
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
    """Isolate the run from the caller's pytest: its options, plugins, warning filters and current test.

    ``PYTEST_ADDOPTS`` with ``-n 2`` or ``--benchmark-disable`` would run every cell and record none, and a plugin that shuffles, repeats
    or times out tests would change what is measured. The run loads the plugins that it needs explicitly (`_ALONE`).
    """
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("PYTEST_")}
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    try:
        with warnings.catch_warnings(record=bool(kept)):
            if kept:  # inside another pytest, which may turn warnings into errors and would count these as its own
                warnings.simplefilter("default")
            yield
    finally:
        for name in [name for name in os.environ if name.startswith("PYTEST_")]:
            del os.environ[name]
        os.environ.update(kept)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "pytest said nothing"
