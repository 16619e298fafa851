"""A confidence sequence for the center of paired differences: an interval that holds at every sample size at once.

Looking at an ordinary interval after every pair and stopping when it excludes something is wrong far more often than 5% of the time. The
interval here is wrong at *any* of its sizes with probability alpha at most, so one may look as often as one likes.

It assumes one thing: given the past, a difference is symmetric around the center. Where a coin decides which of two sides runs first and
last, that holds by design for two sides that do not differ, whatever drift, bursts and heavy tails the machine adds, because exchanging the
sides changes the sign of the difference and nothing else. No variance is assumed or estimated, no independence, and no finite moments.

For conditionally symmetric x, exp(lambda * x - lambda^2 * x^2 / 2) is a supermartingale factor (de la Pena 1999, Ann. Probab. 27:537,
lemma 6.1). Sums over a normal mixture of lambda give the bound in closed form (Robbins 1970, Ann. Math. Statist. 41:1397; Howard, Ramdas,
McAuliffe & Sekhon 2021, Ann. Statist. 49:1055, proposition 5). Differences are clipped (Huber 1964) at a scale that is known before they
are seen: clipping is odd and so keeps the symmetry, and a burst counts for no more than a difference of ordinary size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bitzones.stats.intervals import ALPHA, Interval

__all__ = ["PairedSequence", "SequentialWord", "normal_mixture_rate", "under_exchange"]

SequentialWord = Literal["worse", "better", "equivalent", "inconclusive"]

Floats = NDArray[np.float64]

MAD_TO_SD = 1.4826
"""Median absolute deviation of normal numbers -> their standard deviation."""

FIRST_SCALED = 8
"""Differences before the first scale: of those only the sign counts. The scale is renewed whenever their number has doubled."""

EXPECTED = 40
"""Differences for which the mixture is tuned: a decision usually takes tens. Others cost little (Howard et al. 2021, section 3.5)."""

GRID = 257
"""Candidate centers between two differences that surely enclose the interval; each end is then found by `HALVINGS`."""

HALVINGS = 30

MOST_PAIRS = 1 << 20
"""Beyond these no number of differences is said to be enough."""


class PairedSequence:
    """Differences in the order in which they were seen, at a total error ``alpha`` over all times and both ends."""

    def __init__(self, differences: Sequence[float], alpha: float = ALPHA) -> None:
        self._x: Floats = np.asarray(differences, dtype=np.float64)
        self._scale = _scales(self._x)
        self._alpha = alpha
        self._rate = normal_mixture_rate(EXPECTED, alpha)

    def __len__(self) -> int:
        return len(self._x)

    def evidence(self, center: float) -> float:
        """Logarithm of the mixture supermartingale against a center, after all differences: above log(1 / alpha) the center is excluded."""
        return float(self._evidence(np.asarray([center]))[0])

    def _evidence(self, centers: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            away = (self._x - centers[:, None]) / self._scale
        counted = np.clip(np.where(np.isnan(away), 0.0, away), -1.0, 1.0)
        sums, squares = counted.sum(axis=1), (counted**2).sum(axis=1)
        found: Floats = sums**2 / (2 * (squares + self._rate)) - np.log1p(squares / self._rate) / 2
        return found

    @cached_property
    def center(self) -> float:
        """The median difference."""
        return float(np.median(self._x)) if len(self._x) else 0.0

    @cached_property
    def interval(self) -> Interval | None:
        """The centers that are not excluded; None while every one may be the true one.

        The set of those need not be connected: its two outermost points are the ends.
        """
        reach = _grid(self._x)
        kept = self._evidence(reach) < math.log(1 / self._alpha)
        if kept[0] or kept[-1]:
            return None
        inside = np.flatnonzero(kept)
        if not len(inside):  # at most a point between two candidates is left
            return Interval(value=self.center, low=self.center, high=self.center)
        low = self._edge(reach[inside[0] - 1], reach[inside[0]])
        high = self._edge(reach[inside[-1] + 1], reach[inside[-1]])
        return Interval(value=min(max(self.center, low), high), low=low, high=high)

    def _edge(self, outside: float, inside: float) -> float:
        for _ in range(HALVINGS):
            middle = (outside + inside) / 2
            outside, inside = (outside, middle) if self.evidence(middle) < math.log(1 / self._alpha) else (middle, inside)
        return float(outside)

    def word(self, tolerance: float) -> SequentialWord:
        """What the interval says of a center beyond or within +-``tolerance``: above is worse."""
        bound = math.log(1 / self._alpha)
        if self.evidence(tolerance) < bound or self.evidence(-tolerance) < bound or (found := self.interval) is None:
            return "inconclusive"  # every answer excludes both bounds
        if found.low > tolerance:
            return "worse"
        if found.high < -tolerance:
            return "better"
        return "equivalent" if -tolerance <= found.low and found.high <= tolerance else "inconclusive"

    def needed(self, tolerance: float) -> int | None:
        """About how many differences in all will decide whether the center is beyond or within +-``tolerance``; None where none may.

        From the present center and spread, as if they stayed: evidence against the nearest bound then grows in proportion.
        """
        n, away = len(self._x), abs(abs(self.center) - tolerance)
        if n < FIRST_SCALED or away == 0:
            return None
        scale = float(self._scale[-1]) or math.ulp(1.0)
        drift = min(1.0, away / scale)
        square = float(np.mean(np.clip((self._x - self.center) / scale, -1, 1) ** 2)) + drift**2

        def grown(count: int) -> bool:
            squares = count * min(1.0, square)
            found = (count * drift) ** 2 / (2 * (squares + self._rate)) - math.log1p(squares / self._rate) / 2
            return found >= math.log(1 / self._alpha)

        wanted = n
        while not grown(wanted) and wanted < MOST_PAIRS:
            wanted *= 2
        low = wanted // 2
        while low + 1 < wanted:
            middle = (low + wanted) // 2
            low, wanted = (low, middle) if grown(middle) else (middle, wanted)
        return max(n + 1, wanted) if wanted < MOST_PAIRS else None


def under_exchange(differences: Sequence[float], alpha: float, repeats: int, seed: int) -> Floats:
    """Lower ends of the interval if the coins of the order had fallen otherwise: shape (``repeats``,), -inf where there is none.

    For two sides that are the same, every pattern of signs was as likely as the one seen. So the share of lower ends above a tolerance is
    the false alarm rate on this machine, and a quantile of them is the change that would have been seen.
    """
    rng, values = np.random.default_rng(seed), np.asarray(differences, dtype=np.float64)
    found = [PairedSequence((values * rng.choice((-1.0, 1.0), len(values))).tolist(), alpha).interval for _ in range(repeats)]
    return np.asarray([-math.inf if interval is None else interval.low for interval in found])


def normal_mixture_rate(count: float, alpha: float) -> float:
    """The mixture's precision with which the interval is narrowest when the sum of squares is about ``count``.

    Equation 25 of Howard et al. 2021: count / (-W(-alpha^2 / e) - 1), with the lower branch of Lambert's function, by its fixed point
    w = log(w) + 1 - log(alpha^2).
    """
    found = 1 - math.log(alpha**2)
    for _ in range(HALVINGS):
        found = math.log(found) + 1 - math.log(alpha**2)
    return count / (found - 1)


def _scales(x: Floats) -> Floats:
    """Of every difference, the robust spread of those before it, renewed when their number has doubled; 0 before the first."""
    scales, known = np.zeros(len(x)), FIRST_SCALED
    while known < len(x):
        past = x[:known]
        scales[known : 2 * known] = MAD_TO_SD * np.median(np.abs(past - np.median(past)))
        known *= 2
    return scales


def _grid(x: Floats) -> Floats:
    """Candidates from below the smallest to above the largest difference, as dense as the differences are."""
    if not len(x):
        return np.zeros(1)
    low, high = float(x.min()), float(x.max())
    beyond = (high - low) or abs(low) or 1.0
    inner = np.concatenate([np.quantile(x, np.linspace(0, 1, GRID)), np.linspace(low, high, GRID)])
    return np.unique(np.concatenate([[low - beyond], inner, [high + beyond]]))
