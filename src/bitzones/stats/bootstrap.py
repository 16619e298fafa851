"""The percentile bootstrap over samples that were drawn together: sequences, items, rounds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bitzones.stats.intervals import ALPHA, MIN_SEQUENCES, Estimate, Interval

__all__ = [
    "bootstrap_mean",
    "bootstrap_p",
    "bootstrap_ratio",
    "estimate",
    "estimates",
    "percentile_interval",
    "ratio_of_medians",
    "resample_weights",
    "resampled_sums",
    "weighted_ratio",
]

DRAWS = 2**22
"""Draws that `resampled_sums` keeps in memory at a time (32 MiB), so that memory does not grow with the number of items."""

DRAWN = 4
"""Matrices that `resample_weights` caches: the same ones are used repeatedly, and drawing takes longer than using them."""

Floats = NDArray[np.float64]


@lru_cache(maxsize=DRAWN)
def resample_weights(samples: int, resamples: int, seed: int) -> Floats:
    """Number of times that each sample is drawn in each bootstrap resample: shape (resamples, samples), rows sum to ``samples``.

    Everything that was measured on the same samples uses the same matrix, so that differences are paired.
    """
    draws = np.random.default_rng(seed).multinomial(samples, np.full(samples, 1 / samples), size=resamples).astype(np.float64)
    draws.setflags(write=False)
    return draws


def resampled_sums(values: Floats, resamples: int, seed: int) -> Floats:
    """Sums of ``values[k, sample]`` over the samples of every resample, shape (resamples, k); drawn as by `resample_weights`, in chunks."""
    samples = values.shape[1]
    if samples * resamples <= DRAWS:
        return resample_weights(samples, resamples, seed) @ values.T
    rng = np.random.default_rng(seed)
    step = max(1, DRAWS // samples)
    shares = np.full(samples, 1 / samples)
    drawn = [rng.multinomial(samples, shares, size=min(step, resamples - start)) @ values.T for start in range(0, resamples, step)]
    return np.concatenate(drawn)


def weighted_ratio(weights: Floats, numerators: Floats, denominators: Floats) -> Floats:
    """Sum of numerators over sum of denominators in every resample; shape (resamples, ...) for numerators of shape (..., samples).

    All sums are one matrix product: numpy would take one for each of the first numerators, a third as fast. Resamples lie beside each
    other in memory, which is how what is done with the ratios goes through them.
    """
    sums = numerators.reshape(-1, numerators.shape[-1]) @ weights.T
    sums /= weights @ denominators
    return np.moveaxis(sums.reshape(*numerators.shape[:-1], -1), -1, 0)


def percentile_interval(value: float, resampled: Floats) -> Interval:
    """The estimate with the percentile bootstrap 95% interval (Efron & Tibshirani 1993, ch. 13)."""
    low, high = np.quantile(resampled, [ALPHA / 2, 1 - ALPHA / 2])
    return Interval(value=float(value), low=float(low), high=float(high))


def estimate(value: float, resampled: Floats, samples: int) -> Estimate:
    """The estimate with its percentile bootstrap interval, or without one below `MIN_SEQUENCES` samples."""
    if samples < MIN_SEQUENCES:
        return Estimate(value=float(value), low=None, high=None)
    interval = percentile_interval(value, resampled)
    return Estimate(value=interval.value, low=interval.low, high=interval.high)


def estimates(values: Floats, resampled: Floats, samples: int) -> list[Estimate]:
    """`estimate` of ``values[k]`` from ``resampled[r, k]`` for every k, with one call for all quantiles."""
    if samples < MIN_SEQUENCES:
        return [Estimate(value=float(value), low=None, high=None) for value in values]
    lows, highs = np.quantile(resampled, [ALPHA / 2, 1 - ALPHA / 2], axis=0)
    return [Estimate(value=float(value), low=float(low), high=float(high)) for value, low, high in zip(values, lows, highs, strict=True)]


def bootstrap_p(resampled: Floats) -> float:
    """Two-sided p-value of no difference, from the share of resamples on the rarer side of 0.

    It is below 5% if the percentile interval excludes 0 (Efron & Tibshirani 1993, ch. 15.4). One resample is added to each side, so that p
    is never 0 (Davison & Hinkley 1997, ch. 4.2).
    """
    rarer = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (resampled.size + 1))


def bootstrap_ratio(weights: Floats, numerators: Floats, denominators: Floats) -> Estimate:
    """Ratio of sums, such as nats per token, with a bootstrap 95% interval over sequences."""
    value = float(numerators.sum() / denominators.sum())
    return estimate(value, weighted_ratio(weights, numerators, denominators), weights.shape[1])


def bootstrap_mean(values: Floats, resamples: int, seed: int) -> Estimate:
    """Mean with a bootstrap 95% interval."""
    sums = resampled_sums(values[None, :], resamples, seed)[:, 0]
    return estimate(float(values.mean()), sums / len(values), len(values))


def ratio_of_medians(new: Sequence[float], old: Sequence[float], resamples: int, seed: int) -> Estimate | None:
    """Median of new rounds over median of old rounds, with a bootstrap 95% interval; None if the old median is 0.

    Rounds are treated as independent. A machine that drifts slowly violates this, and the interval is then too narrow.
    """
    rng = np.random.default_rng(seed)
    a, b = np.asarray(new, dtype=np.float64), np.asarray(old, dtype=np.float64)
    medians_a = np.median(rng.choice(a, size=(resamples, a.size)), axis=1)
    medians_b = np.median(rng.choice(b, size=(resamples, b.size)), axis=1)
    if np.median(b) == 0 or np.any(medians_b == 0):
        return None
    return estimate(float(np.median(a) / np.median(b)), medians_a / medians_b, min(a.size, b.size))
