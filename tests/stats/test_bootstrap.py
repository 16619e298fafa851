"""Resampling: paired, seeded, in pieces as at once, and its coverage."""

from __future__ import annotations

import numpy as np
import pytest

from bitzones.stats import bootstrap, intervals


@pytest.mark.parametrize(("units", "told"), [(intervals.MIN_SEQUENCES - 1, False), (intervals.MIN_SEQUENCES, True)])
def test_too_few_units_give_a_value_without_an_interval(units: int, told: bool) -> None:
    found = bootstrap.bootstrap_ratio(bootstrap.resample_weights(units, 100, 0), np.arange(1.0, units + 1), np.ones(units))
    assert found.value == pytest.approx((units + 1) / 2)
    assert (found.interval is not None) == told


def test_bootstrap_p_agrees_with_the_interval() -> None:
    draws = np.random.default_rng(0).normal(2.0, 1.0, 4000)
    assert bootstrap.bootstrap_p(draws) == pytest.approx(2 * 0.02275, abs=0.01)
    assert bootstrap.bootstrap_p(draws) == bootstrap.bootstrap_p(-draws)
    assert bootstrap.bootstrap_p(np.full(99, 1.0)) == pytest.approx(0.02)
    assert bootstrap.bootstrap_p(np.zeros(99)) == 1.0


def test_sums_in_pieces_are_the_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).random((3, 11))
    whole = bootstrap.resample_weights(11, 50, 7) @ values.T
    assert bootstrap.resampled_sums(values, 50, 7) == pytest.approx(whole)
    monkeypatch.setattr(bootstrap, "DRAWS", 40)
    assert bootstrap.resampled_sums(values, 50, 7) == pytest.approx(whole)


@pytest.mark.parametrize("units", [intervals.MIN_SEQUENCES, intervals.MIN_SEQUENCES - 1])
def test_many_estimates_are_each_s(units: int) -> None:
    values, resampled = np.arange(3.0), np.random.default_rng(5).lognormal(size=(2000, 3))
    each = [bootstrap.estimate(value, column, units) for value, column in zip(values, resampled.T, strict=True)]
    assert bootstrap.estimates(values, resampled, units) == each


def test_draws_that_are_shared_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        bootstrap.resample_weights(7, 50, 3)[0, 0] = 1


def test_weights_are_paired_seeded_and_complete() -> None:
    weights = bootstrap.resample_weights(7, 50, seed=3)
    assert weights.shape == (50, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert (weights == bootstrap.resample_weights(7, 50, seed=3)).all()
    assert (weights != bootstrap.resample_weights(7, 50, seed=4)).any()


def test_ratio_weighs_by_tokens_not_by_sequence() -> None:
    kl, tokens = np.array([10.0, 1.0]), np.array([100.0, 1.0])
    resampled = bootstrap.weighted_ratio(bootstrap.resample_weights(2, 200, 0), kl, tokens)
    assert bootstrap.bootstrap_ratio(bootstrap.resample_weights(2, 200, 0), kl, tokens).value == pytest.approx(11 / 101)
    assert set(resampled.round(6)) == {0.1, round(11 / 101, 6), 1.0}


def test_bootstrap_covers_about_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(5), 0
    for _ in range(200):
        tokens = rng.integers(20, 60, 40).astype(float)
        kl = tokens * rng.gamma(4.0, 0.25, 40)
        interval = bootstrap.bootstrap_ratio(bootstrap.resample_weights(40, 400, 1), kl, tokens)
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= 1.0 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_weighted_ratio_keeps_shapes() -> None:
    weights, kl = np.array([[1.0, 1.0], [2.0, 0.0]]), np.arange(12.0).reshape(2, 3, 2)
    found = bootstrap.weighted_ratio(weights, kl, np.array([1.0, 3.0]))
    assert found.shape == (2, 2, 3)
    assert found[0] == pytest.approx(kl.sum(axis=2) / 4)
    assert found[1] == pytest.approx(kl[..., 0])


def test_ratio_of_medians() -> None:
    interval = bootstrap.ratio_of_medians([2.0] * 19 + [9.0], [1.0] * 20, 200, 0)
    assert interval == intervals.Estimate(value=2.0, low=2.0, high=2.0)
    assert bootstrap.ratio_of_medians([2.0] * 20, [1.0] * 19, 200, 0) == intervals.Estimate(value=2.0, low=None, high=None)
    assert bootstrap.ratio_of_medians([1.0], [0.0], 50, 0) is None
