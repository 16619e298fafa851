"""One shard of a sweep, measured on this machine into a file of its own; `analysis.merging` makes a run file of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from bitzones.analysis.merging import write_sweep
from bitzones.deploy.prepared import no_bars
from bitzones.run import garbage, journal
from bitzones.run.divided_sweep import block_bench, one_batch_size, require_divisible
from bitzones.run.session import Session
from bitzones.run.session_record import run_record, sweep_fingerprint
from bitzones.run.watching import time_left
from bitzones.schema.errors import ArgumentError
from bitzones.schema.files import write_text
from bitzones.schema.profile import Profile
from bitzones.schema.shard_record import Block, MeasuredBlock, Shard
from bitzones.sensitivity.block_bench import BlockBench
from bitzones.sensitivity.blocks import blocks_of_shard, cost

__all__ = ["measure_shard"]

JOURNAL_SUFFIX = ".journal"
"""Of the journal beside a shard that is being measured."""


def measure_shard(
    profile: Profile,
    shard: tuple[int, int],
    output: Path,
    *,
    whole: bool = False,
    resume: bool = False,
    notify: Callable[[str], None] = lambda message: None,
) -> Shard:
    """Measure a shard, as ``(2, 8)``, of a profile's sweep and write its file.

    Args:
        profile: as it is to be run (`Profile.resolved`).
        shard: its number, from 1, and how many there are.
        output: the file to write.
        whole: write the run file of the one shard that there is.
        resume: whether blocks that an interrupted measurement of this shard finished are taken from its journal.
        notify: told, in a line, of anything that takes long and is not a measurement.

    Raises:
        ArgumentError: there is no such shard.
        ProfileError: the sweep cannot be divided.
        MeasureError: the model or the data cannot be used, or memory ran out.
        OutputError: the file cannot be written, or another process is writing it.
    """
    number, of = shard
    if not 1 <= number <= of:
        raise ArgumentError(f"shard {number}/{of}: give 1/{of} to {of}/{of}")
    require_divisible(profile)
    place = output.with_name(output.name + JOURNAL_SUFFIX)
    with journal.sole(place):
        session = _loaded(profile, notify)
        fingerprint, batch = sweep_fingerprint(session), profile.sensitivity.batch
        opening = journal.resume if resume else journal.start
        kept = opening(place, {**fingerprint, "shard": [number, of]}, notify, MeasuredBlock)
        bench = block_bench(session, batch)
        blocks = blocks_of_shard(bench.costs, bench.tokens, number, of)
        notify(f"shard {number}/{of}: {len(blocks)} batches, layers {_span(bench.layers(blocks))}")
        with one_batch_size(session, batch):
            _measure(bench, [block for block in blocks if str(block) not in kept.entries], kept, notify)
        made = Shard(
            number=number,
            of=of,
            fingerprint=fingerprint,
            run=run_record(session),
            layout=bench.layout,
            blocks=tuple(kept.entries[str(block)] for block in blocks),
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        if whole:
            write_sweep([made], output)
        else:
            write_text(output, made.model_dump_json() + "\n")
        with suppress(OSError):
            place.unlink()
    return made


def _measure(bench: BlockBench, blocks: Sequence[Block], kept: journal.Journal[MeasuredBlock], notify: Callable[[str], None]) -> None:
    """Measure blocks one by one, and say after each how long the others take."""
    bench.prepare(blocks)
    began, costs = monotonic(), [cost(block, bench.costs, bench.tokens) for block in blocks]
    for number, block in enumerate(blocks, 1):
        kept.add(bench.measure(block))
        done = sum(costs[:number])
        left = time_left(done, sum(costs), monotonic() - began)
        notify(f"{number}/{len(blocks)} {block}{f', about {left} left' if left else ''}")


def _loaded(profile: Profile, notify: Callable[[str], None]) -> Session:
    """A session that is checked as that of a run is."""
    session = Session(profile, notify)
    with garbage.suspended(), no_bars():
        _ = session.scored, session.variants
    session.check_invariants()
    session.check_sequences()
    return session


def _span(layers: set[int]) -> str:
    """The layers of a shard, which are consecutive."""
    if not layers:
        return "none"
    return f"{min(layers)}-{max(layers)}" if len(layers) > 1 else str(min(layers))
