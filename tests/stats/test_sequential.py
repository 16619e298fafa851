"""The confidence sequence: known numbers, its symmetries, and how often it is wrong when it is looked at after every pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import lambertw
from scipy.stats import t as student

from bitzones.stats.intervals import wilson_interval
from bitzones.stats.sequential import PairedSequence, normal_mixture_rate, under_exchange

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

DIFFERENCES = st.lists(st.floats(-1, 1).map(lambda x: round(x, 6)), min_size=1, max_size=70)


def drifting(rng: np.random.Generator, pairs: int, center: float) -> Floats:
    """Quadruples on a bad machine: a level that wanders, and a sixth of the rounds in bursts of infinite variance; a coin orders them."""
    moments = np.arange(4 * pairs).reshape(pairs, 4)
    bursts = (rng.random((pairs, 4)) < 1 / 6) * np.abs(rng.standard_t(1.5, (pairs, 4))) * 0.3
    noise = rng.normal(0, 0.03, (pairs, 4)) + 0.3 * np.sin(moments / 7) + 0.002 * moments + bursts
    return center + rng.choice((-1, 1), pairs) * (noise[:, 1] + noise[:, 2] - noise[:, 0] - noise[:, 3]) / 2


@pytest.mark.parametrize("alpha", [0.5, 0.05, 0.05 / 200])
def test_the_rate_is_that_of_lamberts_function(alpha: float) -> None:
    exact = 40 / (-lambertw(-(alpha**2) / math.e, -1).real - 1)
    assert normal_mixture_rate(40, alpha) == pytest.approx(exact, rel=1e-6)


def test_eight_of_one_sign_are_a_sum_and_a_sum_of_squares_of_eight() -> None:
    """Before there is a scale every difference counts as its sign: (8^2 / (8 + r) - log(1 + 8 / r)) / 2."""
    rate = normal_mixture_rate(40, 0.05)
    assert PairedSequence([0.1, 0.2, 0.4, 0.1, 5.0, 0.1, 0.2, 0.3]).evidence(0.0) == pytest.approx(
        (64 / (8 + rate) - math.log1p(8 / rate)) / 2
    )


def test_the_scale_is_that_of_the_past_and_a_burst_counts_as_one() -> None:
    """The first eight differences lie 0.01 around 0: 1.4826 of that is the scale of the ninth and tenth, 0.007413 half of it."""
    past = [0.01, -0.01] * 4
    rate = normal_mixture_rate(40, 0.05)
    for tenth, counted in ((0.007413, 0.5), (100.0, 1.0)):
        found = PairedSequence([*past, 0.014826, tenth]).evidence(0.0)
        sums, squares = 1 + counted, 8 + 1 + counted**2
        assert found == pytest.approx(sums**2 / (2 * (squares + rate)) - math.log1p(squares / rate) / 2, rel=1e-4)


def test_too_few_exclude_nothing() -> None:
    assert PairedSequence([]).interval is None
    assert PairedSequence([0.3] * 4).interval is None
    assert PairedSequence([0.3] * 4).word(0.02) == "inconclusive"


@given(DIFFERENCES)
def test_exchanged_sides_have_the_interval_with_the_other_sign(differences: list[float]) -> None:
    one, other = PairedSequence(differences).interval, PairedSequence([-x for x in differences]).interval
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert (other.low, other.high) == pytest.approx((-one.high, -one.low), abs=1e-6)


@given(DIFFERENCES, st.floats(-1, 1))
def test_what_lies_outside_is_excluded(differences: list[float], center: float) -> None:
    found = PairedSequence(differences)
    interval = found.interval
    if interval is not None and not interval.low - 1e-9 <= center <= interval.high + 1e-9:
        assert found.evidence(center) >= math.log(20) - 1e-9


@pytest.mark.parametrize(("center", "word"), [(0.0, "equivalent"), (0.1, "worse"), (-0.1, "better"), (0.02, "inconclusive")])
def test_the_word_says_where_the_interval_lies(center: float, word: str) -> None:
    rng = np.random.default_rng(5)
    assert PairedSequence(drifting(rng, 400, center)).word(0.02) == word


def looks(differences: Floats) -> list[int]:
    return [int(n) for n in np.unique(np.geomspace(8, len(differences), 25).astype(int))]


def test_peeking_raises_no_false_alarms_and_an_ordinary_interval_does() -> None:
    """300 A/A duets of 120 quadruples, looked at 25 times: an alarm is an interval without 0 at any look."""
    rng, alarms, ordinary = np.random.default_rng(11), 0, 0
    for _ in range(300):
        found = drifting(rng, 120, 0.0)
        alarms += any(PairedSequence(found[:n]).evidence(0.0) >= math.log(20) for n in looks(found))
        steady = rng.normal(0, 0.05, 120)  # even where its assumptions hold
        half = [student.ppf(0.975, n - 1) * steady[:n].std(ddof=1) / math.sqrt(n) for n in looks(found)]
        ordinary += any(abs(steady[:n].mean()) > width for n, width in zip(looks(found), half, strict=True))
    assert wilson_interval(alarms, 300).low < 0.05
    assert alarms / 300 <= 0.05
    assert wilson_interval(ordinary, 300).low > 0.10


def test_it_covers_a_change_at_every_look() -> None:
    rng = np.random.default_rng(12)
    missed = sum(
        any(PairedSequence(found[:n]).evidence(0.05) >= math.log(20) for n in looks(found))
        for found in (drifting(rng, 100, 0.05) for _ in range(200))
    )
    assert missed / 200 <= 0.05


def test_five_percent_are_seen_through_drift_and_bursts() -> None:
    rng = np.random.default_rng(13)
    seen = 0
    for _ in range(60):
        found = PairedSequence(drifting(rng, 400, math.log(1.05)), 0.05 / 9)
        seen += found.word(math.log(1.02)) == "worse"
    assert seen >= 57  # 95% of them, within 400 quadruples


def test_the_pairs_needed_are_about_those_that_decide() -> None:
    """From 30 of them, within a factor of three of where the verdict comes."""
    rng = np.random.default_rng(14)
    differences = rng.normal(0.05, 0.04, 600)
    decided = next(n for n in range(8, 600) if PairedSequence(differences[:n]).word(0.02) == "worse")
    needed = PairedSequence(differences[:30]).needed(0.02)
    assert needed is not None
    assert decided / 3 <= needed <= 3 * decided
    assert PairedSequence(differences[:7]).needed(0.02) is None


def test_exchanges_of_a_side_against_itself_show_what_would_have_been_seen() -> None:
    """Lower ends move with the change: adding it to the differences is adding it to them, whatever the signs."""
    rng = np.random.default_rng(15)
    differences = rng.normal(0, 0.02, 60)
    lows = under_exchange(differences, 0.05, 100, seed=1)
    assert lows.shape == (100,)
    assert (lows > 0).mean() <= 0.05
    assert (under_exchange(differences, 0.05, 100, seed=1) == lows).all()
    assert float(np.quantile(-lows, 0.8)) == pytest.approx(0.01, abs=0.006)  # 60 differences of 2%: about four standard errors
    assert (under_exchange([0.1] * 3, 0.05, 5, seed=1) == -math.inf).all()
