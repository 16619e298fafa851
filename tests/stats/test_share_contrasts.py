"""Shares of two samples: scale-free ratios, p-values that are what they say, and a planted difference that is told."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from bitzones.stats import share_contrasts as module
from bitzones.stats.share_contrasts import share_contrasts


def drawn(n: int, rows: int = 5, seed: int = 0) -> np.ndarray:
    """Heavy tails: sequences differ by much in all rows together, and rows besides."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.lognormal(0, 1, n) * rng.lognormal(0, 1, (rows, n)))


def test_a_ratio_of_shares_by_hand() -> None:
    amounts = np.repeat([[3.0, 1.0], [1.0, 3.0]], [20, 20], axis=1)
    found = share_contrasts(amounts, np.arange(40) < 20, 2, 200, 0)
    assert [item.ratio.value for item in found if item] == pytest.approx([3.0, 1 / 3])
    assert [(item.ratio.low, item.ratio.high) for item in found if item] == [(3.0, 3.0), (1 / 3, 1 / 3)]
    assert all(item is not None and item.p_value is not None and item.p_value < 0.001 for item in found)


def test_a_task_that_is_more_sensitive_in_every_layer_has_the_same_shares() -> None:
    amounts, first = drawn(60), np.arange(60) < 25
    before = share_contrasts(amounts, first, 5, 500, 0)
    after = share_contrasts(np.where(first, 100 * amounts, amounts), first, 5, 500, 0)
    for one, other in zip(before, after, strict=True):
        assert one is not None
        assert other is not None
        assert (other.ratio.value, other.ratio.low, other.ratio.high) == pytest.approx((one.ratio.value, one.ratio.low, one.ratio.high))


def test_the_p_value_is_the_share_of_labellings_that_differ_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of nine sequences, four labelled: all 126 labellings, one by one with the formula as it is in the textbook."""
    monkeypatch.setattr(module, "MIN_SEQUENCES", 4)
    amounts = drawn(9, rows=3, seed=3)

    def statistic(chosen: tuple[int, ...]) -> np.ndarray:
        logs, variances = [], []
        for places in (list(chosen), [n for n in range(9) if n not in chosen]):
            sample = amounts[:, places]
            part, whole = sample.sum(axis=1), sample.sum()
            influence = sample / part[:, None] - sample.sum(axis=0) / whole
            logs.append(np.log(part / whole))
            variances.append((influence**2).sum(axis=1) * len(places) / (len(places) - 1))
        return np.asarray((logs[0] - logs[1]) / np.sqrt(variances[0] + variances[1]))

    observed = np.abs(statistic((0, 1, 2, 3)))
    exact = np.mean([np.abs(statistic(chosen)) >= observed * (1 - 1e-9) for chosen in combinations(range(9), 4)], axis=0)
    found = share_contrasts(amounts, np.arange(9) < 4, 3, 200, 0)
    error = 4 * np.sqrt(exact * (1 - exact) / module.LEAST_PERMUTATIONS) + 1e-3
    assert np.all(np.abs([item.p_value for item in found if item] - exact) <= error)  # type: ignore[operator]


def test_p_values_of_no_difference_are_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 200 pairs of samples from one law, about 5% have a p-value below 5%: more than 10% would be a chance of 1 in 600."""
    monkeypatch.setattr(module, "LEAST_PERMUTATIONS", 199)
    monkeypatch.setattr(module, "FINEST", 0)
    p_values = [share_contrasts(drawn(44, 2, seed), np.arange(44) < 20, 1, 2, seed)[0].p_value for seed in range(200)]  # type: ignore[union-attr]
    assert np.mean([p <= 0.05 for p in p_values if p is not None]) <= 0.1
    assert np.mean([p <= 0.5 for p in p_values if p is not None]) == pytest.approx(0.5, abs=0.12)


def test_the_family_decides_how_small_a_p_value_can_be() -> None:
    amounts = drawn(60)
    amounts[0, :30] *= 1e6
    (found, *_) = share_contrasts(amounts, np.arange(60) < 30, 400, 2, 0)
    assert found is not None
    assert found.p_value is not None
    assert found.p_value * 400 < 0.05


def test_too_few_sequences_or_nothing_in_a_row_give_no_p_value() -> None:
    amounts, first = drawn(39), np.arange(39) < 19
    found = share_contrasts(amounts, first, 5, 50, 0)
    assert all(item is not None and item.p_value is None and item.ratio.low is None for item in found)
    amounts = drawn(60)
    amounts[2, :30] = 0.0
    found = share_contrasts(amounts, np.arange(60) < 30, 5, 50, 0)
    assert [item is None for item in found] == [False, False, True, False, False]
    assert share_contrasts(np.zeros((2, 60)), np.arange(60) < 30, 2, 50, 0) == [None, None]


def test_a_row_that_is_in_few_sequences_stays_finite() -> None:
    amounts = drawn(60)
    amounts[1] = 0.0
    amounts[1, [0, 59]] = 1.0
    (_, found, *_) = share_contrasts(amounts, np.arange(60) < 30, 5, 200, 0)
    assert found is not None
    assert found.p_value is not None
    assert found.p_value > 0.1
    assert (found.ratio.low, found.ratio.high) == (None, None), "a resample may lack the only sequence that it is in"
