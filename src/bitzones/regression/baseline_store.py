"""Folders of earlier runs, and the choice of the run with which a new one is compared.

pytest-benchmark's storage (``.benchmarks/MACHINE/0001_*.json``, ``--benchmark-autosave``) and any other folder are read alike: every
``.json`` file below it that is a run of bitzones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bitzones.analysis.reader import RunFile, one_line, read_run
from bitzones.regression.compare import same_profile
from bitzones.regression.duet_changes import read_duet
from bitzones.regression.time_changes import machine
from bitzones.schema.duet_record import DuetFile
from bitzones.schema.errors import OutputError, RunFileError
from bitzones.schema.files import write_text
from bitzones.schema.run_record import KEY

__all__ = ["KeptRun", "newest_like", "save", "stored", "stored_duets"]

MACHINE = "bitzones"
"""Folder of `save` inside the storage, where pytest-benchmark has one for each kind of machine."""


@dataclass(frozen=True)
class KeptRun:
    """A run file in a folder of kept runs."""

    path: Path
    """The file."""
    run: RunFile | None
    """The run; None if the file cannot be used."""
    fault: str | None
    """Why the file cannot be used; None if it can."""


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise RunFileError(f"{folder}: no such folder; 'bitzones baseline save RUN.json' or '--benchmark-autosave' would make one")
    return sorted(path for path in folder.rglob("*.json") if path.is_file() and not path.name.startswith("."))


def stored(folder: Path) -> list[KeptRun]:
    """The run files below a folder, oldest first; those of others are left out, those that are broken are named.

    Raises:
        RunFileError: there is no such folder.
    """
    found = []
    for path in _files(folder):
        try:
            found.append(KeptRun(path, read_run(path), None))
        except RunFileError as error:
            if _of_bitzones(path):
                found.append(KeptRun(path, None, str(error)))
    return sorted(found, key=lambda item: (item.run.measured_at or "" if item.run else "", str(item.path)))


def stored_duets(folder: Path) -> list[DuetFile]:
    """The duet files below a folder; those that cannot be read are left out."""
    found = []
    for path in _files(folder):
        with suppress(RunFileError):
            found.append(read_duet(path))
    return found


def _of_bitzones(path: Path) -> bool:
    """Whether a file that cannot be read was to be a run: a report's plan.json and analysis.json lie beside one."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return f'"{KEY}"' in text and '"benchmarks"' in text


def newest_like(run: RunFile, kept: Sequence[KeptRun], folder: Path) -> RunFile:
    """The newest run of the same profile, model and machine, the run itself left out.

    Args:
        run: what is to be compared.
        kept: what `stored` found, oldest first.
        folder: where, for the message.

    Raises:
        RunFileError: there is none; the message says what the runs there differ in.
    """
    others = [item.run for item in kept if item.run is not None and not _itself(run, item.run)]
    for other in reversed(others):
        if not _unlike(run, other):
            return other
    if not others:
        raise RunFileError(f"{folder}: it holds no other run of bitzones to compare with")
    last = others[-1]
    unlike = " and another ".join(_unlike(run, last))
    raise RunFileError(one_line(f"{folder}: none of its {len(others)} runs is like {run.path}: {last.path} has another {unlike}"))


def _itself(run: RunFile, other: RunFile) -> bool:
    return Path(run.path).resolve() == Path(other.path).resolve() or (
        run.measured_at is not None and run.measured_at == other.measured_at and run.cells == other.cells
    )


def _unlike(run: RunFile, other: RunFile) -> list[str]:
    """What keeps a run from being a baseline of another."""
    models = [item.run.model.sha256 if item.run.model else None for item in (run, other)]
    facts = {
        "profile": same_profile(run, other),
        "model": models[0] == models[1],
        "machine": machine(run.run.environment) == machine(other.run.environment),
    }
    return [name for name, same in facts.items() if not same]


def save(source: Path, folder: Path, name: str | None = None) -> Path:
    """Keep a run file, as it is, under the next number of the storage.

    Raises:
        RunFileError: it is no run file, or it is kept already.
        OutputError: it cannot be written, or the name is no name of a file.
    """
    run = read_run(source)
    label = name if name is not None else re.sub(r"[^0-9A-Za-z]+", "", (run.measured_at or "run")[:19])
    if not re.fullmatch(r"[\w.-]{1,80}", label, re.ASCII):
        raise OutputError(f"{label!r} cannot name a baseline: letters, digits, '.', '_' and '-', at most 80")
    kept = stored(folder) if folder.is_dir() else []
    for item in kept:
        if item.run is not None and _itself(run, item.run):
            raise RunFileError(f"{source}: it is kept already, as {item.path}")
    number = 1 + max(_numbers(folder / MACHINE), default=0)
    place = folder / MACHINE / f"{number:04}_{label}.json"
    write_text(place, source.read_text(encoding="utf-8"))
    return place


def _numbers(folder: Path) -> Iterator[int]:
    if folder.is_dir():
        yield from (int(path.name[:4]) for path in folder.glob("[0-9][0-9][0-9][0-9]_*.json"))
