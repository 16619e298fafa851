"""Shards of a sweep become one run file, which holds the sweep's cell as a run on one machine would. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import fsum
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bitzones.analysis.reader import RunFile, benchmark_of, one_line, read_run
from bitzones.schema.differences import difference
from bitzones.schema.errors import OutputError, RunFileError
from bitzones.schema.files import beside
from bitzones.schema.run_record import KEY
from bitzones.schema.sensitivity_cells import SensitivityCell
from bitzones.schema.shard_record import Shard
from bitzones.schema.validation_errors import first_error

__all__ = ["SWEEP_BENCH", "SWEEP_KEY", "merge", "read_shard", "read_sweep", "write_sweep"]

SWEEP_KEY = "bitzones_sweep"
"""Key of the fingerprint of a merged sweep in its run file, by which a run adopts it."""

SWEEP_BENCH = "test_sensitivity.py::test_sensitivity_exact"
"""The benchmark that measures a sweep as a whole."""


def merge(paths: Sequence[Path], output: Path) -> RunFile:
    """Write the run file of a sweep from all of its shards, in any order.

    Its sensitivity cell is that of an undivided sweep on the same kind of device, to the last bit; its time is the sum of the shards'.

    Raises:
        RunFileError: a file is no shard, the shards are of different sweeps, or some are missing or given twice; names which.
        OutputError: the file cannot be written; an earlier one is as it was.
    """
    shards = [read_shard(path) for path in paths]
    _check_alike(paths, shards)
    _check_numbers(paths, shards)
    return write_sweep(sorted(shards, key=lambda shard: shard.number), output)


def read_shard(path: Path) -> Shard:
    """Read one shard.

    Raises:
        RunFileError: it cannot be read, or is no whole shard.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise _error(path, f"cannot be read: {error.strerror}") from error
    try:
        return Shard.model_validate_json(text)
    except ValidationError as error:
        first = first_error(error)
        if first.path in {"", "format"} or b"bitzones-shard" not in text:
            raise _error(path, "not a shard that 'bitzones measure --shard' wrote, or truncated") from error
        raise _error(path, f"damaged: {first.path}: {first.message}") from error


def _check_alike(paths: Sequence[Path], shards: Sequence[Shard]) -> None:
    for path, shard in zip(paths[1:], shards[1:], strict=True):
        if shard.of != shards[0].of:
            raise _error(path, f"one of {shard.of} shards, and {paths[0]} is one of {shards[0].of}: give all of one division")
        if found := difference(shards[0].fingerprint, shard.fingerprint, (f"in {paths[0]}", "here")):
            raise _error(path, f"of another sweep: {found}")
        if shard.layout != shards[0].layout:
            raise _error(path, f"of another sweep: its units or batches are not those of {paths[0]}")


def _check_numbers(paths: Sequence[Path], shards: Sequence[Shard]) -> None:
    first: dict[int, Path] = {}
    for path, shard in zip(paths, shards, strict=True):
        if shard.number in first:
            raise _error(path, f"shard {shard.number}/{shard.of} again: {first[shard.number]} is the same one; give each once")
        first[shard.number] = path
    of = shards[0].of
    if missing := [f"{number}/{of}" for number in range(1, of + 1) if number not in first]:
        raise RunFileError(f"missing: shard{'s' if len(missing) > 1 else ''} {', '.join(missing)}: measure and give them too")


def write_sweep(shards: Sequence[Shard], output: Path) -> RunFile:
    """Write the run file of complete shards, in order; what all cells share is taken from the first.

    Raises:
        RunFileError: blocks are missing or do not belong together.
        OutputError: the file cannot be written.
    """
    first = shards[0]
    cell = first.layout.cell(block for shard in shards for block in shard.blocks)
    took = fsum(block.seconds_s for shard in shards for block in shard.blocks)
    run = first.run.model_dump(mode="json")
    data = {
        "machine_info": {KEY: run["environment"]},
        "commit_info": {},
        "benchmarks": [benchmark_of(cell, SWEEP_BENCH, {}, took)],
        "datetime": max(shard.measured_at for shard in shards),
        "version": run["environment"]["versions"].get("pytest-benchmark", ""),
        KEY: run,
        SWEEP_KEY: first.fingerprint,
    }
    try:
        with beside(output) as place:
            place.write_text(json.dumps(data, indent=4) + "\n", encoding="utf-8")
            read_run(place)
    except OSError as error:
        raise OutputError(one_line(f"{output}: cannot be written: {error.strerror or error}")) from error
    return read_run(output)


def read_sweep(path: Path, fingerprint: dict[str, Any]) -> tuple[SensitivityCell, float]:
    """The sweep of a merged file, and its seconds, for a run with this fingerprint.

    Raises:
        RunFileError: the file holds no merged sweep, or one of another run; says what differs.
    """
    run = read_run(path)
    cells = [(cell, took) for cell, took in zip(run.cells, run.times, strict=True) if isinstance(cell, SensitivityCell)]
    there = json.loads(path.read_bytes()).get(SWEEP_KEY)
    if not cells or there is None:
        raise _error(path, "not a sweep that a run can adopt: 'bitzones merge' and 'bitzones measure' write such files")
    if found := difference(there, json.loads(json.dumps(fingerprint))):
        raise _error(path, f"of another sweep than this run's: {found}")
    return cells[0][0], cells[0][1] or 0.0


def _error(path: Path, message: str) -> RunFileError:
    return RunFileError(one_line(f"{path}: {message}"))
