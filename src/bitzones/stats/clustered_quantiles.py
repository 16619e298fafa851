"""Quantiles of tokens that come in windows, with intervals by resampling the windows: tokens of one window are not independent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bitzones.stats.bootstrap import estimate
from bitzones.stats.intervals import Estimate

__all__ = ["LEAST_BEYOND", "clustered_quantiles"]

LEAST_BEYOND = 10
"""Values beyond a quantile on its thinner side below which it gets no interval: resamples of fewer only repeat the largest of them."""

GRID, TAIL = 1000, 200
"""Values among which resampled quantiles are found: this many evenly spaced by rank, and all of this many at either end."""

Floats = NDArray[np.float64]


def clustered_quantiles(clusters: Sequence[Floats], weights: Floats, shares: Sequence[float]) -> list[Estimate]:
    """Quantiles of all values together, the smallest value that at least a share of them do not exceed.

    Args:
        clusters: values of each window.
        weights: how often each window is drawn in each resample, shape (resamples, windows).
        shares: of the values, each between 0 and 1.

    >>> import numpy as np
    >>> found = clustered_quantiles([np.array([1.0, 2.0]), np.array([3.0, 4.0])], np.ones((1, 2)), (0.5, 1.0))
    >>> [item.value for item in found]
    [2.0, 4.0]
    """
    values = np.sort(np.concatenate(clusters))
    places = np.unique(np.concatenate((np.linspace(0, len(values) - 1, GRID).astype(int), _ends(len(values)))))
    grid = np.unique(values[places])
    below = np.stack([np.searchsorted(np.sort(cluster), grid, side="right") for cluster in clusters]).astype(np.float64)
    resampled = (weights @ below) / (weights @ np.array([len(cluster) for cluster in clusters], dtype=np.float64))[:, None]
    return [_quantile(values, share, grid, resampled, len(clusters)) for share in shares]


def _ends(count: int) -> NDArray[np.int_]:
    return np.concatenate((np.arange(min(TAIL, count)), np.arange(max(0, count - TAIL), count)))


def _quantile(values: Floats, share: float, grid: Floats, resampled: Floats, clusters: int) -> Estimate:
    rank = max(0, int(np.ceil(share * len(values) - 1e-9)) - 1)
    value = float(values[rank])
    if min(rank, len(values) - 1 - rank) < LEAST_BEYOND:
        return Estimate(value=value, low=None, high=None)
    found = grid[np.minimum((resampled >= share - 1e-12).argmax(axis=1), len(grid) - 1)]
    return estimate(value, found, clusters)
