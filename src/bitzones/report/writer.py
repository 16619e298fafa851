"""Writes the report folder: page, summary, charts, diagrams and JSON, all of them or none.

Everything is rendered before the first file is written; each file is written to a temporary name and moved into place when complete.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from bitzones.analysis.plan import PLAN_FORMAT
from bitzones.analysis.results import Analysis
from bitzones.report.charts import vega
from bitzones.report.charts.frontier import frontier
from bitzones.report.charts.layer_map import layer_map
from bitzones.report.html.page import page
from bitzones.report.markdown.summary import summary
from bitzones.report.markdown.tables import plain
from bitzones.report.mermaid.flow import overview, technical
from bitzones.report.side_by_side import Named, compared_page, compared_summary
from bitzones.schema import files
from bitzones.schema.errors import OutputError
from bitzones.schema.slices import file_name

__all__ = ["OPTIONAL", "carry_weights", "write_comparison", "write_report"]

PLAN = "plan.json"

PLANS = "plans"
"""Folder of the plans by task or domain."""

PICTURES = {"layer_map": layer_map, "frontier": frontier}

OPTIONAL = (PLAN, *(f"{name}.{kind}" for name in PICTURES for kind in ("svg", "png")))
"""Files that a report may lack: without a plan, or with nothing to draw."""


def write_report(analysis: Analysis, folder: Path, draw: vega.Draw = vega.here) -> list[Path]:
    """Write report.html, summary.md, two diagrams, analysis.json, and, where there are such, plan.json, plans by task and pictures.

    Returns the paths in that order. ``draw`` draws the charts, in the background if it can.

    A plan.json, plan by task or chart of an earlier report that this one lacks is removed.

    Raises:
        OutputError: the folder cannot be made or written; files of an earlier report are then unchanged.
    """
    drawn = draw({name: spec for name, chart in PICTURES.items() if (spec := chart(analysis)) is not None})
    contents: dict[str, str | bytes] = {
        "report.html": page(analysis),
        "summary.md": summary(analysis),
        "overview_diagram.md": overview(analysis),
        "technical_diagram.md": technical(analysis),
        "analysis.json": analysis.to_json(),
    }
    if analysis.decision is not None:
        contents[PLAN] = analysis.decision.plan.to_json()
    if analysis.slices is not None:
        contents |= {f"{PLANS}/{file_name(item.name)}": item.decision.plan.to_json() for item in analysis.slices.slices}
    return _written(folder, contents | drawn(), (*OPTIONAL, *_plans_by_slice(folder)))


def _plans_by_slice(folder: Path) -> Iterator[str]:
    """Plans by task or domain that an earlier report left; anything else there is somebody's own."""
    for path in sorted((folder / PLANS).glob("*.json")):
        try:
            plan = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(plan, dict) and (plan.get("format"), plan.get("origin")) == (PLAN_FORMAT, "slice"):
            yield f"{PLANS}/{path.name}"


def carry_weights(analysis: Analysis, run_file: Path, folder: Path) -> None:
    """Copy the weights of a tuned plan from beside its run file to beside its plan.json; a file that is not there is missed by `apply`.

    Raises:
        OutputError: they cannot be copied.
    """
    tuned = analysis.decision.plan.tuning if analysis.decision is not None else None
    if tuned is None or not (source := run_file.parent / tuned.file).is_file() or source.resolve() == (folder / tuned.file).resolve():
        return
    try:
        with files.beside(folder / tuned.file) as place:
            shutil.copyfile(source, place)
    except OSError as error:
        raise OutputError(plain(f"{folder / tuned.file}: cannot be written: {error.strerror or error}", 1000)) from error


def write_comparison(runs: Sequence[Named], folder: Path, draw: vega.Draw = vega.here) -> list[Path]:
    """Write the report of several runs: report.html and summary.md, and the full report of each run in a subfolder.

    Raises:
        OutputError: a folder cannot be made or written; the comparison is written last, so it never exists without its runs.
    """
    for run in runs:
        write_report(run.analysis, folder / run.name, draw)
    contents: dict[str, str | bytes] = {"report.html": compared_page(runs), "summary.md": compared_summary(runs)}
    return _written(folder, contents, ())


def _written(folder: Path, contents: Mapping[str, str | bytes], optional: Iterable[str]) -> list[Path]:
    """Write all of them or none; an ``optional`` file of an earlier report that is not among them is removed."""
    written: dict[Path, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            place = folder / name
            _make_folder(place.parent)
            beside = place.with_name(f".{place.name}.{os.getpid()}.part")
            written[beside] = place
            _write(beside, content)
        _check_free((*written.values(), *(folder / name for name in optional)))
        for name in optional:
            if name not in contents:
                (folder / name).unlink(missing_ok=True)  # first: an earlier summary without its plan misleads nobody
        for beside, place in written.items():
            beside.replace(place)
    except OSError as error:
        _remove(written)
        raise OutputError(plain(f"{folder}: the report cannot be written: {error.strerror or error}", 1000)) from error
    except BaseException:
        _remove(written)
        raise
    return list(written.values())


def _make_folder(folder: Path) -> None:
    if folder.is_file():
        raise NotADirectoryError(errno.ENOTDIR, f"{folder.name} is a file")
    folder.mkdir(exist_ok=True)


def _check_free(places: Iterable[Path]) -> None:
    """Fail before the first file is moved if a folder is in the way of one."""
    for place in places:
        if place.is_dir():
            raise IsADirectoryError(errno.EISDIR, f"{place.name} is a folder")


def _write(path: Path, content: str | bytes) -> None:
    with path.open("wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def _remove(paths: dict[Path, Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError:  # the folder is gone or not writable: nothing to remove
            continue
