"""The journal of a run: finished cells, written as it goes, because the run file is written only at the end.

Every finished cell is one line of JSON, flushed to disk before the next cell starts, so that a run that is killed loses at most the current
cell. The first line is the run's fingerprint (what was measured, with what and where), so that cells of another run are never mixed in.
Failed cells are retried on resume. A sweep that is divided keeps its blocks in the same way (`run.shards`, `run.ray_sweep`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

from filelock import FileLock, Timeout
from pydantic import Field, ValidationError

from bitzones.schema.cells import Cell
from bitzones.schema.differences import difference
from bitzones.schema.errors import MeasureError, OutputError
from bitzones.schema.files import beside
from bitzones.schema.record import Line, NonNegative
from bitzones.schema.validation_errors import first_error

__all__ = ["Entry", "Fallbacks", "Journal", "code_sha256", "resume", "sole", "start", "sweep_journal", "sweep_journals"]

FORMAT = 1
"""Version of the file format. History: 1, 2026-11, first."""

HEAD = "bitzones-journal"
"""Key in the first line that identifies a journal."""

PREVIOUS = ".previous"
"""Suffix of an unfinished journal when a run starts over, so that forgetting ``--resume`` does not lose hours of work."""

Fallbacks: TypeAlias = Mapping[str, dict[str, str]]
"""Variant -> module -> why it has the stock format's integers (`records.Rounding`), of the variants that were built until then."""


LineT = TypeVar("LineT", bound=Line)


class Entry(Line):
    """A finished cell: ``bench`` is the file and name of its benchmark, ``rounds_s`` its timed rounds, ``cell`` its record."""

    what: ClassVar[str] = "cells"

    bench: str
    rounds_s: tuple[NonNegative, ...] = Field(min_length=1)
    cell: Cell
    fallbacks: Fallbacks = Field(default_factory=dict)

    @property
    def key(self) -> str:
        return self.bench


class Journal(Generic[LineT]):
    """An open journal: ``entries`` by key, and the file to which more are appended."""

    def __init__(self, path: Path, entries: Mapping[str, LineT]) -> None:
        self.path = path
        self.entries = dict(entries)

    def finished(self) -> int:
        """Cells that a resumed run would find, counted in the file: Ctrl-C may come after a line is written and before it is noted here."""
        return _finished(self.path)

    def add(self, entry: LineT) -> None:
        """Append what is finished; it is on disk when this returns.

        Raises:
            OutputError: it cannot be written; earlier lines are unchanged.
        """
        line = (entry.model_dump_json() + "\n").encode()
        try:
            with self.path.open("ab", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                try:
                    _write(file.fileno(), line)
                except OSError:
                    file.truncate(end)
                    raise
        except OSError as error:
            raise _unwritable(self.path, error, f"; make room and run again with --resume: the {entry.what} before it are kept") from error
        self.entries[entry.key] = entry


def start(path: Path, fingerprint: Mapping[str, Any], notify: Callable[[str], None], kind: type[LineT]) -> Journal[LineT]:
    """Start a journal. An existing unfinished one is renamed, and ``notify`` is told.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with beside(path) as place:
            with place.open("wb") as file:
                _write(file.fileno(), (json.dumps({HEAD: FORMAT, "fingerprint": fingerprint}) + "\n").encode())
            _put_aside(path, notify, kind.what)
    except OSError as error:
        raise _unwritable(path, error) from error
    return Journal(path, {})


def _put_aside(path: Path, notify: Callable[[str], None], what: str) -> None:
    if not path.exists():
        return
    with path.open("rb") as file:
        if HEAD.encode() not in file.readline():
            raise OutputError(f"{path}: there is another file of this name, and it is no journal: give another place")
    if finished := _finished(path):
        aside = path.with_name(path.name + PREVIOUS)
        path.replace(aside)
        notify(f"starting over: {finished} {what} of an unfinished run, which --resume would have continued, are kept in {aside}")


def _finished(path: Path) -> int:
    """Number of complete lines after the first."""
    with path.open("rb") as file:
        return max(0, sum(line.endswith(b"\n") for line in file) - 1)


def resume(path: Path, fingerprint: Mapping[str, Any], notify: Callable[[str], None], kind: type[LineT]) -> Journal[LineT]:
    """Continue a journal, or start one if there is none. A truncated last line is dropped, and ``notify`` is told.

    Raises:
        MeasureError: the file is the journal of another run, not a journal, or damaged.
        OutputError: it cannot be read or written.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        notify(f"nothing to resume: there is no {path}, so this run starts at the beginning")
        return start(path, fingerprint, notify, kind)
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror}") from error
    whole, _, cut = text.rpartition(b"\n")
    head, *lines = whole.split(b"\n")
    _check_head(path, head, fingerprint, kind.what)
    entries = [_entry(path, number, line, kind) for number, line in enumerate(lines, start=2)]
    if cut:
        notify(f"{path}: its last line is truncated, because the run was killed while writing; what it held is measured again")
        try:
            os.truncate(path, len(whole) + 1)
        except OSError as error:
            raise _unwritable(path, error) from error
    notify(f"resuming: {len(entries)} finished {kind.what} are taken from {path}")
    return Journal(path, {entry.key: entry for entry in entries})


