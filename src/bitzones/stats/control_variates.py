"""The total of a figure over all samples when it was measured on some of them only, from figures that are known on all.

The regression estimator of survey sampling (Cochran 1977, Sampling Techniques, ch. 7; Särndal, Swensson & Wretman 1992, ch. 6): the
figure is regressed on its controls where it was measured, and predicted where it was not. Everything is given as one value per sample,
such that a sum over samples is the estimate, and a bootstrap that draws samples has the estimate's variance: that of what the controls
explain over all samples, and that of the residuals over the measured ones. Estimates of several figures stay paired that way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimated", "chosen_controls", "estimated"]

Floats = NDArray[np.float64]

WORTH = 0.95
"""A larger set of controls must leave less than this share of the smaller one's error: picking the best of several equal ones by chance
would make every interval too narrow."""

FEWEST_PER_CONTROL = 5
"""Measured samples per column of a regression: below, its own error is no longer small beside that of the mean."""


@dataclass(frozen=True)
class Estimated:
    """One figure per sample, the measured ones first.

    ``values`` sum to the estimate. ``errors`` sum to 0: weighted with independent standard normals they have the distribution of the
    estimate's error against the total that all samples would give; all are 0 where all were measured.
    """

    values: Floats
    errors: Floats
    measured: int

    @property
    def as_if_measured(self) -> Floats:
        """Values whose bootstrap has the variance that measuring all samples would give, and the same sum."""
        share = self.measured / len(self.values)
        if share == 1:
            return self.values
        residuals = self.errors / np.sqrt(1 - share)
        return np.asarray(self.values - residuals * (1 - np.sqrt(share)))


def estimated(measured: Floats, controls: Floats) -> Estimated:
    """The regression estimate of a figure that was measured on the first samples.

    Residuals are weighted so that the controls' totals come out exactly, and widened for the columns that were fitted.

    Args:
        measured: the figure, shape (measured,).
        controls: known for all samples, a constant among them if the figure has one; shape (samples, columns).

    >>> half = estimated(np.array([1.0, 2.0]), np.array([[1.0], [2.0], [3.0], [4.0]]))
    >>> half.values.round(9).tolist()  # a figure that its control explains wholly is known without measuring it
    [1.0, 2.0, 3.0, 4.0]
    """
    count, samples = len(measured), len(controls)
    if count == samples:
        return Estimated(measured, np.zeros(samples), count)
    known = controls[:count]
    inverse = np.linalg.pinv(known)
    fitted = controls @ (inverse @ measured)
    residuals = measured - fitted[:count]
    residuals[np.abs(residuals) < np.finfo(np.float64).eps * np.abs(measured).max(initial=0.0) * count] = 0.0
    weights = controls.sum(axis=0) @ inverse
    spread = weights * residuals * np.sqrt(count / max(1, count - controls.shape[1]))
    values, errors = fitted.copy(), np.zeros(samples)
    values[:count] += spread
    errors[:count] = np.sqrt(1 - count / samples) * spread
    return Estimated(values, errors, count)


def chosen_controls(measured: Floats, candidates: Sequence[Floats]) -> int:
    """Which of several sets of controls predicts a figure best where it was left out of the fit (PRESS; Allen 1974, Technometrics 16:125).

    Args:
        measured: the figure on the first samples.
        candidates: from the smallest set on; each of shape (samples, columns).

    Returns:
        A later set only if it is better than the best before it by more than `WORTH`.
    """
    best, least = 0, _left_out(measured, candidates[0])
    for number, controls in enumerate(candidates[1:], 1):
        if len(measured) < FEWEST_PER_CONTROL * controls.shape[1]:
            continue
        error = _left_out(measured, controls)
        if error < WORTH * least:
            best, least = number, error
    return best


def _left_out(measured: Floats, controls: Floats) -> float:
    """Sum of squared errors of every sample predicted from the others."""
    known = controls[: len(measured)]
    hat = known @ np.linalg.pinv(known)
    kept = 1 - hat.diagonal()
    return float((((measured - hat @ measured) / np.where(kept > 0, kept, 1.0)) ** 2).sum())
