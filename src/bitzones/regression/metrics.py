"""The figures of a run that are followed over releases: one number with its interval for each, whichever tool plots it.

This module compares nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bitzones.analysis.reader import RunFile
from bitzones.regression.comparison import MeasureUnit
from bitzones.regression.duet_changes import side_run
from bitzones.regression.duet_verdicts import verdict_of
from bitzones.regression.paired import Sequences
from bitzones.schema.cell_key import CellKey
from bitzones.schema.domain_cell import DomainCell
from bitzones.schema.duet_record import DuetFile
from bitzones.schema.performance_cells import LatencyCell, MemoryCell
from bitzones.schema.quality_cells import AccuracyCell, DivergenceCell, PerplexityCell
from bitzones.schema.record import Measured, Record
from bitzones.stats.bootstrap import percentile_interval
from bitzones.stats.intervals import MIN_SEQUENCES, wilson_interval

__all__ = ["Reading", "duet_readings", "readings"]

RESAMPLES = 1000
"""Behind the interval of a median."""


class Reading(Record):
    """One figure of a run; ``low`` and ``high`` are its 95% interval, null where it has none. ``n`` counts what it was computed from."""

    kind: str
    variant: str
    detail: str
    cell: CellKey
    """The cell that it is read off."""
    unit: MeasureUnit
    value: float
    low: float | None = None
    high: float | None = None
    n: int = 1
    bigger_is_better: bool = False

    @property
    def name(self) -> str:
        """The same in every run, and another for every figure of one: kind, variant, detail."""
        return " ".join(step for step in (self.kind, self.variant, self.detail) if step)


def readings(run: RunFile) -> tuple[Reading, ...]:
    """Accuracies, KLs of whole variants, medians of times and stored bytes, in the order of the file."""
    return tuple(reading for cell in run.cells for reading in _read(cell, run.run.profile.seed))


def duet_readings(file: DuetFile) -> tuple[Reading, ...]:
    """Ratios of the times of a duet, new over old, and what its new side measured besides."""
    ratios = [(cell, verdict_of(cell, file.gate.duet_time)) for cell in file.cells]
    timed = tuple(
        Reading(
            kind="time ratio" if cell.of == "latency" else "products ratio",
            variant=cell.variant,
            detail=cell.detail,
            cell=cell.judged,
            unit="ratio",
            value=found.ratio.value,
            low=found.ratio.low,
            high=found.ratio.high,
            n=found.n,
        )
        for cell, found in ratios
    )
    return (*timed, *readings(side_run(file, file.new)))


def _read(cell: object, seed: int) -> Iterator[Reading]:
    match cell:
        case AccuracyCell():
            n, share = len(cell.correct), wilson_interval(sum(cell.correct), len(cell.correct))
            facts = {"value": share.value, "low": share.low, "high": share.high, "n": n, "bigger_is_better": True}
            yield Reading(kind=f"accuracy ({cell.metric})", variant=cell.variant, detail=cell.task, cell=cell.key, unit="share", **facts)
        case PerplexityCell():
            yield _in_nats("NLL", cell, cell.task, Sequences(cell.tokens, seed), cell.nll_nats)
        case LatencyCell():
            yield _median(cell, seed)
        case MemoryCell():
            yield Reading(kind="stored bytes", variant=cell.variant, detail="", cell=cell.key, unit="bytes", value=float(cell.stored_bytes))
        case DivergenceCell() | DomainCell():
            detail = cell.domain if isinstance(cell, DomainCell) else ""
            yield _in_nats("KL", cell, detail, Sequences(cell.sequence_tokens, seed), cell.kl_nats)


def _median(cell: LatencyCell, seed: int) -> Reading:
    rounds = np.asarray(cell.rounds_s, dtype=np.float64)
    value, low, high = float(np.median(rounds)), None, None
    if len(rounds) >= MIN_SEQUENCES:
        medians = np.median(np.random.default_rng(seed).choice(rounds, size=(RESAMPLES, len(rounds))), axis=1)
        interval = percentile_interval(value, medians)
        low, high = interval.low, interval.high
    found = Reading(kind="time", variant=cell.variant, detail=str(cell.timing), cell=cell.key, unit="s", value=value, n=len(rounds))
    return found.model_copy(update={"low": low, "high": high})


def _in_nats(kind: str, cell: Measured, detail: str, sequences: Sequences, found: tuple[float, ...]) -> Reading:
    """Nats per token of all sequences together."""
    nats = np.asarray(found, dtype=np.float64)[sequences.kept]
    value, low, high = float(nats.sum() / sequences.tokens.sum()), None, None
    if len(nats) >= MIN_SEQUENCES:
        interval = percentile_interval(value, (sequences.weights @ nats) / (sequences.weights @ sequences.tokens))
        low, high = interval.low, interval.high
    read = Reading(kind=kind, variant=cell.variant, detail=detail, cell=cell.key, unit="nats/token", value=value, n=len(nats))
    return read.model_copy(update={"low": low, "high": high})
