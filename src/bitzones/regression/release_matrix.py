"""Runs of one profile with several releases, each compared with one of them by `compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bitzones.analysis.reader import RunFile, one_line
from bitzones.regression.compare import compare, same_profile
from bitzones.regression.comparison import Comparison
from bitzones.schema.errors import RunFileError
from bitzones.schema.record import Record

__all__ = ["Matrix", "Release", "matrix"]


class Release(Record):
    """One run and its releases, ``compared`` with the baseline."""

    name: str
    run: RunFile
    compared: Comparison


class Matrix(Record):
    """The releases but the baseline, in the order given."""

    name: str
    baseline: RunFile
    releases: tuple[Release, ...]


def matrix(runs: Sequence[RunFile], baseline: str | None = None) -> Matrix:
    """Every run beside the baseline, which is named as its file is; by default the last one.

    Raises:
        RunFileError: there are less than two runs, two of one name, none that is named as the baseline, or one of another profile.
    """
    named = {Path(run.path).stem: run for run in runs}
    if len(named) < 2 or len(named) < len(runs):
        raise RunFileError(f"{len(runs)} run files of {len(named)} names: give two or more, each named for what it was measured with")
    chosen = list(named)[-1] if baseline is None else baseline
    if chosen not in named:
        raise RunFileError(one_line(f"no run file is named {chosen!r}, as the baseline (there are: {', '.join(named)})"))
    base = named.pop(chosen)
    if other := next((run for run in named.values() if not same_profile(base, run)), None):
        raise RunFileError(f"{other.path}: its profile is another than that of {base.path}: measure both with one")
    releases = (Release(name=name, run=run, compared=compare(base, run, base.run.profile.gate)) for name, run in named.items())
    return Matrix(name=chosen, baseline=base, releases=tuple(releases))
