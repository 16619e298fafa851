"""Tests of paired items and of chance, corrections for several tests, and what a test of n items can detect.

scipy is imported where it is used: it takes longer to import than everything else that reading a run needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from bitzones.stats.intervals import ALPHA, normal_quantile

__all__ = ["POWER", "above_chance", "fewest_losses", "holm", "mcnemar_exact", "minimum_detectable_effect"]

POWER = 0.8
"""Power of the minimum detectable effect: the usual 80%."""

HALVINGS = 53
"""Bisections of the range of a share: the remaining interval is below the resolution of a float near 1."""

EXACT_CHANCE_ITEMS = 2000
"""Above this many items the normal approximation of the Poisson-binomial distribution is exact to more digits than are printed."""


def mcnemar_exact(lost: int, gained: int) -> float:
    """Two-sided p-value of McNemar's test (1947, Psychometrika 12:153) in its exact binomial form: losses and gains are equally likely."""
    if lost + gained == 0:
        return 1.0
    from scipy.special import bdtr  # noqa: PLC0415 (scipy.stats is slow to import; the distribution is symmetric, so p is twice its tail)

    return min(1.0, 2 * float(bdtr(min(lost, gained), lost + gained, 0.5)))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """P-values adjusted for multiple tests (Holm 1979, Scand. J. Statist. 6:65), in the order given.

    Of m tests, the i-th smallest p is multiplied by m - i + 1 and is at least as large as the one before. Rejecting all tests below alpha
    keeps the family-wise error rate at alpha, whatever the dependence between the tests.

    >>> [round(p, 3) for p in holm((0.04, 0.01, 0.03))]
    [0.06, 0.03, 0.06]
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return tuple(adjusted)


def fewest_losses(alpha: float = ALPHA) -> int:
    """Fewest losses without a gain that McNemar's exact test finds significant: 6 at 5%, because 2 * 0.5^6 is 3% and 2 * 0.5^5 is 6%.

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
    g, z_alpha, z_power, losses = gained / n, normal_quantile(1 - alpha / 2), normal_quantile(power), fewest_losses(alpha)

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
