"""How sure a number is, so that a report prints intervals and verdicts instead of adjectives.

Thin, named fronts to scipy and numpy: proportions, paired proportions, a bootstrap over sequences. This module does not know what a model,
a format or a layer is. scipy is imported where it is used: it takes longer than everything else that collecting a run needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, model_validator

from bitzones.schema.records import Record

__all__ = [
    "ALPHA",
    "CONFIDENCE",
    "MIN_SEQUENCES",
    "NON_INFERIORITY_MARGIN",
    "NON_INFERIORITY_NATS",
    "POWER",
    "Estimate",
    "Interval",
    "Verdict",
    "above_chance",
    "bootstrap_p",
    "bootstrap_ratio",
    "estimate",
    "estimates",
    "fewest_losses",
    "holm",
    "mcnemar_exact",
    "minimum_detectable_effect",
    "paired_difference",
    "percentile_interval",
    "ratio_of_medians",
    "resample_weights",
    "resampled_sums",
    "verdict",
    "verdict_nats",
    "weighted_ratio",
    "wilson_interval",
]

CONFIDENCE = 0.95
"""Of every interval: the convention that readers assume when none is named."""

ALPHA = 1 - CONFIDENCE
"""A difference is called when its two-sided p-value is below this: the same 5% that the intervals leave out."""

POWER = 0.8
"""Of the smallest drop that a sample could have shown: the usual four chances in five."""

NON_INFERIORITY_MARGIN = 0.03
"""'No worse' is said only where a loss above 3 points is excluded: a wider statement would excuse losses that users notice."""

NON_INFERIORITY_NATS = 0.03
"""The same margin for the likelihood of right answers: exp(-0.03) is 3% less probability per answer token."""

MIN_SEQUENCES = 20
"""Below this many samples a percentile bootstrap covers visibly less than it says (Davison & Hinkley 1997, ch. 5), so: inconclusive."""

HALVINGS = 53
"""Of the range in which a share lies: what is left is below the resolution of a float near 1."""

DRAWS = 2**22
"""Draws that `resampled_sums` holds at a time, 32 MiB of them: a hundred thousand items are summed in the memory of a thousand."""

DRAWN = 4
"""Matrices that `resample_weights` keeps: the same are asked for again and again, and drawing them takes longer than any use of them."""

EXACT_CHANCE_ITEMS = 2000
"""Above this many items the Poisson-binomial sum is replaced by its normal limit, which is then exact to more digits than are printed."""

Floats = NDArray[np.float64]
Word = Literal["worse", "non-inferior", "better", "inconclusive"]
MeasureUnit = Literal["share", "nats per token"]


class _Statistic(Record):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Estimate(_Statistic):
    """An estimate whose 95% interval the data may be too few to give: both ends are then null. In the unit of the field that holds it."""

    value: float
    """The estimate from all the data."""
    low: float | None
    """Lower end of the 95% interval; null below `MIN_SEQUENCES` samples."""
    high: float | None
    """Upper end of the 95% interval; null below `MIN_SEQUENCES` samples."""

    @model_validator(mode="after")
    def _both_ends(self) -> Estimate:
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has two ends or none")
        return self

    @property
    def interval(self) -> Interval | None:
        """The same as an `Interval`; None where it has no ends."""
        return None if self.low is None or self.high is None else Interval(value=self.value, low=self.low, high=self.high)


class Interval(Estimate):
    """An estimate with its 95% interval, in the unit of the field that holds it."""

    low: float
    """Lower end of the 95% interval."""
    high: float
    """Upper end of the 95% interval."""


class Verdict(_Statistic):
    """One of four fixed answers: ``worse``, ``non-inferior`` X, ``better``, ``inconclusive``."""

    word: Word
    """The answer."""
    within: float | None = None
    """The largest loss that the data do not exclude, in ``unit``; only with 'non-inferior'."""
    unit: MeasureUnit = "share"
    """Of ``within``: a share of the items (0.012 is 1.2 points), or nats per answer token."""

    def __str__(self) -> str:
        if self.within is None:
            return self.word
        if self.unit == "share":
            return f"{self.word} {math.ceil(self.within * 1000 - 1e-9) / 10:.1f} points"
        return f"{self.word} {math.ceil(self.within * 1000 - 1e-9) / 1000:.3f} nats/token"


def _z(probability: float) -> float:
    return NormalDist().inv_cdf(probability)


def wilson_interval(k: int, n: int) -> Interval:
    """Share k/n with its Wilson score 95% interval (Wilson 1927, JASA 22:209), which behaves at 0 and at 1.

    Raises:
        ValueError: n is not positive or k is not in 0..n.

    >>> interval = wilson_interval(8, 10)
    >>> round(interval.low, 3), round(interval.high, 3)
    (0.49, 0.943)
    """
    if n <= 0 or not 0 <= k <= n:
        raise ValueError(f"k={k} of n={n} is not a share")
    share, z = k / n, _z(1 - ALPHA / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(value=share, low=max(0.0, centre - half) if k else 0.0, high=min(1.0, centre + half) if k < n else 1.0)


def mcnemar_exact(lost: int, gained: int) -> float:
    """Two-sided p-value of items lost and gained being equally likely: McNemar's test (1947, Psychometrika 12:153), exact binomial form."""
    if lost + gained == 0:
        return 1.0
    from scipy.special import bdtr  # noqa: PLC0415 (scipy.stats takes a second to import; the law is symmetric, so twice its tail is all)

    return min(1.0, 2 * float(bdtr(min(lost, gained), lost + gained, 0.5)))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """P-values adjusted for being several (Holm 1979, Scand. J. Statist. 6:65), in the order given.

    With m tests the i-th smallest p is multiplied by m - i + 1 and never falls below the one before it: calling all that stay below alpha
    is wrong anywhere in the family with a chance of at most alpha, whatever the tests have to do with each other.

    >>> [round(p, 3) for p in holm((0.04, 0.01, 0.03))]
    [0.06, 0.03, 0.06]
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return tuple(adjusted)


def paired_difference(lost: int, gained: int, n: int) -> Interval:
    """Difference of two paired shares, (gained - lost)/n, with the adjusted Wald 95% interval of Bonett & Price (2012, JEBS 37:479).

    The interval is centred on (gained - lost)/(n + 2), which is why the estimate need not lie in its middle.
    """
    p_gained, p_lost = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    centre = p_gained - p_lost
    half = _z(1 - ALPHA / 2) * math.sqrt((p_gained + p_lost - centre * centre) / (n + 2))
    return Interval(value=(gained - lost) / n, low=max(-1.0, centre - half), high=min(1.0, centre + half))


def fewest_losses(alpha: float = ALPHA) -> int:
    """Losses without a gain that McNemar's exact test calls: at 5% that is 6, for 2 * 0.5^6 is 3% and 2 * 0.5^5 is 6%.

    >>> fewest_losses(), fewest_losses(0.05 / 3)
    (6, 7)
    """
    return math.floor(1 - math.log2(alpha)) + 1


def minimum_detectable_effect(n: int, gained: int = 0, power: float = POWER, alpha: float = ALPHA) -> float | None:
    """The smallest true loss, as a share, that McNemar's test on n items calls ``worse`` with this power; None if there is none.

    Paired design: with gains at the observed rate g, a loss d makes a share psi = d + 2g of the items change, and the sample for it is n =
    (z[1-alpha/2] sqrt(psi) + z[power] sqrt(psi - d^2))^2 / d^2 (Connor 1987, Biometrics 43:207; Miettinen 1968). Solved for d. The exact
    test needs `fewest_losses` even without gains, so d is never below what gives that many with this power (a Beta quantile). With few
    gains and a small alpha the formula errs on the safe side: up to 90% power where it says 80%.

    Args:
        n: items.
        gained: items that were wrong and are now right.
        power: chance of the loss being called.
        alpha: what p must be below. In a family of m tests that Holm's method corrects, `ALPHA` / m is what its first step asks: a loss
            found there is called whatever the other tests say, so the drop is what this test can show on its own.
    """
    g, z_alpha, z_power, losses = gained / n, _z(1 - alpha / 2), _z(power), fewest_losses(alpha)

    def shortfall(d: float) -> float:
        psi = d + 2 * g
        return z_alpha * math.sqrt(psi) + z_power * math.sqrt(max(0.0, psi - d * d)) - d * math.sqrt(n)

    most = 1 - g
    if n < losses or shortfall(most) > 0:
        return None
    from scipy.special import betaincinv  # noqa: PLC0415

    least = float(betaincinv(losses, n - losses + 1, power))
    low, high = 0.0, most
    for _ in range(HALVINGS):  # scipy's own search for a root takes longer to import than all of these
        middle = (low + high) / 2
        low, high = (middle, high) if shortfall(middle) > 0 else (low, middle)
    return max(least, high)


def verdict(lost: int, gained: int, n: int, margin: float = NON_INFERIORITY_MARGIN, p_value: float | None = None) -> Verdict:
    """What n paired items can say about a change: items that were right and are now wrong (lost), and the reverse (gained).

    ``worse`` and ``better`` need p below `ALPHA`; ``no worse within X`` needs the 95% interval of the difference to exclude any loss above
    ``margin``, and X is the largest loss it does not exclude; everything else is ``inconclusive``.

    Args:
        lost: items.
        gained: items.
        n: items.
        margin: a share.
        p_value: McNemar's, corrected for the family of tests that it belongs to (`holm`); that of this test alone where None.

    >>> str(verdict(lost=40, gained=5, n=500)), str(verdict(lost=2, gained=1, n=500)), str(verdict(lost=2, gained=0, n=20))
    ('worse', 'no worse within 1.1 points', 'inconclusive')
    """
    if (mcnemar_exact(lost, gained) if p_value is None else p_value) < ALPHA:
        return Verdict(word="worse" if lost > gained else "better")
    largest_loss = max(0.0, -paired_difference(lost, gained, n).low)
    return Verdict(word="non-inferior", within=largest_loss) if largest_loss <= margin else Verdict(word="inconclusive")


def verdict_nats(difference: Estimate, p_value: float, margin: float = NON_INFERIORITY_NATS) -> Verdict:
    """The same four answers about a rise of negative log-likelihood, in nats per answer token.

    Args:
        difference: variant minus reference; without an interval the answer is ``inconclusive``.
        p_value: of no difference (`bootstrap_p`), corrected for the family of tests that it belongs to.
        margin: nats per token.

    >>> str(verdict_nats(Interval(value=0.01, low=-0.005, high=0.0201), 0.3))
    'no worse within 0.021 nats/token'
    """
    if difference.high is None:
        return Verdict(word="inconclusive", unit="nats per token")
    if p_value < ALPHA:
        return Verdict(word="worse" if difference.value > 0 else "better", unit="nats per token")
    largest_loss = max(0.0, difference.high)
    if largest_loss <= margin:
        return Verdict(word="non-inferior", within=largest_loss, unit="nats per token")
    return Verdict(word="inconclusive", unit="nats per token")


def above_chance(k: int, chances: Sequence[float]) -> float:
    """One-sided p-value of k or more right by guessing, where item i is guessed with its own chance: the Poisson-binomial law.

    Exact up to `EXACT_CHANCE_ITEMS` items, added up item by item (every term is positive, so small tails keep their digits); above that
    the normal limit with continuity correction.
    """
    n, mean, variance = len(chances), math.fsum(chances), math.fsum(p * (1 - p) for p in chances)
    if n > EXACT_CHANCE_ITEMS and variance > 0:
        return 1 - NormalDist(mean, math.sqrt(variance)).cdf(k - 0.5)
    right = np.zeros(n + 1)
    right[0] = 1.0
    for chance in chances:
        one_more = right[:-1] * chance
        right *= 1 - chance
        right[1:] += one_more
    return min(1.0, float(right[max(k, 0) :].sum()))


@lru_cache(maxsize=DRAWN)
def resample_weights(samples: int, resamples: int, seed: int) -> Floats:
    """How often each sample is drawn in each bootstrap resample: shape (resamples, samples), every row sums to ``samples``.

    One matrix serves everything that was measured on the same samples, so that all of it is resampled alike and differences are paired.
    """
    draws = np.random.default_rng(seed).multinomial(samples, np.full(samples, 1 / samples), size=resamples).astype(np.float64)
    draws.setflags(write=False)
    return draws


def resampled_sums(values: Floats, resamples: int, seed: int) -> Floats:
    """Sums over the samples of ``values[k, sample]`` in every resample, shape (resamples, k): drawn as `resample_weights`, some at a time."""
    samples = values.shape[1]
    if samples * resamples <= DRAWS:
        return resample_weights(samples, resamples, seed) @ values.T
    rng = np.random.default_rng(seed)
    step = max(1, DRAWS // samples)
    shares = np.full(samples, 1 / samples)
    drawn = [rng.multinomial(samples, shares, size=min(step, resamples - start)) @ values.T for start in range(0, resamples, step)]
    return np.concatenate(drawn)


def weighted_ratio(weights: Floats, numerators: Floats, denominators: Floats) -> Floats:
    """Sum of numerators over sum of denominators in every resample; shape (resamples, ...) for numerators of shape (..., samples)."""
    totals = weights @ denominators
    sums = np.moveaxis(numerators @ weights.T, -1, 0)
    return np.asarray(sums / totals.reshape((-1,) + (1,) * (numerators.ndim - 1)))


def percentile_interval(value: float, resampled: Floats) -> Interval:
    """The estimate with the percentile bootstrap 95% interval (Efron & Tibshirani 1993, ch. 13)."""
    low, high = np.quantile(resampled, [ALPHA / 2, 1 - ALPHA / 2])
    return Interval(value=float(value), low=float(low), high=float(high))


def estimate(value: float, resampled: Floats, samples: int) -> Estimate:
    """The estimate with its percentile bootstrap interval, or without one where fewer than `MIN_SEQUENCES` samples were resampled."""
    if samples < MIN_SEQUENCES:
        return Estimate(value=float(value), low=None, high=None)
    interval = percentile_interval(value, resampled)
    return Estimate(value=interval.value, low=interval.low, high=interval.high)


def estimates(values: Floats, resampled: Floats, samples: int) -> list[Estimate]:
    """`estimate` of ``values[k]`` from ``resampled[r, k]``, for every k: a thousand quantiles of one array, not of a thousand."""
    if samples < MIN_SEQUENCES:
        return [Estimate(value=float(value), low=None, high=None) for value in values]
    lows, highs = np.quantile(resampled, [ALPHA / 2, 1 - ALPHA / 2], axis=0)
    return [Estimate(value=float(value), low=float(low), high=float(high)) for value, low, high in zip(values, lows, highs, strict=True)]


def bootstrap_p(resampled: Floats) -> float:
    """Two-sided p-value of a difference being 0, by how often its resamples lie on the rarer side of 0.

    It is below 5% where the percentile interval excludes 0 (Efron & Tibshirani 1993, ch. 15.4). One resample is added to each side, so that
    p is never 0 (Davison & Hinkley 1997, ch. 4.2).
    """
    rarer = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (resampled.size + 1))


def bootstrap_ratio(weights: Floats, numerators: Floats, denominators: Floats) -> Estimate:
    """Ratio of sums, as nats per token, with a bootstrap 95% interval over the samples (sequences) that were sampled together."""
    value = float(numerators.sum() / denominators.sum())
    return estimate(value, weighted_ratio(weights, numerators, denominators), weights.shape[1])


def ratio_of_medians(new: Sequence[float], old: Sequence[float], resamples: int, seed: int) -> Estimate | None:
    """Median of new rounds over median of old ones, with a bootstrap 95% interval; None where the old median is 0.

    The rounds are taken as independent, which slow drift of a machine breaks: the interval is then too narrow.
    """
    rng = np.random.default_rng(seed)
    a, b = np.asarray(new, dtype=np.float64), np.asarray(old, dtype=np.float64)
    medians_a = np.median(rng.choice(a, size=(resamples, a.size)), axis=1)
    medians_b = np.median(rng.choice(b, size=(resamples, b.size)), axis=1)
    if np.median(b) == 0 or np.any(medians_b == 0):
        return None
    return estimate(float(np.median(a) / np.median(b)), medians_a / medians_b, min(a.size, b.size))
