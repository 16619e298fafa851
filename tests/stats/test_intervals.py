"""Known answers by hand or from the cited papers, and properties that any interval must have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitzones.stats import bootstrap, intervals, significance, verdicts


@pytest.mark.parametrize(
    ("k", "n", "low", "high"), [(8, 10, 0.490, 0.943), (0, 20, 0.0, 0.161), (20, 20, 0.839, 1.0), (250, 500, 0.456, 0.544)]
)
def test_wilson_known(k: int, n: int, low: float, high: float) -> None:
    interval = intervals.wilson_interval(k, n)
    assert (interval.value, round(interval.low, 3), round(interval.high, 3)) == (k / n, low, high)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.data())
def test_wilson_is_scipy_s(n: int, data: st.DataObject) -> None:
    from scipy.stats import binomtest

    k = data.draw(st.integers(0, n))
    theirs = binomtest(k, n).proportion_ci(method="wilson")
    ours = intervals.wilson_interval(k, n)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= ours.low <= ours.value <= ours.high <= 1


@pytest.mark.parametrize(("k", "n"), [(1, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_no_share(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="is not a share"):
        intervals.wilson_interval(k, n)


@pytest.mark.parametrize(("lost", "gained", "p"), [(0, 0, 1.0), (5, 0, 2 / 32), (6, 0, 2 / 64), (3, 3, 1.0), (0, 6, 2 / 64)])
def test_mcnemar_by_hand(lost: int, gained: int, p: float) -> None:
    assert significance.mcnemar_exact(lost, gained) == pytest.approx(p)


def test_paired_difference_is_bonett_and_price() -> None:
    # By hand: p_gained = 4/102, p_lost = 11/102, half = 1.96 * sqrt((15/102 - (7/102)^2) / 102).
    interval = intervals.paired_difference(lost=10, gained=3, n=100)
    half = 1.959964 * ((15 / 102 - (7 / 102) ** 2) / 102) ** 0.5
    assert interval.value == pytest.approx(-0.07)
    assert (interval.low, interval.high) == pytest.approx((-7 / 102 - half, -7 / 102 + half), abs=1e-6)


def test_smallest_drop_solves_connor_s_formula() -> None:
    drop, n, gains = significance.minimum_detectable_effect(500, gained=10), 500, 10 / 500
    assert drop is not None
    psi = drop + 2 * gains
    assert (1.959964 * psi**0.5 + 0.841621 * (psi - drop**2) ** 0.5) ** 2 / drop**2 == pytest.approx(n, rel=1e-4)


@pytest.mark.parametrize("n", [20, 40, 400])
def test_smallest_drop_is_shown_at_eighty_per_cent(n: int) -> None:
    from scipy.stats import binom

    drop = significance.minimum_detectable_effect(n)
    assert drop is not None
    shown = sum(binom.pmf(lost, n, drop) for lost in range(n + 1) if significance.mcnemar_exact(lost, 0) < intervals.ALPHA)
    assert shown == pytest.approx(significance.POWER, abs=0.03)


def test_smallest_drop_shrinks_with_n_and_grows_with_flips() -> None:
    drops = [significance.minimum_detectable_effect(n) for n in (20, 100, 500, 2000)]
    assert drops == sorted(drops, reverse=True, key=lambda drop: drop or 1)
    assert (significance.minimum_detectable_effect(500, 50) or 0) > (significance.minimum_detectable_effect(500, 0) or 1)
    assert significance.minimum_detectable_effect(5) is None


def test_the_same_shares_are_a_verdict_on_many_items_only() -> None:
    assert str(verdicts.verdict(lost=1, gained=0, n=20)) == "inconclusive"
    assert str(verdicts.verdict(lost=50, gained=0, n=1000)) == "worse"
    assert str(verdicts.verdict(lost=0, gained=50, n=1000)) == "better"
    assert str(verdicts.verdict(lost=0, gained=0, n=20)) == "inconclusive"
    assert verdicts.verdict(lost=3, gained=2, n=1000).word == "non-inferior"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(120, 3000))
def test_no_verdict_contradicts_the_counts(lost: int, gained: int, n: int) -> None:
    found = verdicts.verdict(lost, gained, n)
    assert found.word != "worse" or lost > gained
    assert found.word != "better" or gained > lost
    assert (found.within is not None) == (found.word == "non-inferior")
    assert found.within is None or max(0, (lost - gained) / n) <= found.within <= verdicts.NON_INFERIORITY_MARGIN


def test_the_margin_in_words_is_never_below_the_figure() -> None:
    assert str(verdicts.Verdict(word="non-inferior", within=0.01201)) == "non-inferior (margin 1.3 points)"
    assert str(verdicts.Verdict(word="non-inferior", within=0.012)) == "non-inferior (margin 1.2 points)"


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ((), ()),
        ((0.02,), (0.02,)),
        ((0.01, 0.04, 0.03, 0.005), (0.03, 0.06, 0.06, 0.02)),  # by hand: 4 * 0.005, 3 * 0.01, 2 * 0.03, and not below that
        ((0.4, 0.9, 0.6), (1.0, 1.0, 1.0)),
        ((0.01, 0.01), (0.02, 0.02)),
    ],
)
def test_holm_by_hand(p_values: tuple[float, ...], adjusted: tuple[float, ...]) -> None:
    assert significance.holm(p_values) == pytest.approx(adjusted)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_calls_what_its_steps_call(p_values: list[float], alpha: float) -> None:
    """The method as Holm states it: step through the sorted p-values and stop at the first that is not small enough."""
    called: set[int] = set()
    for step, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] * (len(p_values) - step) >= alpha:
            break
        called.add(index)
    adjusted = significance.holm(p_values)
    assert {index for index, p in enumerate(adjusted) if p < alpha} == called
    assert all(raw <= p <= 1 for raw, p in zip(p_values, adjusted, strict=True))


def test_holm_errs_in_a_family_as_rarely_as_it_says() -> None:
    """Without any effect, at least one of five tests is called in about 5% of families; uncorrected in about 23%."""
    rng, wrong, uncorrected = np.random.default_rng(4), 0, 0
    for _ in range(2000):
        p_values = rng.random(5).tolist()
        wrong += min(significance.holm(p_values)) < intervals.ALPHA
        uncorrected += min(p_values) < intervals.ALPHA
    assert wrong / 2000 < 0.065 < 0.2 < uncorrected / 2000


@pytest.mark.parametrize("tests", [1, 3, 7])
def test_the_smallest_drop_of_a_family_is_shown_in_holm_s_first_step(tests: int) -> None:
    from scipy.stats import binom

    drop = significance.minimum_detectable_effect(400, alpha=intervals.ALPHA / tests)
    assert drop is not None
    others = [0.9] * (tests - 1)
    shown = sum(
        binom.pmf(lost, 400, drop)
        for lost in range(120)
        if significance.holm([significance.mcnemar_exact(lost, 0), *others])[0]
        < intervals.ALPHA  # other variants show nothing: the first step decides
    )
    assert significance.POWER - 0.03 <= shown <= 0.9, "Connor's formula promises too much, or far too little"
    assert (significance.minimum_detectable_effect(400) or 1) <= drop


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 3, 0.5, 0.01])
def test_fewest_losses_are_the_fewest(alpha: float) -> None:
    fewest = significance.fewest_losses(alpha)
    assert significance.mcnemar_exact(fewest, 0) < alpha <= significance.mcnemar_exact(fewest - 1, 0)


def test_a_verdict_takes_the_corrected_p() -> None:
    assert verdicts.verdict(7, 0, 500).word == "worse"
    assert verdicts.verdict(7, 0, 500, p_value=0.06).word == "non-inferior"
    assert verdicts.verdict(7, 0, 100, p_value=0.06).word == "inconclusive"


@pytest.mark.parametrize(
    ("value", "low", "high", "p", "said"),
    [
        (0.1, 0.05, 0.2, 0.001, "worse"),
        (-0.1, -0.2, -0.05, 0.001, "better"),
        (0.01, -0.01, 0.0201, 0.4, "non-inferior (margin 0.021 nats/token)"),
        (-0.01, -0.03, -0.001, 0.06, "non-inferior (margin 0.000 nats/token)"),
        (0.01, -0.01, 0.031, 0.4, "inconclusive"),
        (0.1, None, None, 0.001, "inconclusive"),
    ],
)
def test_verdicts_in_nats(value: float, low: float | None, high: float | None, p: float, said: str) -> None:
    assert str(verdicts.verdict_nats(intervals.Estimate(value=value, low=low, high=high), p)) == said


def test_an_estimate_has_two_ends_or_none() -> None:
    with pytest.raises(ValueError, match="two ends or none"):
        intervals.Estimate(value=1.0, low=0.5, high=None)
    assert intervals.Estimate(value=1.0, low=None, high=None).interval is None
    assert intervals.Estimate(value=1.0, low=0.5, high=2.0).interval == intervals.Interval(value=1.0, low=0.5, high=2.0)


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
    monkeypatch.setattr(intervals, "DRAWS", 40)
    assert bootstrap.resampled_sums(values, 50, 7) == pytest.approx(whole)


@pytest.mark.parametrize("units", [intervals.MIN_SEQUENCES, intervals.MIN_SEQUENCES - 1])
def test_many_estimates_are_each_s(units: int) -> None:
    values, resampled = np.arange(3.0), np.random.default_rng(5).lognormal(size=(2000, 3))
    each = [bootstrap.estimate(value, column, units) for value, column in zip(values, resampled.T, strict=True)]
    assert bootstrap.estimates(values, resampled, units) == each


def test_draws_that_are_shared_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        bootstrap.resample_weights(7, 50, 3)[0, 0] = 1


def test_above_chance_is_poisson_binomial() -> None:
    # Two items of chance 1/2 and 1/4: both right 1/8, at least one 1 - 3/8.
    assert significance.above_chance(2, (0.5, 0.25)) == pytest.approx(1 / 8)
    assert significance.above_chance(1, (0.5, 0.25)) == pytest.approx(5 / 8)
    assert significance.above_chance(0, (0.5, 0.25)) == pytest.approx(1.0)
    assert significance.above_chance(1, (0.0, 0.0)) == 0.0


def test_above_chance_is_scipys() -> None:
    from scipy.stats import poisson_binom

    chances = np.random.default_rng(3).uniform(0, 1, 120)
    for k in (0, 1, 40, 60, 90, 120):
        assert significance.above_chance(k, chances.tolist()) == pytest.approx(poisson_binom(chances).sf(k - 1), rel=1e-6, abs=1e-12)
    assert significance.above_chance(100, (0.5,) * 100) == pytest.approx(0.5**100), "a small tail keeps its digits"


def test_above_chance_meets_its_normal_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    chances = (0.25, 0.2, 0.5) * 300
    exact = significance.above_chance(310, chances)
    monkeypatch.setattr(intervals, "EXACT_CHANCE_ITEMS", 10)
    assert significance.above_chance(310, chances) == pytest.approx(exact, abs=2e-3)


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
