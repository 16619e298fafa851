"""The state of a watch in one SQLite file: every answer as it comes in, so that a crash or restart loses and repeats nothing.

A check is begun with the list of its prompts, answered place by place, and finished with its result and the tests' new state in one
transaction. What was begun and not finished is taken up where it stopped. One process at a time works on a file: a lock of the operating
system, which ends with the process, however it ends.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from bitzones.monitor.server_answers import Answered, Unanswered
from bitzones.schema.errors import OutputError
from bitzones.schema.record import Record
from bitzones.stats.e_process import AboveBound

__all__ = ["Asked", "Check", "State", "opened"]

SCHEMA = 1
KEPT_CHECKS = 100
"""Checks whose single answers are kept; results are kept for good."""

BUSY_S = 10.0
"""Longest wait for a reader, such as a scrape, to be done."""

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE checks (number INTEGER PRIMARY KEY, kind TEXT NOT NULL, prompts TEXT NOT NULL, begun TEXT NOT NULL, finished INTEGER NOT NULL);
CREATE TABLE answers (
  number INTEGER NOT NULL, place INTEGER NOT NULL, model TEXT, tries INTEGER NOT NULL, reason TEXT, logprobs TEXT,
  PRIMARY KEY (number, place)
) WITHOUT ROWID;
CREATE TABLE enrolled (prompt INTEGER PRIMARY KEY, logprobs TEXT NOT NULL);
CREATE TABLE tests (name TEXT PRIMARY KEY, bound REAL NOT NULL, rounds INTEGER NOT NULL, log_capital TEXT NOT NULL, peak REAL NOT NULL)
  WITHOUT ROWID;
CREATE TABLE records (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, record TEXT NOT NULL);
CREATE TABLE counts (name TEXT NOT NULL, label TEXT NOT NULL, value INTEGER NOT NULL, PRIMARY KEY (name, label)) WITHOUT ROWID;
"""

RecordT = TypeVar("RecordT", bound=Record)
Kind = Literal["enroll", "check"]


@dataclass(frozen=True)
class Check:
    """A check that was begun: the prompts by their number in the record, in the order in which they are asked."""

    number: int
    kind: Kind
    prompts: tuple[int, ...]
    begun: str


@dataclass(frozen=True)
class Asked:
    """What came back for one place of a check; ``logprobs`` is None where nothing usable did, for a ``reason``."""

    place: int
    model: str
    tries: int
    reason: str | None
    logprobs: Mapping[Any, float] | None


