"""Runs a cell under pytest-benchmark and records its result.

A cell that fails is recorded as a `FailedCell` with its reason; the run continues, and pytest still exits non-zero.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import pytest

from bitzones.run import journal
from bitzones.run.stash import Recorded
from bitzones.run.timed import Timed
from bitzones.schema.cells import FailedCell
from bitzones.schema.errors import BitzonesError, NotMeasuredError, OutOfMemoryError, OutputError
from bitzones.schema.progress import Progress
from bitzones.schema.record import Measured, Shortage
from bitzones.schema.run_record import KEY

if TYPE_CHECKING:
    from typing import Literal

    from bitzones.profiling.latency import Ready

__all__ = ["REASON_LENGTH", "Recorder", "reason"]

T = TypeVar("T")

REASON_LENGTH = 300
"""Most characters of an exception's message in a run file."""


class Recorder:
    """Measures one cell.

    Args:
        timed: this test's benchmark.
        of: the kind of cell, built in or registered (`bitzones.schema.kinds.register`).
        variant: the ID of the variant.
        detail: distinguishes the cell from others of its kind and variant.
        progress: receives the share of the work that is done.
        recorded: collects the cells of the session.
        kept: the journal, if there is one.
        fallbacks: fallbacks of the variants built so far, for the journal.
    """

    def __init__(
        self,
        timed: Timed,
        of: str,
        variant: str,
        detail: str,
        progress: Progress,
        recorded: Recorded,
        kept: journal.Journal[journal.Entry] | None = None,
        fallbacks: journal.Fallbacks | None = None,
    ) -> None:
        self._timed = timed
        self._of = of
        self._variant = variant
        self._detail = detail
        self.progress = progress
        self._recorded = recorded
        self._kept = kept
        self._fallbacks = {} if fallbacks is None else fallbacks

    def measure(self, prepare: Callable[[], T], work: Callable[[T], Measured]) -> None:
        """Time one call of ``work`` on the result of ``prepare``, which is not timed, and store its cell."""
        if self._resumed():
            return
        with self._recording():
            cell = self._timed.once(work, prepare())
        self._finish(cell)

    def time(self, prepare: Callable[[], Ready], rounds: int, finish: Callable[[Ready, list[float]], Measured]) -> None:
        """Time ``rounds`` rounds, each after a setup that is not timed, and store the cell that ``finish`` makes from the raw rounds."""
        if self._resumed():
            return
        with self._recording():
            ready = prepare()
            with ready.watch:
                self._timed.repeatedly(ready.timed.run, ready.timed.setup, rounds)
            if self._timed.disabled:
                return
            cell = finish(ready, list(self._timed.rounds_s))
        self._finish(cell)

    @property
    def _bench(self) -> str:
        """File and name of this benchmark, independent of the folder where pytest was started."""
        return self._timed.node.rpartition("/")[2]

    def _resumed(self) -> bool:
        """Whether an earlier run finished this cell. If so, its record and rounds are taken over as if just measured."""
        entry = None if self._kept is None else self._kept.entries.get(self._bench)
        if entry is None or self._timed.disabled:
            return False
        self._timed.stand_in(entry.rounds_s)
        self._store(entry.cell)
        return True

    def _finish(self, cell: Measured) -> None:
        """Store a cell and append it to the journal. If that fails, the run ends: its run file could not be written either."""
        self._store(cell)
        if self._kept is None or not self._timed.rounds_s:
            return
        made = {"bench": self._bench, "rounds_s": self._timed.rounds_s, "cell": cell.model_dump(mode="json"), "fallbacks": self._fallbacks}
        try:
            self._kept.add(journal.Entry.model_validate(made))
        except OutputError as error:
            pytest.exit(f"bitzones: {error}", returncode=2)

    def _store(self, cell: Measured) -> None:
        self._timed.record(cell.model_dump(mode="json"), KEY)
        if not self._timed.disabled:
            took = None if isinstance(cell, FailedCell) else sum(self._timed.rounds_s)
            self._recorded[self._timed.node] = cell, took

    @contextmanager
    def _recording(self) -> Iterator[None]:
        try:
            yield
        except (NotMeasuredError, pytest.skip.Exception) as error:
            self._keep("not measured", str(error))
            pytest.skip(str(error))
        except OutOfMemoryError as error:
            self._keep("failed", str(error), error.shortages)
            pytest.fail(str(error), pytrace=False)
        except BitzonesError as error:
            self._keep("failed", str(error))
            pytest.fail(str(error), pytrace=False)
        except (KeyboardInterrupt, pytest.exit.Exception):
            self._keep("failed", "interrupted")
            raise
        except pytest.fail.Exception as error:  # pytest-timeout ends a cell in this way
            self._keep("failed", " ".join(str(error).split())[:REASON_LENGTH])
            raise
        except Exception as error:
            self._keep("failed", reason(error))
            raise

    def _keep(self, status: Literal["failed", "not measured"], why: str, shortages: tuple[Shortage, ...] = ()) -> None:
        """Record a cell without a result."""
        self._timed.keep_failed()
        self._store(
            FailedCell(
                variant=self._variant, of=self._of, detail=self._detail, status=status, reason=why or "no reason given", shortages=shortages
            )
        )


def reason(error: BaseException) -> str:
    """An exception in one line for the run file; any kind of memory shortage is reported as out of memory."""
    message = " ".join(str(error).split())[:REASON_LENGTH]
    return f"out of memory: {message}" if _is_out_of_memory(error) else f"{type(error).__name__}: {message}"


def _is_out_of_memory(error: BaseException) -> bool:
    """As `device.is_out_of_memory`, without importing torch if it is not loaded."""
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from bitzones.devices.device import is_out_of_memory

    return is_out_of_memory(error)
