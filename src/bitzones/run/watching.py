"""The progress of a run: a bar on a terminal, one line per finished cell anywhere else (a CI log, ``docker logs``)."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TextIO

import pytest
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bitzones.report.terminal.printing import make_printable
from bitzones.run.given import Given
from bitzones.run.ray_options import RayOptions
from bitzones.run.stash import GIVEN, HELD, JOURNAL, NOTIFY, PROFILE, PROGRESS, RAY
from bitzones.schema.profile import Profile

__all__ = ["Asked", "Bar", "Lines", "Watcher", "message_of", "time_left", "watcher"]

MESSAGE_LENGTH = 300
"""Most characters of a failure's message that are shown."""


class Watcher(ABC):
    """A pytest plugin that counts finished cells and calls a subclass to show them."""

    def __init__(self) -> None:
        self.cells = 0
        self.failed = 0
        self.stopped = ""
        self._done = 0
        self._seconds = 0.0
        self._config: pytest.Config | None = None

    @abstractmethod
    def say(self, line: str) -> None:
        """Show a permanent line."""

    @abstractmethod
    def started(self, cell: str) -> None:
        """A cell starts."""

    @abstractmethod
    def ended(self, cell: str, seconds: float) -> None:
        """A cell is finished."""

    @abstractmethod
    def within(self, share: float) -> None:
        """The current cell has done this share of its work."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        self._config = config
        config.stash[HELD] = True
        config.stash[PROGRESS] = self.within
        config.stash[NOTIFY] = self.say

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.cells = len(session.items)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._seconds = 0.0
        self.started(_name(nodeid))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds += report.duration
        if report.failed:
            self.failed += 1
            self.say(f"failed: {_name(report.nodeid)}: {message_of(report)}")
        if report.when == "teardown":
            self._done += 1
            self.ended(_name(report.nodeid), self._seconds)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self.stopped = str(excinfo.value).removeprefix("bitzones: ")

    @property
    def finished(self) -> int:
        """Cells in the journal, including those of an earlier run."""
        kept = None if self._config is None else self._config.stash.get(JOURNAL, None)
        return 0 if kept is None else kept.finished()


class Bar(Watcher):
    """A progress bar over cells that also advances within long cells."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._bar = progress.add_task("loading", total=None)

    def say(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        super().pytest_collection_finish(session)
        self._progress.update(self._bar, total=self.cells)

    def started(self, cell: str) -> None:
        self._progress.update(self._bar, description=cell)

    def ended(self, cell: str, seconds: float) -> None:
        self._progress.update(self._bar, completed=self._done)

    def within(self, share: float) -> None:
        self._progress.update(self._bar, completed=self._done + share)


class Lines(Watcher):
    """One line per finished cell: done/total, name, seconds, time left."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out
        self._since = monotonic()

    def say(self, line: str) -> None:
        self._out.write(f"{line}\n")
        self._out.flush()

    def started(self, cell: str) -> None:
        """Write nothing: only finished cells get a line."""

    def ended(self, cell: str, seconds: float) -> None:
        left = time_left(self._done, self.cells, monotonic() - self._since)
        self.say(f"{self._done}/{self.cells} {cell} {seconds:.1f} s{f', about {left} left' if left else ''}")

    def within(self, share: float) -> None:
        """Write nothing: only finished cells get a line."""


class Asked:
    """A pytest plugin that passes a profile, objects in memory and a cluster to the run."""

    def __init__(self, profile: Profile, given: Given | None, ray: RayOptions | None = None) -> None:
        self._profile = profile
        self._given = given
        self._ray = ray

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[PROFILE] = self._profile
        if self._given is not None:
            config.stash[GIVEN] = self._given
        if self._ray is not None:
            config.stash[RAY] = self._ray


def _name(nodeid: str) -> str:
    """The name of a cell without its file: ``accuracy[w4-science_mini]``."""
    return nodeid.rpartition("::")[2].removeprefix("test_")


def message_of(report: pytest.TestReport) -> str:
    """Why a test failed, in one line: the exception's message, not the last line of the traceback, which is a file position."""
    crash = getattr(report.longrepr, "reprcrash", None)
    message = report.longreprtext if crash is None else str(crash.message)
    return " ".join(message.removeprefix("Failed: ").split())[:MESSAGE_LENGTH] or "no reason given"  # pytest's own name for pytest.fail


def time_left(done: int, cells: int, elapsed_s: float) -> str:
    """Estimated remaining time, if the remaining cells take as long as those done; empty if none is left.

    >>> time_left(10, 40, 60.0), time_left(1, 2, 30.0), time_left(4, 4, 9.0)
    ('3 min', '30 s', '')
    """
    if not done or done >= cells:
        return ""
    seconds = elapsed_s / done * (cells - done)
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


@contextmanager
def watcher() -> Iterator[Watcher]:
    """A watcher for the real standard error, which pytest does not capture: a bar if it is a terminal, else lines."""
    with os.fdopen(os.dup(2), "w", encoding=getattr(sys.__stderr__, "encoding", None)) as out:
        make_printable(out)
        if not out.isatty():
            yield Lines(out)
            return
        columns = (
            TextColumn("{task.description:<28}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(file=out)) as progress:
            yield Bar(progress)