class State:
    """An open file of state. Use `opened`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block whose changes are all kept, or none."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def value(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def keep(self, name: str, value: str) -> None:
        self._db.execute("INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value))

    def begin(self, kind: Kind, prompts: Sequence[int], now: str) -> Check:
        """A new check."""
        cursor = self._db.execute(
            "INSERT INTO checks (kind, prompts, begun, finished) VALUES (?, ?, ?, 0)", (kind, json.dumps(list(prompts)), now)
        )
        assert cursor.lastrowid is not None
        return Check(cursor.lastrowid, kind, tuple(prompts), now)

    def unfinished(self) -> Check | None:
        """The check that was begun last and not finished."""
        row = self._db.execute("SELECT number, kind, prompts, begun FROM checks WHERE finished = 0 ORDER BY number DESC").fetchone()
        return None if row is None else Check(row[0], row[1], tuple(json.loads(row[2])), row[3])

    def add(self, check: Check, place: int, found: Answered | Unanswered) -> None:
        """What one prompt brought."""
        if isinstance(found, Answered):
            values: tuple[Any, ...] = (found.model, found.tries, None, _dumped(found.logprobs))
        else:
            values = ("", found.tries, found.reason, None)
        self._db.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)", (check.number, place, *values))

    def answers(self, check: Check) -> list[Asked]:
        """What a check has so far, by place."""
        rows = self._db.execute(
            "SELECT place, model, tries, reason, logprobs FROM answers WHERE number = ? ORDER BY place", (check.number,)
        )
        return [Asked(row[0], row[1] or "", row[2], row[3], None if row[4] is None else _loaded(row[4])) for row in rows]

    def finish(self, check: Check) -> None:
        """Mark a check as done and forget the answers of old ones."""
        self._db.execute("UPDATE checks SET finished = 1 WHERE number = ?", (check.number,))
        self._db.execute("DELETE FROM answers WHERE number <= ?", (check.number - KEPT_CHECKS,))

    def drop(self, check: Check) -> None:
        """Forget a check that brought nothing."""
        self._db.execute("DELETE FROM answers WHERE number = ?", (check.number,))
        self._db.execute("DELETE FROM checks WHERE number = ?", (check.number,))

    @property
    def is_enrolled(self) -> bool:
        """Whether there is an enrolled answer."""
        return self._db.execute("SELECT 1 FROM enrolled LIMIT 1").fetchone() is not None

    def enrolled(self) -> dict[int, Mapping[Any, float]]:
        """Prompt -> the enrolled answer."""
        return {row[0]: _loaded(row[1]) for row in self._db.execute("SELECT prompt, logprobs FROM enrolled")}

    def enroll(self, answers: Mapping[int, Mapping[Any, float]]) -> None:
        """Add answers that later ones are compared with."""
        self._db.executemany("INSERT OR REPLACE INTO enrolled VALUES (?, ?)", [(key, _dumped(value)) for key, value in answers.items()])

    def forget_enrolled(self, tests: Sequence[str]) -> None:
        """Begin again: no enrolled answer, no evidence."""
        self._db.execute("DELETE FROM enrolled")
        self._db.executemany("DELETE FROM tests WHERE name = ?", [(name,) for name in tests])

    def test(self, name: str) -> AboveBound | None:
        row = self._db.execute("SELECT bound, rounds, log_capital, peak FROM tests WHERE name = ?", (name,)).fetchone()
        return None if row is None else AboveBound(row[0], row[1], tuple(json.loads(row[2])), row[3])

    def keep_test(self, name: str, test: AboveBound) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO tests VALUES (?, ?, ?, ?, ?)",
            (name, test.bound, test.rounds, json.dumps(test.log_capital), test.peak),
        )

    def tests(self) -> tuple[str, ...]:
        """Names of all tests, in the order of the alphabet."""
        return tuple(row[0] for row in self._db.execute("SELECT name FROM tests ORDER BY name"))

    def record(self, made: Record) -> None:
        """Add a result."""
        self._db.execute("INSERT INTO records (kind, record) VALUES (?, ?)", (type(made).__name__, made.model_dump_json()))

    def records(self, kind: type[RecordT], last: int | None = None) -> tuple[RecordT, ...]:
        """Results of a kind, the oldest first; only the ``last`` ones where that is given."""
        rows = self._db.execute(
            "SELECT record FROM records WHERE kind = ? ORDER BY id DESC LIMIT ?", (kind.__name__, -1 if last is None else last)
        ).fetchall()
        return tuple(kind.model_validate_json(row[0]) for row in reversed(rows))

    def count(self, name: str, label: str = "", by: int = 1) -> None:
        """Raise a counter that only grows."""
        self._db.execute(
            "INSERT INTO counts VALUES (?, ?, ?) ON CONFLICT (name, label) DO UPDATE SET value = value + excluded.value", (name, label, by)
        )

    def counts(self, name: str) -> dict[str, int]:
        """Label -> count."""
        return dict(self._db.execute("SELECT label, value FROM counts WHERE name = ?", (name,)).fetchall())


@contextmanager
def opened(path: Path, *, alone: bool = True) -> Iterator[State]:
    """The state in a file, which is made if it is not there.

    Args:
        path: of the file.
        alone: whether to change it; without that, readers may be many.

    Raises:
        OutputError: the file cannot be read or written, is something else, is of another version, or another process is at work on it.
    """
    with _locked(path) if alone else nullcontext():
        connection = _connected(path, "rwc" if alone else "ro")
        try:
            yield State(connection)
        except sqlite3.Error as error:
            raise OutputError(f"{path}: the state cannot be read or written: {error}") from error
        finally:
            connection.close()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl  # noqa: PLC0415  # not on every system, and this module is imported with the package

    place = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = place.open("w")
    except OSError as error:
        raise OutputError(f"{place}: cannot be written: {error.strerror or error}") from error
    with lock:
        try:
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(f"{path}: another bitzones is at work on this state: wait for it, or give another --state") from error
        yield


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    connection = None
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True, timeout=BUSY_S, isolation_level=None)
        _prepare(connection, path)
    except (sqlite3.Error, OutputError) as error:
        if connection is not None:
            connection.close()
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{path}: no state of bitzones, or it cannot be opened: {error}") from error
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")
    elif version != SCHEMA:
        raise OutputError(f"{path}: a state of version {version}, this bitzones keeps {SCHEMA}: give another --state")
    connection.execute("PRAGMA synchronous = FULL")


def _dumped(logprobs: Mapping[Any, float]) -> str:
    return json.dumps(list(logprobs.items()))


def _loaded(text: str) -> dict[Any, float]:
    return {key: float(value) for key, value in json.loads(text)}
