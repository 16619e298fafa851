"""What the quadruples of a duet say: one verdict for each cell, valid whenever the duet ended.

The interval is a confidence sequence (`bitzones.stats.sequential`) at an error that all cells share (Bonferroni), so that with 95%
probability no interval of the whole duet is ever wrong, and neither is a verdict, which only says where the interval lies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bitzones.schema.duet_cells import DuetCell, Quadruples
from bitzones.stats.intervals import ALPHA, Estimate
from bitzones.stats.sequential import PairedSequence, SequentialWord, under_exchange

__all__ = ["Control", "DuetVerdict", "control", "ratio_of", "sequence", "verdict_of"]

EXCHANGES = 200
"""Patterns of the coin behind a false alarm rate and a smallest change: of one cell the first is then known to 1.5 points."""

SEEN = 0.8
"""Share of the patterns in which the smallest change would have been seen: the usual power."""


@dataclass(frozen=True)
class Control:
    """A side against itself: the verdict, the share of the coin's patterns that would have alarmed, and the smallest change seen in 80%."""

    word: SequentialWord
    ratio: Estimate
    n: int
    alarms: int
    exchanges: int
    smallest_change: float | None


@dataclass(frozen=True)
class DuetVerdict:
    """The verdict on a cell. ``ratio`` is new over old; ``reason`` says what made of it another verdict than that of its interval."""

    word: SequentialWord
    ratio: Estimate
    n: int
    again: Estimate | None = None
    control: Control | None = None
    reason: str = ""


def sequence(found: Quadruples, family: int) -> PairedSequence:
    """The differences of the quadruples, at the share of the error of one cell of ``family``."""
    return PairedSequence(found.differences, ALPHA / family)


def ratio_of(found: PairedSequence) -> Estimate:
    """New over old, with its interval where there is one."""
    interval = found.interval
    if interval is None:
        return Estimate(value=math.exp(found.center), low=None, high=None)
    return Estimate(value=math.exp(interval.value), low=math.exp(interval.low), high=math.exp(interval.high))


def control(found: Quadruples, family: int, tolerance: float, seed: int = 0) -> Control:
    """What a side against itself shows: with the coins as they fell, and as they might have fallen."""
    known, margin = sequence(found, family), math.log1p(tolerance)
    lows = under_exchange(found.differences, ALPHA / family, EXCHANGES, seed)
    smallest = margin - float(np.sort(lows)[::-1][round(SEEN * EXCHANGES) - 1])
    return Control(
        word=known.word(margin),
        ratio=ratio_of(known),
        n=len(found),
        alarms=int((lows > margin).sum()),
        exchanges=EXCHANGES,
        smallest_change=math.expm1(smallest) if math.isfinite(smallest) else None,
    )


def verdict_of(cell: DuetCell, tolerance: float) -> DuetVerdict:
    """The verdict on one cell.

    A change that the interval shows stands if new processes, whose memory lies elsewhere, show it again, and if the new side does not show
    one against itself.
    """
    first, margin = sequence(cell.first, cell.family), math.log1p(tolerance)
    found = DuetVerdict(first.word(margin), ratio_of(first), len(cell.first))
    if cell.again is None:
        if found.word in {"worse", "better"}:
            return _doubted(found, "seen once; new processes did not get to repeat it")
        return found
    again = sequence(cell.again, cell.family)
    itself = None if cell.control is None else control(cell.control, cell.family, tolerance)
    found = DuetVerdict(found.word, found.ratio, found.n, ratio_of(again), itself)
    if (repeated := again.word(margin)) != found.word:
        return _doubted(found, f"new processes did not repeat it: {repeated}")
    if itself is None:
        return _doubted(found, "the new side was not measured against itself")
    if itself.word in {"worse", "better"}:
        return _doubted(found, f"the new side is {itself.word} than itself")
    return found


def _doubted(found: DuetVerdict, reason: str) -> DuetVerdict:
    return DuetVerdict("inconclusive", found.ratio, found.n, found.again, found.control, reason)
