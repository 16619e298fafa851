"""Both sides of a duet, alive: loaded, warmed and asked for quadruples of rounds."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bitzones.duets.line_protocol import PROTOCOL, TimedCell, Way
from bitzones.duets.side_process import SideProcess
from bitzones.duets.sides import Cores, Side
from bitzones.schema.duet_cells import Quadruples
from bitzones.schema.errors import DuetError, MeasureError
from bitzones.schema.profile import Profile
from bitzones.schema.run_record import Run

__all__ = ["Limits", "Pair", "Quadruple", "as_record"]

Order = Literal["ABBA", "BAAB"]

GREETING_S = 600.0
"""For starting Python and importing torch, on a busy machine."""


@dataclass(frozen=True)
class Limits:
    """Seconds for loading a model, warming a cell up (a release may compile its kernels), one round, and everything that is no time."""

    load_s: float = 3600.0
    warm_s: float = 1200.0
    round_s: float = 120.0
    checks_s: float = 7200.0


@dataclass(frozen=True)
class Quadruple:
    """Four rounds in their order: seconds without the wait for a core, and that wait."""

    order: Order
    rounds_s: tuple[float, float, float, float]
    queued_s: tuple[float, float, float, float]


class Pair:
    """OLD and NEW, started; used as a context, at the end of which both are ended.

    Args:
        sides: old and new.
        names: for messages.
        cores: shared by both.
        folder: for what they print.
        limits: how long an answer may take.
        seed: of the order.
        in_turn: whether memory holds one model at a time.
    """

    def __init__(
        self,
        sides: tuple[Side, Side],
        names: tuple[str, str],
        cores: Cores,
        folder: Path,
        limits: Limits,
        seed: int,
        *,
        in_turn: bool = False,
    ) -> None:
        self._limits, self._coin, self.in_turn = limits, random.Random(seed), in_turn
        self._asked: tuple[str, Way] = "", "session"
        self._prepared: list[set[TimedCell]] = [set(), set()]
        self._resident = [False, False]
        self._processes: list[SideProcess] = []
        self.sources: list[str] = []
        try:
            for which, made in zip(names, sides, strict=True):
                log = folder / f"{which.lower()}-{len(list(folder.iterdir()))}.log"
                self._processes.append(SideProcess(which, made.command(cores), made.environment(), log, made.stop))
        except MeasureError:
            self.end()
            raise

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()

    def end(self) -> None:
        """End both processes."""
        for process in self._processes:
            process.end()

    def greet(self) -> list[Way]:
        """The ways in which both can measure, the best first.

        Raises:
            DuetError: a side does not speak this protocol, or they have no way in common.
        """
        answers = self._both("hello", GREETING_S)
        for process, answer in zip(self._processes, answers, strict=True):
            if answer.get("protocol") != PROTOCOL:
                raise DuetError(
                    f"{process.name}: its bitzones {answer.get('bitzones')} speaks protocol {answer.get('protocol')} of duets, this one "
                    f"{PROTOCOL}: use versions that agree"
                )
            self.sources.append(answer["source"])
        ways: list[Way] = [way for way in ("session", "basic") if all(way in answer["ways"] for answer in answers)]
        if not ways:
            can = "; ".join(f"{p.name}: {', '.join(a['ways']) or 'none'}" for p, a in zip(self._processes, answers, strict=True))
            raise DuetError(f"the sides have no way of measuring in common ({can})")
        return ways

    def load(self, profile: Profile, way: Way) -> tuple[tuple[Run, list[TimedCell]], tuple[Run, list[TimedCell]]]:
        """Load the model on both sides: what each says of it, and the cells that it can time.

        Raises:
            MeasureError: a side cannot load it.
        """
        self._asked = profile.model_dump_json(by_alias=True), way
        if self.in_turn:
            answers = [self._load_alone(side) for side in (0, 1)]
        else:
            answers = self._both("load", self._limits.load_s, profile=self._asked[0], way=way)
            self._resident = [True, True]
        old, new = ((Run.model_validate(answer["run"]), [TimedCell.model_validate(cell) for cell in answer["cells"]]) for answer in answers)
        return old, new

    def prepare(self, cell: TimedCell) -> float:
        """Warm a cell up on both sides: seconds of a call of the slower one.

        Raises:
            MeasureError: a side cannot time it, or the sides time different shapes.
        """
        answers = [self._on(side, "prepare", self._limits.warm_s, cell=cell.model_dump()) for side in (0, 1)]
        for prepared in self._prepared:
            prepared.add(cell)
        if answers[0]["shape"] != answers[1]["shape"]:
            raise MeasureError(f"memory holds {answers[0]['shape']} on the old side and {answers[1]['shape']} on the new one")
        return max(float(answer["seconds"]) for answer in answers)

    def quadruple(self, cell: TimedCell, calls: int, *, queued: bool) -> Quadruple:
        """Four rounds of a cell that is prepared, in an order that a coin chooses; ``queued`` takes the wait for a core out of them."""
        order: Order = self._coin.choice(("ABBA", "BAAB"))
        rounds: list[float] = []
        waits: list[float] = []
        for side in order:
            found = self._on("AB".index(side), "round", cell=cell.model_dump(), calls=calls)["calls"]
            kept = [(wall - (wait if queued else 0.0), wait if queued else 0.0) for wall, wait in found]
            rounds.append(max(statistics.median(took for took, _ in kept), 1e-8))
            waits.append(statistics.median(wait for _, wait in kept))
        return Quadruple(order, (rounds[0], rounds[1], rounds[2], rounds[3]), (waits[0], waits[1], waits[2], waits[3]))

    def checks(self) -> tuple[list[Any], list[Any]]:
        """What is no time, of both sides: at the same time, where both models are in memory."""
        if self.in_turn:
            old, new = (self._on(side, "checks", limit_s=self._limits.checks_s)["cells"] for side in (0, 1))
        else:
            old, new = (answer["cells"] for answer in self._both("checks", self._limits.checks_s))
        return old, new

    def _on(self, side: int, do: str, limit_s: float | None = None, **question: Any) -> dict[str, Any]:
        """Ask one side, whose model is brought into memory first where it holds one at a time."""
        if not self._resident[side]:
            self._load_alone(side)
            for cell in self._prepared[side]:
                self._processes[side].ask("prepare", self._limits.warm_s, cell=cell.model_dump())
        return self._processes[side].ask(do, limit_s or self._limits.round_s, **question)

    def _load_alone(self, side: int) -> dict[str, Any]:
        other = 1 - side
        if self._resident[other]:
            self._processes[other].ask("unload", self._limits.load_s)
            self._resident[other] = False
        profile, way = self._asked
        answer = self._processes[side].ask("load", self._limits.load_s, profile=profile, way=way)
        self._resident[side] = True
        return answer

    def forget(self, cells: Iterable[TimedCell]) -> None:
        """Cells that are not timed any more need no warm-up after a model came back."""
        for prepared in self._prepared:
            prepared.difference_update(cells)

    def _both(self, do: str, limit_s: float, **question: Any) -> list[dict[str, Any]]:
        """Ask both at once: nothing of this is timed."""
        for process in self._processes:
            process.tell(do, **question)
        return [process.hear(do, limit_s) for process in self._processes]


def as_record(found: Sequence[Quadruple]) -> Quadruples:
    """Quadruples as a cell holds them."""
    return Quadruples(
        orders=tuple(item.order for item in found),
        rounds_s=tuple(item.rounds_s for item in found),
        queued_s=tuple(item.queued_s for item in found),
    )
