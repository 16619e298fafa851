"""A duet of the deciding side: both sides do the same work on one run file, and their instructions are counted, not their times.

Both run at once, since a busy machine changes no count. A change is counted again by new processes, as that of a time is.
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

import bitzones
from bitzones.duets import counted_work
from bitzones.duets.instruction_counters import InstructionCounter, instruction_counter
from bitzones.duets.sides import Side
from bitzones.duets.watch import DuetWatch
from bitzones.regression.instruction_changes import instructions
from bitzones.schema import environment
from bitzones.schema.duet_record import DuetFile, DuetSide
from bitzones.schema.errors import DuetError
from bitzones.schema.instructions_cell import InstructionsCell, Work
from bitzones.schema.profile import Profile
from bitzones.schema.run_record import Run

__all__ = ["WORKS", "count"]

WORKS: tuple[Work, ...] = ("collect", "report", "compare")

REPEATABLE = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Sets of strings in one order, and no threads that wait for each other in loops."""

Cells = tuple[InstructionsCell, ...]


def count(sides: tuple[Side, Side], run_file: Path, profile: Profile, limit_s: float, watch: DuetWatch) -> DuetFile:
    """Count what both sides execute on a run file, old and new.

    Args:
        sides: old and new; the same twice is a check of how well counts repeat.
        run_file: that is analyzed, reported and compared.
        profile: has the tolerance.
        limit_s: seconds that a process may take.
        watch: told of progress.

    Raises:
        NotMeasuredError: nothing counts instructions here.
        MeasureError: nothing was counted.
        DuetError: a side is a container, or failed at the work.
    """
    began = monotonic()
    if any(side.container for side in sides):
        raise DuetError("instructions are not counted in a container: name environments, wheels, checkouts or git:REF")
    with tempfile.TemporaryDirectory(prefix="bitzones-counts-") as place:
        round_ = _Round(instruction_counter(Path(place)), run_file.resolve(), Path(place), limit_s)
        watch.say(f"both sides at once, counted by {round_.counter.name}")
        old, new = round_.of(sides)
        changed = [now.work for was, now in zip(old, new, strict=True) if _status(was, now, profile) != "same"]
        if changed:
            watch.say(f"again, by new processes: {', '.join(changed)}")
            old, new = (_joined(first, again) for first, again in zip((old, new), round_.of(sides, tuple(changed)), strict=True))
    return DuetFile(
        bitzones=bitzones.__version__,
        measured_at=datetime.now(UTC).isoformat(),
        took_s=monotonic() - began,
        old=_side(sides[0], old, profile),
        new=_side(sides[1], new, profile),
        gate=profile.gate,
        seed=0,
        way="counted",
        threads=1,
        aa=sides[0] is sides[1],
        cells=(),
    )


def _status(old: InstructionsCell, new: InstructionsCell, profile: Profile) -> str:
    return instructions(old, new, profile.gate.instructions).metric.status


def _joined(first: Cells, again: Cells) -> Cells:
    more = {cell.work: cell.counts for cell in again}
    return tuple(cell.model_copy(update={"counts": (*cell.counts, *more.get(cell.work, ()))}) for cell in first)


def _side(side: Side, cells: Cells, profile: Profile) -> DuetSide:
    here = environment.collect("cpu", "cpu", 1, "not loaded").model_copy(update={"versions": {}})  # a side may have others
    run = Run(bitzones=side.spec, profile=profile, model=None, variants={}, environment=here)
    return DuetSide(spec=side.spec, source="given" if side.whose == "given" else "own", run=run, cells=cells)


class _Round:
    """Counts all works of both sides once, in new processes.

    Args:
        counter: what counts.
        run_file: what is worked on.
        place: for all that is written.
        limit_s: seconds that a process may take.
    """

    def __init__(self, counter: InstructionCounter, run_file: Path, place: Path, limit_s: float) -> None:
        self.counter, self._run_file, self._place, self._limit_s = counter, run_file, place, limit_s
        self._sha256 = hashlib.sha256(run_file.read_bytes()).hexdigest()

    def of(self, sides: tuple[Side, Side], works: tuple[Work, ...] = WORKS) -> tuple[Cells, Cells]:
        """Cells of both sides, in the order of the works."""
        found: tuple[dict[Work, int], dict[Work, int]] = ({}, {})
        for group in self.counter.groups(works):
            folders = [Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._place)) for name in ("old", "new")]
            processes = [self._started(side, folder, group) for side, folder in zip(sides, folders, strict=True)]
            try:
                for name, process, folder in zip(("OLD", "NEW"), processes, folders, strict=True):
                    self._waited(name, process, folder)
            finally:
                for process in processes:
                    process.kill()
                    process.wait()
            for counts, folder in zip(found, folders, strict=True):
                counts.update(self.counter.counts(folder, group))
        old, new = (tuple(self._cell(work, counts[work]) for work in works) for counts in found)
        return old, new

    def _cell(self, work: Work, counted: int) -> InstructionsCell:
        return InstructionsCell(work=work, counter=self.counter.name, run_sha256=self._sha256, counts=(counted,))

    def _started(self, side: Side, folder: Path, works: tuple[Work, ...]) -> subprocess.Popen[bytes]:
        before, switch = self.counter.prepared(folder)
        text = Path(counted_work.__file__).read_text(encoding="utf-8")
        told = [side.whose, side.source, self.counter.name, switch, str(self._run_file), str(folder), ",".join(works)]
        with (folder / "log").open("wb") as log:
            return subprocess.Popen(  # noqa: S603 (the user names the environment)
                [*before, *side.python, "-c", text, *told],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=_variables(side),
                cwd=folder,
            )

    def _waited(self, name: str, process: subprocess.Popen[bytes], folder: Path) -> None:
        try:
            code = process.wait(self._limit_s)
        except subprocess.TimeoutExpired as error:
            raise DuetError(f"{name}: not done within {self._limit_s:g} s; ended") from error
        if code:
            lines = (folder / "log").read_text(encoding="utf-8", errors="replace").split("\n")
            said = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
            raise DuetError(f"{name}: its process ended with exit code {code}: {said[-200:]}")


def _variables(side: Side) -> Mapping[str, str]:
    """As a side's, but compiled modules are kept: under callgrind, compiling them again takes longer than the work."""
    kept = {name: value for name, value in side.environment().items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **REPEATABLE}
