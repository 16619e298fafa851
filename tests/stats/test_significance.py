"""P-values and detectable effects against hand-computed answers, scipy and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitzones.stats import intervals, significance


@pytest.mark.parametrize(("lost", "gained", "p"), [(0, 0, 1.0), (5, 0, 2 / 32), (6, 0, 2 / 64), (3, 3, 1.0), (0, 6, 2 / 64)])
def test_mcnemar_by_hand(lost: int, gained: int, p: float) -> None:
    assert significance.mcnemar_exact(lost, gained) == pytest.approx(p)


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
    monkeypatch.setattr(significance, "EXACT_CHANCE_ITEMS", 10)
    assert significance.above_chance(310, chances) == pytest.approx(exact, abs=2e-3)
