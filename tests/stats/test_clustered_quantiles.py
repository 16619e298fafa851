"""Quantiles of tokens in windows: values known, intervals that cover, and wider where windows differ."""

from __future__ import annotations

import numpy as np
import pytest

from bitzones.stats.bootstrap import resample_weights
from bitzones.stats.clustered_quantiles import LEAST_BEYOND, clustered_quantiles

SHARES = (0.001, 0.1, 0.5, 0.9, 0.99, 0.999)


def test_values_are_those_of_all_tokens_together() -> None:
    rng = np.random.default_rng(0)
    windows = [rng.lognormal(size=size) for size in rng.integers(5, 60, 40)]
    found = clustered_quantiles(windows, resample_weights(40, 200, 0), SHARES)
    expected = np.quantile(np.concatenate(windows), SHARES, method="inverted_cdf")
    assert [item.value for item in found] == pytest.approx(expected)


def test_a_tail_of_few_tokens_has_no_interval() -> None:
    windows = [np.arange(n, n + 10, dtype=float) for n in range(0, 1000, 10)]
    found = clustered_quantiles(windows, resample_weights(100, 200, 0), (0.5, 1 - LEAST_BEYOND / 1000, 0.999))
    assert [item.low is None for item in found] == [False, False, True]
    assert all(item.low < item.value < item.high for item in found[:1])  # type: ignore[operator]


def test_few_windows_have_no_interval() -> None:
    windows = [np.arange(100, dtype=float) for _ in range(5)]
    assert clustered_quantiles(windows, resample_weights(5, 200, 0), (0.5,))[0].low is None


def test_intervals_cover_the_law_they_are_drawn_from_and_know_of_windows() -> None:
    """Of 200 samples the 95% interval of the median covers the true one in about 190, though tokens of a window go together."""
    rng, covered = np.random.default_rng(1), 0
    for number in range(200):
        windows = [rng.normal(size=30) + rng.normal() for _ in range(40)]
        found = clustered_quantiles(windows, resample_weights(40, 400, number), (0.5,))[0]
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.0 <= found.high
    assert 178 <= covered <= 199


def test_intervals_are_those_of_whole_resamples() -> None:
    rng = np.random.default_rng(2)
    windows = [rng.exponential(size=12) for _ in range(30)]
    weights = resample_weights(30, 100, 3)
    exact = [
        np.quantile(np.concatenate([np.repeat(w, int(k)) for w, k in zip(windows, row, strict=True)]), 0.9, method="inverted_cdf")
        for row in weights
    ]
    found = clustered_quantiles(windows, weights, (0.9,))[0]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(exact, (0.025, 0.975))))
