"""The folder that a run leaves behind: five files, or four where there is no plan, all of them or none.

Every text is made before the first file is written, each is written beside its place and moved there when whole. This module does not know
what stands in them.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path

from bitzones.decide.analysis import Analysis
from bitzones.errors import OutputError
from bitzones.records import Record
from bitzones.show.diagrams import overview, technical
from bitzones.show.summary import summary
from bitzones.show.tables import plain

__all__ = ["write_report"]

PLAN = "plan.json"
"""The one file that a report can be without."""


def write_report(analysis: Analysis, folder: Path) -> list[Path]:
    """Write summary.md, overview_diagram.md, technical_diagram.md, analysis.json and plan.json; the paths, in that order.

    Without a plan there is no plan.json: that of an earlier report is removed, lest it be taken for this run's.

    Raises:
        OutputError: the folder cannot be made or written; files of an earlier report are then as they were.
    """
    texts = {
        "summary.md": summary(analysis),
        "overview_diagram.md": overview(analysis),
        "technical_diagram.md": technical(analysis),
        "analysis.json": _json(analysis),
    }
    if analysis.decision is not None:
        texts[PLAN] = _json(analysis.decision.plan)
    written: dict[Path, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            beside = folder / f".{name}.{os.getpid()}.part"
            written[beside] = folder / name
            _write(beside, text)
        _check_free((*written.values(), folder / PLAN))
        if PLAN not in texts:
            (folder / PLAN).unlink(missing_ok=True)  # first of all: an earlier summary without its plan misleads nobody
        for beside, place in written.items():
            beside.replace(place)
    except OSError as error:
        _remove(written)
        raise OutputError(plain(f"{folder}: the report cannot be written: {error.strerror or error}", 1000)) from error
    except BaseException:
        _remove(written)
        raise
    return list(written.values())


def _check_free(places: Iterable[Path]) -> None:
    """Find out before the first file is moved that none can take a place: all of them or none."""
    for place in places:
        if place.is_dir():
            raise IsADirectoryError(errno.EISDIR, f"{place.name} is a folder")


def _json(record: Record) -> str:
    return json.dumps(record.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _remove(paths: dict[Path, Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError:  # the folder is gone or closed to us: nothing of ours is in it
            continue
