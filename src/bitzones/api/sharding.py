"""A sweep divided between machines: each measures a shard, and the shards become one run file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bitzones.analysis import merging
from bitzones.analysis.reader import RunFile
from bitzones.schema import profile_files
from bitzones.schema.errors import ArgumentError
from bitzones.schema.profile import Profile
from bitzones.schema.requirements import needs

__all__ = ["measure_shard", "merge"]


def measure_shard(
    profile: str | Path | Profile,
    shard: tuple[int, int],
    output: str | Path,
    *,
    data: str | Path | None = None,
    limit: int | None = None,
    resume: bool = False,
    whole: bool = False,
    notify: Callable[[str], None] = lambda message: None,
) -> float:
    """Measure one of several parts of a profile's sensitivities, on this machine, into a file for `bitzones.merge`.

    Args:
        profile: a profile, the name of an installed one, or its file.
        shard: which part, from 1, and of how many: ``(2, 8)``. They are of about equal cost.
        output: the file to write.
        data: folder of published data sets.
        limit: items per task, in place of the profile's.
        resume: whether to go on where an interrupted measurement of this file ended.
        whole: write a run file, as `bitzones.merge` does: for the one shard ``(1, 1)``.
        notify: told, in a line, how it goes.

    Returns:
        The seconds that the measurements took.

    Raises:
        ArgumentError: there is no such shard.
        ProfileError: the profile cannot be used, or its sweep not be divided.
        MeasureError: the model or the data cannot be used, memory ran out, or the journal is of another shard.
        OutputError: the file cannot be written.

    Example:
        >>> bitzones.measure_shard("smollm2", (2, 8), "shard2.json")  # doctest: +SKIP
        214.6
    """
    if whole and shard != (1, 1):
        raise ArgumentError(f"shard {shard[0]}/{shard[1]} is not the whole sweep")
    chosen = profile if isinstance(profile, Profile) else profile_files.load(str(profile))
    resolved = chosen.resolved(None if data is None else Path(data), limit)
    with needs("measure"):
        from bitzones.run import shards  # noqa: PLC0415  # loads torch
    return shards.measure_shard(resolved, shard, Path(output), whole=whole, resume=resume, notify=notify).seconds_s


def merge(shards: Sequence[str | Path], output: str | Path) -> RunFile:
    """Put all parts of a sweep together into one run file, whose sensitivities are those of an undivided sweep, to the last bit.

    Args:
        shards: files of `bitzones.measure_shard`, all of one division, in any order.
        output: the run file to write. `bitzones.analyze` reads it, and ``bitzones run --sweep`` adopts it.

    Returns:
        The run: one cell.

    Raises:
        RunFileError: a file is no shard, the shards are of different sweeps, or some are missing or given twice; names which.
        ArgumentError: no shard was given.
        OutputError: the file cannot be written.

    Example:
        >>> bitzones.merge(["shard1.json", "shard2.json"], "sweep.json").cells[0].kind  # doctest: +SKIP
        'sensitivity'
    """
    if not shards:
        raise ArgumentError("there is no shard to merge")
    return merging.merge([Path(path) for path in shards], Path(output))
