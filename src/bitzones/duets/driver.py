"""Drives a duet: variant by variant, each cell until its verdict is known or its time is over; then changes again, and what is no time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from pydantic import TypeAdapter

import bitzones
from bitzones.duets.decide_cells import Plan, Timed, by_variant, decide
from bitzones.duets.line_protocol import TimedCell, Way
from bitzones.duets.pair import Limits, Pair
from bitzones.duets.quiet_cores import quiet_cores
from bitzones.duets.sides import Cores, Side
from bitzones.duets.watch import DuetWatch
from bitzones.schema.cells import Cell, FailedCell
from bitzones.schema.duet_cells import DuetCell
from bitzones.schema.duet_record import DuetFile, DuetSide
from bitzones.schema.errors import DuetError, MeasureError, NotMeasuredError
from bitzones.schema.profile import Profile
from bitzones.schema.profile_sections import Gate
from bitzones.schema.run_record import Run

__all__ = ["DuetSettings", "Playing", "play", "playing"]

CELLS: TypeAdapter[tuple[Cell, ...]] = TypeAdapter(tuple[Cell, ...])

USUAL = Limits()

LEAST_CONTROL = 20
"""Quadruples of the new side against itself, besides as many as the change took: enough to see a change of that size there."""

CHANGED = ("worse", "better")


@dataclass(frozen=True)
class DuetSettings:
    """How a duet is played.

    Args:
        gate: has the tolerance.
        cell_limit_s: seconds that one cell may take until it is called inconclusive.
        threads: that each side computes with, on as many cores, which both share.
        seed: of the order of the rounds.
        checks: whether accuracy, divergence and memory are measured besides times.
        select: part of the names of the cells that are timed, spaces around them included; all of them where it is empty.
        in_turn: whether memory holds one model at a time.
        limits: how long an answer may take.
    """

    gate: Gate
    cell_limit_s: float = 900.0
    threads: int = 1
    seed: int = 0
    checks: bool = True
    select: str = ""
    in_turn: bool = False
    limits: Limits = USUAL


@dataclass
class _Found:
    """What has been measured so far, whatever happens next."""

    first: list[Timed] = field(default_factory=list)
    again: list[Timed] = field(default_factory=list)
    control: list[Timed] = field(default_factory=list)
    failed: list[FailedCell] = field(default_factory=list)
    checked: tuple[tuple[Cell, ...], tuple[Cell, ...]] = ((), ())
    stopped: str = ""

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep what is there if a side fails or the user interrupts, and say why it ended."""
        try:
            yield
        except MeasureError as error:
            self.stopped = str(error)
        except KeyboardInterrupt:
            self.stopped = "interrupted"


@dataclass(frozen=True)
class _Known:
    """What both sides say when they are loaded."""

    way: Way
    sources: Sequence[str]
    runs: tuple[Run, Run]
    cells: tuple[TimedCell, ...]
    missing: tuple[FailedCell, ...]


def play(sides: tuple[Side, Side], profile: Profile, settings: DuetSettings, watch: DuetWatch) -> DuetFile:
    """Measure two sides against each other, old and new; the same side twice is a check of the machine.

    What was measured before a side failed, or before Ctrl-C, is returned; ``stopped`` says why it ended.

    Raises:
        DuetError: a side cannot be started, or the two do not measure the same.
        MeasureError: a side cannot load the model.
    """
    began, found = monotonic(), _Found()
    with tempfile.TemporaryDirectory(prefix="bitzones-duet-") as place:
        stage = _Stage(profile, settings, watch, Cores(quiet_cores(settings.threads), settings.threads), Path(place))
        with stage.pair(sides, ("OLD", "NEW")) as pair:
            watch.say("loading both sides")
            known = _introduced(pair, profile, settings)
            found.failed += known.missing
            watch.total = len(known.cells)
            plan = stage.plan(known)
            with found.kept():
                for group in by_variant(known.cells):
                    decide(pair, group, plan, watch, found.first, found.failed)
                if settings.checks:
                    watch.say("accuracy, divergence and memory, both sides at once")
                    old, new = pair.checks()
                    found.checked = CELLS.validate_python(old), CELLS.validate_python(new)
        if not found.stopped:
            with found.kept():
                stage.repeat(sides, known, plan, found)
    return _file(sides, known, found, settings, stage.cores, monotonic() - began)


@dataclass(frozen=True)
class _Stage:
    """What all processes of a duet share."""

    profile: Profile
    settings: DuetSettings
    watch: DuetWatch
    cores: Cores
    folder: Path

    def pair(self, sides: tuple[Side, Side], names: tuple[str, str]) -> Pair:
        settings = self.settings
        return Pair(sides, names, self.cores, self.folder, settings.limits, settings.seed, in_turn=settings.in_turn)

    def plan(self, known: _Known) -> Plan:
        device = known.runs[1].environment.device if known.runs[1].environment else "cpu"
        settings = self.settings
        return Plan(settings.gate.duet_time, max(1, len(known.cells)), settings.cell_limit_s, device == "cpu" and settings.threads == 1)

    def repeat(self, sides: tuple[Side, Side], known: _Known, plan: Plan, found: _Found) -> None:
        """Measure what changed again: by new processes, and the new side against itself."""
        changed = [item for item in found.first if item.word in CHANGED]
        if not changed:
            return
        self.watch.total += 2 * len(changed)
        self.watch.say("again, by new processes")
        self._measured(sides, ("OLD", "NEW"), known, changed, plan, found.again, found.failed)
        self.watch.say("the new side against itself")
        most = LEAST_CONTROL + max(len(item.found) for item in (*changed, *found.again))
        self._measured((sides[1], sides[1]), ("NEW", "NEW"), known, changed, replace(plan, most=most), found.control, found.failed)

    def _measured(
        self,
        sides: tuple[Side, Side],
        names: tuple[str, str],
        known: _Known,
        cells: Sequence[Timed],
        plan: Plan,
        kept: list[Timed],
        failed: list[FailedCell],
    ) -> None:
        with self.pair(sides, names) as pair:
            pair.greet()
            pair.load(self.profile, known.way)
            for group in by_variant(item.cell for item in cells):
                decide(pair, group, plan, self.watch, kept, failed)


