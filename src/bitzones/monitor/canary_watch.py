"""A watch over one server: checks that begin, are taken up where a crash or an outage stopped them, and end in its state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from bitzones.monitor.canary import TESTS, Known, Tolerance, check_tolerance, drawn, judged
from bitzones.monitor.naming import Names
from bitzones.monitor.records import CanaryCheck, TestName
from bitzones.monitor.server_answers import WAYS, Answered, Unanswered, Way, no_answer
from bitzones.monitor.state import Check, State
from bitzones.schema.canary_record import CanaryRecord
from bitzones.schema.errors import ArgumentError, ServerError
from bitzones.stats.e_process import AboveBound

__all__ = ["PROMPTS", "CanaryWatch", "Server", "now"]

PROMPTS = 50
"""Prompts of a check: a quarter of the record's usual 200, about a second of a server's time."""

NO_TOLERANCE = Tolerance()

OUTAGE = 5
"""So many prompts in a row without an answer are an outage: the check waits for the next call, and is taken up there."""


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _quiet(line: str) -> None:
    """Show nothing."""


class Server(Protocol):
    """What a watch asks: `Completions`, or a model in memory."""

    url: str
    way: Way | None

    def next_token(self, ids: tuple[int, ...], text: str, top: int) -> Answered | Unanswered:
        """The ``top`` likeliest next tokens after a prompt; ``way`` says how they are named from the first answer on."""


@dataclass(frozen=True)
class CanaryWatch:
    """Checks of a server against a record.

    ``prompts`` are asked in a check; ``notify`` is told of what takes long.

    Raises:
        ArgumentError: the state belongs to another record, server or model.
    """

    record: CanaryRecord
    state: State
    server: Server
    prompts: int = PROMPTS
    tolerance: Tolerance = NO_TOLERANCE
    notify: Callable[[str], None] = _quiet

    def __post_init__(self) -> None:
        self._bind("canary", self.record.sha256, "this record")
        self._bind("server", self.server.url, self.server.url)
        if (way := self.state.value("way")) is not None and self.server.way is None:
            self.server.way = next((known for known in WAYS if known.name == way), None)

    def _bind(self, name: str, value: str, shown: str) -> None:
        before = self.state.value(name)
        if before is None:
            self.state.keep(name, value)
        elif before != value:
            what = f"the {name} was {before}" if name != "canary" else "it was begun with another canary.json"
            raise ArgumentError(f"the state is not of {shown}: {what}; give another --state")

    def enroll_again(self) -> None:
        """Forget the enrolled answers and all evidence: the next check enrolls the server as it is then."""
        with self.state.together():
            if (begun := self.state.unfinished()) is not None:
                self.state.drop(begun)
            self.state.forget_enrolled(TESTS)

    def check(self) -> CanaryCheck:
        """Make a check, or finish the one that was begun.

        Raises:
            ServerError: the server cannot be reached, or stopped answering; what it answered is kept, and the next call goes on from there.
            ArgumentError: the server refuses to be asked, or lacks log-probabilities, or bounds are given that come too late.
        """
        check_tolerance(self._known(), self.tolerance)
        check = self.state.unfinished() or self._begun()
        try:
            self._ask(check)
        except ServerError:
            self.state.count("outages")
            raise
        with self.state.together():
            way = self.server.way
            assert way is not None
            names = Names(self.record, by_id=way.by_id)
            answers, before = self.state.answers(check), self._known()
            result, known = judged(self.record, before, check, answers, way.name, names, self.tolerance, now())
            self.state.enroll({prompt: known.enrolled[prompt] for prompt in known.enrolled.keys() - before.enrolled.keys()})
            self._keep(check, result, known)
        return result

    def _begun(self) -> Check:
        with self.state.together():
            enrolled = self.state.is_enrolled
            number = int(self.state.value("checks") or 0) + 1
            self.state.keep("checks", str(number))
            chosen = drawn(self.record, number, self.prompts if enrolled else None, self.record.seed)
            return self.state.begin("check" if enrolled else "enroll", chosen, now())

    def _ask(self, check: Check) -> None:
        """Ask what is not answered yet. Answers are kept one by one; missing ones once a later prompt was answered."""
        done = {item.place for item in self.state.answers(check)}
        missing: list[tuple[int, Unanswered]] = []
        if done:
            self.notify(f"check {check.number}: going on after {len(done)} of {len(check.prompts)} prompts")
        for place, number in enumerate(check.prompts):
            if place in done:
                continue
            prompt = self.record.prompts[number]
            found = self.server.next_token(prompt.prompt_ids, prompt.text, self.record.top)
            if isinstance(found, Answered):
                self._keep_answers(check, [*missing, (place, found)])
                missing = []
                continue
            missing.append((place, found))
            if len(missing) == OUTAGE or found.reason == "no log-probabilities":
                raise no_answer(self.server.url, found)
        if missing and len(missing) == len(check.prompts):
            raise no_answer(self.server.url, missing[-1][1])
        self._keep_answers(check, missing)

    def _keep_answers(self, check: Check, found: Iterable[tuple[int, Answered | Unanswered]]) -> None:
        with self.state.together():
            for place, answer in found:
                self.state.add(check, place, answer)
            if self.server.way is not None:
                self.state.keep("way", self.server.way.name)

    def _known(self) -> Known:
        tests: dict[TestName, AboveBound] = {}
        for name in TESTS:
            if (test := self.state.test(name)) is not None:
                tests[name] = test
        return Known(self.state.enrolled(), tests)

    def _keep(self, check: Check, result: CanaryCheck, known: Known) -> None:
        for name, test in known.tests.items():
            self.state.keep_test(name, test)
        self.state.record(result)
        self.state.count("checks", result.kind)
        self.state.count("prompts", "answered", result.answered)
        for reason, count in result.unanswered.items():
            self.state.count("prompts", reason, count)
        self.state.count("retries", "", result.retries)
        self.state.finish(check)