def _check_head(path: Path, line: bytes, fingerprint: Mapping[str, Any], what: str) -> None:
    try:
        head = json.loads(line)
        number, there = head[HEAD], head["fingerprint"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise MeasureError(f"{path}: not a journal of bitzones: give another place, or run without --resume") from error
    if number != FORMAT:
        raise MeasureError(f"{path}: its format is {number}, this bitzones reads {FORMAT}: run without --resume to start over")
    if found := difference(there, json.loads(json.dumps(fingerprint))):
        raise MeasureError(
            f"{path}: of another run, whose {what} are not mixed in: {found}; run without --resume to start over, or give another folder"
        )


def _entry(path: Path, number: int, line: bytes, kind: type[LineT]) -> LineT:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        first = first_error(error)
        raise MeasureError(
            f"{path}: line {number} is damaged ({first.path} {first.message}): run without --resume to start over"
        ) from error


def sweep_journal(folder: Path, batch: int) -> Path:
    """The journal of a sweep that several workers measure, in the folder of its run: results of other batch sizes are not mixed in."""
    return folder / f"sweep-b{batch}.jsonl"


def sweep_journals(folder: Path) -> list[Path]:
    """Those of every batch size that was tried."""
    return sorted(folder.glob("sweep-b*.jsonl"))


def code_sha256() -> str:
    """Hash of bitzones' source, so that a run is not resumed with different code."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


@contextmanager
def sole(place: Path) -> Iterator[None]:
    """Lock a journal, or its folder, for this run; the lock ends with the process, however that ends.

    Raises:
        OutputError: another run holds the lock, whose process ID is in the message; or the folder is not writable.
    """
    mark = place.with_name(f".{place.name}.lock")
    lock = FileLock(mark)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        mark.write_text(str(os.getpid()), encoding="utf-8")
    except Timeout:
        who = mark.read_text(encoding="utf-8", errors="replace").strip()
        raise OutputError(
            f"{place.parent}: another run is writing here (process {who or 'unknown'}): wait for it, or give another folder"
        ) from None
    except OSError as error:
        lock.release()
        raise _unwritable(place.parent, error) from error
    try:
        yield
    finally:
        with suppress(OSError):
            mark.unlink()
        lock.release()


def _write(handle: int, data: bytes) -> None:
    """Write all of the data and flush it to disk."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
    os.fsync(handle)


def _unwritable(path: Path, error: OSError, advice: str = "") -> OutputError:
    return OutputError(f"{path}: cannot be written: {error.strerror or error}{advice}")
