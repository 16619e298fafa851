"""Known answers by hand or from the cited papers, and properties that any interval must have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitzones import stats


@pytest.mark.parametrize(
    ("k", "n", "low", "high"), [(8, 10, 0.490, 0.943), (0, 20, 0.0, 0.161), (20, 20, 0.839, 1.0), (250, 500, 0.456, 0.544)]
)
def test_wilson_known(k: int, n: int, low: float, high: float) -> None:
    interval = stats.wilson_interval(k, n)
    assert (interval.value, round(interval.low, 3), round(interval.high, 3)) == (k / n, low, high)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.data())
def test_wilson_is_scipy_s(n: int, data: st.DataObject) -> None:
    from scipy.stats import binomtest

    k = data.draw(st.integers(0, n))
    theirs = binomtest(k, n).proportion_ci(method="wilson")
    ours = stats.wilson_interval(k, n)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= ours.low <= ours.value <= ours.high <= 1


@pytest.mark.parametrize(("k", "n"), [(1, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_no_share(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="is not a share"):
        stats.wilson_interval(k, n)


@pytest.mark.parametrize(("lost", "gained", "p"), [(0, 0, 1.0), (5, 0, 2 / 32), (6, 0, 2 / 64), (3, 3, 1.0), (0, 6, 2 / 64)])
def test_mcnemar_by_hand(lost: int, gained: int, p: float) -> None:
    assert stats.mcnemar_exact(lost, gained) == pytest.approx(p)


def test_paired_difference_is_bonett_and_price() -> None:
    # By hand: p_gained = 4/102, p_lost = 11/102, half = 1.96 * sqrt((15/102 - (7/102)^2) / 102).
    interval = stats.paired_difference(lost=10, gained=3, n=100)
    half = 1.959964 * ((15 / 102 - (7 / 102) ** 2) / 102) ** 0.5
    assert interval.value == pytest.approx(-0.07)
    assert (interval.low, interval.high) == pytest.approx((-7 / 102 - half, -7 / 102 + half), abs=1e-6)


def test_smallest_drop_solves_connor_s_formula() -> None:
    drop, n, gains = stats.smallest_drop(500, gained=10), 500, 10 / 500
    assert drop is not None
    psi = drop + 2 * gains
    assert (1.959964 * psi**0.5 + 0.841621 * (psi - drop**2) ** 0.5) ** 2 / drop**2 == pytest.approx(n, rel=1e-4)


@pytest.mark.parametrize("n", [20, 40, 400])
def test_smallest_drop_is_shown_at_eighty_per_cent(n: int) -> None:
    from scipy.stats import binom

    drop = stats.smallest_drop(n)
    assert drop is not None
    shown = sum(binom.pmf(lost, n, drop) for lost in range(n + 1) if stats.mcnemar_exact(lost, 0) < stats.ALPHA)
    assert shown == pytest.approx(stats.POWER, abs=0.03)


def test_smallest_drop_shrinks_with_n_and_grows_with_flips() -> None:
    drops = [stats.smallest_drop(n) for n in (20, 100, 500, 2000)]
    assert drops == sorted(drops, reverse=True, key=lambda drop: drop or 1)
    assert (stats.smallest_drop(500, 50) or 0) > (stats.smallest_drop(500, 0) or 1)
    assert stats.smallest_drop(5) is None


def test_the_same_shares_are_a_verdict_on_many_items_only() -> None:
    assert str(stats.verdict(lost=1, gained=0, n=20)) == "cannot tell"
    assert str(stats.verdict(lost=50, gained=0, n=1000)) == "worse"
    assert str(stats.verdict(lost=0, gained=50, n=1000)) == "better"
    assert str(stats.verdict(lost=0, gained=0, n=20)) == "cannot tell"
    assert stats.verdict(lost=3, gained=2, n=1000).word == "no worse within"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(120, 3000))
def test_no_verdict_contradicts_the_counts(lost: int, gained: int, n: int) -> None:
    found = stats.verdict(lost, gained, n)
    assert found.word != "worse" or lost > gained
    assert found.word != "better" or gained > lost
    assert (found.within is not None) == (found.word == "no worse within")
    assert found.within is None or max(0, (lost - gained) / n) <= found.within <= stats.NO_WORSE_MARGIN


def test_the_margin_in_words_is_never_below_the_figure() -> None:
    assert str(stats.Verdict(word="no worse within", within=0.01201)) == "no worse within 1.3 points"
    assert str(stats.Verdict(word="no worse within", within=0.012)) == "no worse within 1.2 points"


def test_above_chance_is_poisson_binomial() -> None:
    # Two items of chance 1/2 and 1/4: both right 1/8, at least one 1 - 3/8.
    assert stats.above_chance(2, (0.5, 0.25)) == pytest.approx(1 / 8)
    assert stats.above_chance(1, (0.5, 0.25)) == pytest.approx(5 / 8)
    assert stats.above_chance(0, (0.5, 0.25)) == pytest.approx(1.0)
    assert stats.above_chance(1, (0.0, 0.0)) == 0.0


def test_above_chance_meets_its_normal_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    chances = (0.25, 0.2, 0.5) * 300
    exact = stats.above_chance(310, chances)
    monkeypatch.setattr(stats, "EXACT_CHANCE_ITEMS", 10)
    assert stats.above_chance(310, chances) == pytest.approx(exact, abs=2e-3)


def test_weights_are_paired_seeded_and_complete() -> None:
    weights = stats.resample_weights(7, 50, seed=3)
    assert weights.shape == (50, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert (weights == stats.resample_weights(7, 50, seed=3)).all()
    assert (weights != stats.resample_weights(7, 50, seed=4)).any()


def test_ratio_weighs_by_tokens_not_by_sequence() -> None:
    kl, tokens = np.array([10.0, 1.0]), np.array([100.0, 1.0])
    interval = stats.bootstrap_ratio(stats.resample_weights(2, 200, 0), kl, tokens)
    assert interval.value == pytest.approx(11 / 101)
    assert interval.low == pytest.approx(0.1)
    assert interval.high == pytest.approx(1.0)


def test_bootstrap_covers_about_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(5), 0
    for _ in range(200):
        tokens = rng.integers(20, 60, 40).astype(float)
        kl = tokens * rng.gamma(4.0, 0.25, 40)
        interval = stats.bootstrap_ratio(stats.resample_weights(40, 400, 1), kl, tokens)
        hits += interval.low <= 1.0 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_weighted_ratio_keeps_shapes() -> None:
    weights, kl = np.array([[1.0, 1.0], [2.0, 0.0]]), np.arange(12.0).reshape(2, 3, 2)
    found = stats.weighted_ratio(weights, kl, np.array([1.0, 3.0]))
    assert found.shape == (2, 2, 3)
    assert found[0] == pytest.approx(kl.sum(axis=2) / 4)
    assert found[1] == pytest.approx(kl[..., 0])


def test_ratio_of_medians() -> None:
    interval = stats.ratio_of_medians([2.0] * 9 + [9.0], [1.0] * 10, 200, 0)
    assert interval == stats.Interval(value=2.0, low=2.0, high=2.0)
    assert stats.ratio_of_medians([1.0], [0.0], 50, 0) is None
