"""Evidence that the mean of non-negative numbers has come to lie above a bound, which may be looked at after every number.

A bet of a share b of the capital on "above the bound" multiplies it by 1 + b (x / bound - 1). Where the mean of the next x, given
everything before, is at most the bound, no bet gains on average: the capital is a supermartingale, and the chance that it ever grows
1 / alpha-fold is at most alpha (Ville 1939; Waudby-Smith & Ramdas 2024, J. R. Stat. Soc. B 86:1, for means of bounded numbers; x needs no
upper end here, because only the upper side is tested). Nothing else is assumed: no independence, no variance, no shape.

What share is best depends on how far above the bound the mean is, and nobody knows when it got there. So the capital is spread in advance,
over `SHARES` and over the round in which the bet begins, 1 / (k (k + 1)) of it on round k: together all of it, however long the watch is. A
mixture of supermartingales is one, so the chance of *any* false alarm in the whole life of a watch is at most alpha. The price of having
watched k good rounds is 2 log k nats. The sum over beginnings needs no memory of them: it is Shiryaev's and Roberts's recursion with
weights (Shin, Ramdas & Rinaldo 2023, New Engl. J. Stat. Data Sci., "E-detectors").

A round may be drawn from a finite population without replacement, where the population's mean is at most the bound: the mean product over
all draws is at most the power of the mean (Maclaurin's inequality). That holds for whole rounds, so evidence is taken at their ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["SHARES", "AboveBound", "evidence_needed"]

SHARES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
"""Shares of the capital that are bet, spread evenly: small ones win where few numbers are huge, large ones where most are above it."""


@dataclass(frozen=True)
class AboveBound:
    """The state after some numbers; `after` gives the next one. ``log_capital`` has one entry per share.

    ``rounds`` is the number of rounds; ``peak`` is the largest evidence after any of them: an alarm is not taken back.
    """

    bound: float
    rounds: int = 0
    log_capital: tuple[float, ...] = field(default=(-math.inf,) * len(SHARES))
    peak: float = 0.0

    def __post_init__(self) -> None:
        assert self.bound > 0
        assert len(self.log_capital) == len(SHARES)

    def after(self, numbers: Iterable[float]) -> AboveBound:
        """The state after another round of numbers, each of them at least 0 and finite."""
        found, rounds = np.asarray(list(numbers), dtype=np.float64), self.rounds + 1
        assert np.all((found >= 0) & np.isfinite(found))
        gains = np.log1p(np.multiply.outer(np.asarray(SHARES), found / self.bound - 1)).sum(axis=1)
        capital = np.logaddexp(self.log_capital, -math.log(rounds * (rounds + 1))) + gains
        return AboveBound(self.bound, rounds, tuple(capital.tolist()), max(self.peak, _evidence(capital, rounds)))

    @property
    def evidence(self) -> float:
        """Logarithm of the capital, 0 at the start."""
        return _evidence(self.log_capital, self.rounds)

    def above(self, alpha: float) -> bool:
        """Whether the capital has ever reached 1 / alpha."""
        return self.peak >= evidence_needed(alpha)


def evidence_needed(alpha: float) -> float:
    """Logarithm of the capital that is reached with chance alpha at most while the mean is within the bound."""
    return math.log(1 / alpha)


def _evidence(log_capital: ArrayLike, rounds: int) -> float:
    """What all bets hold, those that begin in later rounds included: 1 / (rounds + 1) of the capital."""
    later = -math.log(rounds + 1)
    return float(np.logaddexp.reduce([later, *(np.asarray(log_capital) - math.log(len(SHARES)))]))
