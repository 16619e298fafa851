"""Whether the shares of a total depend on which sample they are of: the shares of layers in a sensitivity, on one task and on others.

A share is a ratio of sums over the sequences of a sample. All shares are paired over the sequences: what makes a whole sequence more
sensitive moves every row, and no share. Sensitivities of sequences have heavy tails, under which a normal theory of such ratios calls a
difference far too often. So which sample a sequence is of is permuted, and the difference of the logarithms of a share is divided by its
standard error in every permutation (Janssen 1997, Stat. Probab. Lett. 36:9; Chung & Romano 2013, Ann. Stat. 41:484): exact where the
samples are alike, and valid in large samples where only their shares are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitzones.stats.bootstrap import estimates, resample_weights
from bitzones.stats.intervals import ALPHA, MIN_SEQUENCES, Estimate

__all__ = ["ShareContrast", "share_contrasts"]

LEAST_PERMUTATIONS = 5000
"""Permutations for a few tests: the standard error of a p-value of 5% is then 0.3 points."""

FINEST = 5
"""Permutations of a family are so many that the least p-value that they can give is a fifth of what Holm's first step asks."""

DRAWS = 2**22
"""Labels that are held in memory at a time (32 MiB)."""

ROUNDING = 1e-9
"""By which a permuted statistic may be below the observed one and count as large: the same partition summed in another order."""

LEAST_PART = 1e-12
"""Of a row's sum in any sample, as a share of all of it: a logarithm has to be finite where a permutation leaves a sample nothing."""

TINY = np.finfo(np.float64).tiny
"""Avoids a division by 0 where the quotient is not used."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class ShareContrast:
    """Share in the first sample by share in the others, with its bootstrap 95% interval, and the two-sided p-value of no difference.

    ``p_value`` is None, and the ratio has no interval, with too few sequences in either; a ratio without bounds has none either.
    """

    ratio: Estimate
    p_value: float | None


def share_contrasts(amounts: Floats, first: Flags, tests: int, resamples: int, seed: int) -> list[ShareContrast | None]:
    """The contrast of every row; None for one without a positive amount in either sample.

    Args:
        amounts: not negative, shape (rows, sequences); the share of a row in a sample is its sum by the sum of all rows.
        first: which sequences are of the first sample; the others are of the second.
        tests: of the family that the p-values are corrected in: it decides how many permutations are needed.
        resamples: of the interval's bootstrap, in which each sample keeps its size.
        seed: of permutations and resamples.
    """
    samples = amounts[:, first], amounts[:, ~first]
    shown = np.all([sample.sum(axis=1) > 0 for sample in samples], axis=0)
    kept, n = amounts[shown], min(sample.shape[1] for sample in samples)
    if not shown.any() or n < 2:
        return [None] * len(amounts)
    shares = [sample[shown].sum(axis=1) / sample[shown].sum() for sample in samples]
    resampled = [_resampled(sample[shown], resamples, seed + number) for number, sample in enumerate(samples)]
    ratios = estimates(shares[0] / shares[1], resampled[0] / np.maximum(resampled[1], TINY), n)
    unbounded = np.any([(found == 0).any(axis=0) for found in resampled], axis=0)  # some resample has nothing of the row
    ratios = [Estimate(value=item.value, low=None, high=None) if no_end else item for item, no_end in zip(ratios, unbounded, strict=True)]
    p_values = _p_values(kept, first, tests, seed) if n >= MIN_SEQUENCES else [None] * len(kept)
    found = map(ShareContrast, ratios, p_values)
    return [next(found) if there else None for there in shown]


def _resampled(amounts: Floats, resamples: int, seed: int) -> Floats:
    """Shares of the rows in every bootstrap resample of the sequences, shape (resamples, rows)."""
    sums = resample_weights(amounts.shape[1], resamples, seed) @ amounts.T
    return np.asarray(sums / np.maximum(sums.sum(axis=1, keepdims=True), TINY))


def _p_values(amounts: Floats, first: Flags, tests: int, seed: int) -> list[float]:
    totals = amounts.sum(axis=0)
    terms = np.concatenate([amounts, np.square(amounts), amounts * totals, [totals, np.square(totals)]])
    observed = np.abs(_statistic(first[np.newaxis].astype(np.float64), terms))[0] * (1 - ROUNDING)
    as_large, permutations = np.zeros(len(amounts), dtype=np.int64), max(LEAST_PERMUTATIONS, math.ceil(FINEST * tests / ALPHA))
    for labels in _permuted(first, permutations, seed):
        as_large += (np.abs(_statistic(labels, terms)) >= observed).sum(axis=0)
    return [float(p) for p in (as_large + 1) / (permutations + 1)]


def _permuted(first: Flags, permutations: int, seed: int) -> Iterator[Floats]:
    """Permutations of the labels in chunks of shape (some, sequences)."""
    rng, step = np.random.default_rng(seed), max(1, DRAWS // len(first))
    for start in range(0, permutations, step):
        rows = np.tile(first.astype(np.float64), (min(step, permutations - start), 1))
        yield rng.permuted(rows, axis=1, out=rows)


def _statistic(labels: Floats, terms: Floats) -> Floats:
    """Difference of the logarithms of shares by its standard error, of every row under every labelling: shape (labellings, rows).

    ``terms`` are the rows' amounts, their squares, their products with the totals, the totals and their squares, by sequence.
    """
    sums, every, sizes = labels @ terms.T, terms.sum(axis=1), labels.sum(axis=1, keepdims=True)
    log_a, variance_a = _log_shares(np.maximum(sums, LEAST_PART * every), sizes)
    log_b, variance_b = _log_shares(np.maximum(every - sums, LEAST_PART * every), labels.shape[1] - sizes)
    difference = log_a - log_b
    return np.where(difference == 0, 0.0, difference / np.sqrt(np.maximum(variance_a + variance_b, TINY)))


def _log_shares(sums: Floats, sizes: Floats) -> tuple[Floats, Floats]:
    """Logarithm of every row's share and its variance to first order (the delta method: Cochran 1977, Sampling Techniques, ch. 6).

    A sequence with amount x of a row and t of all rows has the influence x / sum(x) - t / sum(t).
    """
    rows = sums.shape[1] // 3
    parts, squares, products = (sums[:, at : at + rows] for at in (0, rows, 2 * rows))
    whole = sums[:, -2:-1]
    variance = squares / np.square(parts) - 2 * products / (parts * whole) + sums[:, -1:] / np.square(whole)
    return np.log(parts / whole), np.maximum(variance, 0.0) * sizes / (sizes - 1)