def _introduced(pair: Pair, profile: Profile, settings: DuetSettings) -> _Known:
    """Load both sides and see that they measure the same.

    Raises:
        DuetError: they have other weights, or no cell is chosen.
    """
    way = pair.greet()[0]
    (old, old_cells), (new, new_cells) = pair.load(profile, way)
    hashes = [run.model.sha256 if run.model else None for run in (old, new)]
    if hashes[0] != hashes[1]:
        told = f"OLD has the weights {str(hashes[0])[:12]} and NEW {str(hashes[1])[:12]} (sha256)"
        raise DuetError(f"both sides must load one model, and {told}")
    chosen = [cell for cell in dict.fromkeys([*new_cells, *old_cells]) if settings.select in f" {cell.key} "]
    if not chosen:
        raise DuetError(f"no cell is named like {settings.select!r}; there are {', '.join(str(cell.key) for cell in new_cells)}")
    both = tuple(cell for cell in chosen if cell in old_cells and cell in new_cells)
    alone = [(cell, f"the {'old' if cell in new_cells else 'new'} side has no such cell") for cell in chosen if cell not in both]
    missing = tuple(
        FailedCell(variant=cell.variant, of=cell.kind, detail=cell.detail, status="not measured", reason=reason) for cell, reason in alone
    )
    return _Known(way, pair.sources, (old, new), both, missing)


def _file(sides: tuple[Side, Side], known: _Known, found: _Found, settings: DuetSettings, cores: Cores, took_s: float) -> DuetFile:
    old, new = (
        DuetSide(spec=side.spec, source="given" if source == "given" else "own", run=run, cells=cells)
        for side, source, run, cells in zip(sides, known.sources, known.runs, found.checked, strict=True)
    )
    return DuetFile(
        bitzones=bitzones.__version__,
        measured_at=datetime.now(UTC).isoformat(),
        took_s=took_s,
        old=old,
        new=new,
        gate=settings.gate,
        seed=settings.seed,
        way=known.way,
        threads=settings.threads,
        cores=cores.numbers,
        in_turn=settings.in_turn,
        aa=sides[0] is sides[1],
        cells=_duet_cells(known, found, settings),
        failed=tuple(found.failed),
        stopped=found.stopped,
    )


def _duet_cells(known: _Known, found: _Found, settings: DuetSettings) -> tuple[DuetCell, ...]:
    again, control = ({item.cell: item.record for item in items} for items in (found.again, found.control))
    return tuple(
        DuetCell(
            variant=item.cell.variant,
            of=item.cell.kind,
            detail=item.cell.detail,
            calls=item.calls,
            family=max(1, len(known.cells)),
            limit_s=settings.cell_limit_s,
            took_s=item.took_s,
            first=item.record,
            again=again.get(item.cell),
            control=control.get(item.cell),
            against=known.runs[0].releases,
        )
        for item in found.first
    )


class Playing:
    """Two sides that stay alive, and are asked for one cell at a time: a test that is a cell does so."""

    def __init__(self, stage: _Stage, pair: Pair, sides: tuple[Side, Side]) -> None:
        self._stage, self._pair, self._sides = stage, pair, sides
        self._known = _introduced(pair, stage.profile, stage.settings)

    def latency(self, variant: str, detail: str) -> DuetCell:
        """One latency cell, measured until it is decided; a change again, by new processes.

        Raises:
            NotMeasuredError: a side has no such cell, or cannot time it.
            MeasureError: a side fails to.
            DuetError: a side crashed or hung.
        """
        wanted, found = TimedCell(kind="latency", variant=variant, detail=detail), _Found()
        plan = self._stage.plan(self._known)
        if wanted in self._known.cells:
            decide(self._pair, [wanted], plan, self._stage.watch, found.first, found.failed)
        else:
            found.failed += [cell for cell in self._known.missing if cell.key == wanted.key]
        if not found.first:
            failed = found.failed[0] if found.failed else None
            reason = failed.reason if failed else f"neither side has a cell {wanted.key}"
            raise MeasureError(reason) if failed and failed.status == "failed" else NotMeasuredError(reason)
        self._stage.repeat(self._sides, self._known, plan, found)
        return _duet_cells(self._known, found, self._stage.settings)[0]


@contextmanager
def playing(sides: tuple[Side, Side], profile: Profile, settings: DuetSettings, watch: DuetWatch) -> Iterator[Playing]:
    """Both sides, loaded; ended with the block.

    Raises:
        DuetError: as `play`.
        MeasureError: as `play`.
    """
    with tempfile.TemporaryDirectory(prefix="bitzones-duet-") as place:
        stage = _Stage(profile, settings, watch, Cores(quiet_cores(settings.threads), settings.threads), Path(place))
        with stage.pair(sides, ("OLD", "NEW")) as pair:
            yield Playing(stage, pair, sides)
