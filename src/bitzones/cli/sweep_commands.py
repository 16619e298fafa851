"""The commands that divide a sweep between machines and put it together. Import when they run, so that ``--help`` is fast."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["measure", "merge", "register"]

SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")


def measure(
    name: Annotated[str, typer.Argument(metavar="PROFILE", help="An installed profile, or a TOML file.")],
    shard: Annotated[str | None, typer.Option("--shard", metavar="I/N", help="Measure the I-th of N parts; all of it by default.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="File to write.  [shardI.json, or sweep.json]")
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Data sets in the hub's layout, as for 'bitzones run'.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Items per task, as for 'bitzones run'.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted measurement of FILE.")] = False,
) -> None:
    """Measure the sensitivities of a profile alone, or one of N parts of them.

    Each of N machines measures a part, of about equal cost; 'bitzones merge' puts the parts together, and 'bitzones run --sweep' measures
    the rest of the profile. An interrupted part loses the batch that it was at: --resume goes on from there. Without --shard, writes what
    merging all parts would.

    Example: bitzones measure smollm2 --shard 2/8 -o shard2.json --resume
    """
    from bitzones.api.sharding import measure_shard

    number, of = _shard(shard) if shard is not None else (1, 1)
    place = output if output is not None else Path("sweep.json" if shard is None else f"shard{number}.json")
    took = measure_shard(name, (number, of), place, data=data, limit=limit, resume=resume, whole=shard is None, notify=_say)
    typer.echo(f"wrote {place} ({took:.0f} s of measuring)")


def _say(message: str) -> None:
    """Progress, also in the log of a batch job."""
    typer.echo(message, err=True)


def _shard(text: str) -> tuple[int, int]:
    found = SHARD.fullmatch(text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise typer.BadParameter(f"{text!r} is not a part of a whole: 2/8 is the second of eight", param_hint="--shard")
    return int(found[1]), int(found[2])


def merge(
    shards: Annotated[list[Path], typer.Argument(metavar="SHARD.json...", readable=False, help="All parts, in any order.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="SWEEP.json", help="Run file to write.")] = Path("sweep.json"),
) -> None:
    """Put all parts of a sweep together. Needs no torch.

    The sensitivities are those of an undivided sweep, to the last bit, where all machines have one kind of processor or GPU.
    'bitzones collect SWEEP.json' reports them, 'bitzones run PROFILE --sweep SWEEP.json' measures the rest of the profile.

    Example: bitzones merge shard*.json -o sweep.json
    """
    from bitzones import merge as merged

    made = merged(shards, output)
    (cell,) = made.cells
    typer.echo(f"wrote {output}: {len(getattr(cell, 'measurements', ()))} sensitivities from {len(shards)} shards")


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command()(measure)
    app.command()(merge)
