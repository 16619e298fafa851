"""Every verdict follows from its p-value and its interval, in shares and in nats."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitzones.stats import intervals, verdicts


def test_the_same_shares_are_a_verdict_on_many_items_only() -> None:
    assert str(verdicts.verdict(lost=1, gained=0, n=20)) == "inconclusive"
    assert str(verdicts.verdict(lost=50, gained=0, n=1000)) == "worse"
    assert str(verdicts.verdict(lost=0, gained=50, n=1000)) == "better"
    assert str(verdicts.verdict(lost=0, gained=0, n=20)) == "inconclusive"
    assert verdicts.verdict(lost=3, gained=2, n=1000).word == "equivalent"
    assert verdicts.verdict(lost=6, gained=16, n=400).word == "non-inferior", "a gain above 3 points is not excluded"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(120, 3000))
def test_no_verdict_contradicts_the_counts(lost: int, gained: int, n: int) -> None:
    found = verdicts.verdict(lost, gained, n)
    assert found.word != "worse" or lost > gained
    assert found.word != "better" or gained > lost
    assert (found.within is not None) == (found.word in {"non-inferior", "equivalent"})
    assert found.within is None or max(0, (lost - gained) / n) <= found.within <= verdicts.NON_INFERIORITY_MARGIN
    assert found.word != "equivalent" or abs(gained - lost) / n <= found.within  # type: ignore[operator]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(120, 3000))
def test_equivalence_is_the_same_both_ways(lost: int, gained: int, n: int) -> None:
    there, back = verdicts.verdict(lost, gained, n), verdicts.verdict(gained, lost, n)
    assert (there.word == "equivalent") == (back.word == "equivalent")
    assert there.word != "equivalent" or there.within == pytest.approx(back.within)


def test_equivalence_is_two_one_sided_tests() -> None:
    """As statsmodels' TOST would have it: both ends of the interval of Bonett and Price lie within the margin."""
    difference = intervals.paired_difference(4, 3, 800)
    found = verdicts.verdict(4, 3, 800)
    assert found.word == "equivalent"
    assert found.within == pytest.approx(max(-difference.low, difference.high))
    assert verdicts.verdict(4, 3, 800, margin=found.within - 1e-6).word == "inconclusive"


def test_the_margin_in_words_is_never_below_the_figure() -> None:
    assert str(verdicts.Verdict(word="non-inferior", within=0.01201)) == "non-inferior (margin 1.3 points)"
    assert str(verdicts.Verdict(word="non-inferior", within=0.012)) == "non-inferior (margin 1.2 points)"


def test_a_verdict_takes_the_corrected_p() -> None:
    assert verdicts.verdict(7, 0, 500).word == "worse"
    assert verdicts.verdict(7, 0, 500, p_value=0.06).word == "equivalent"
    assert verdicts.verdict(7, 0, 100, p_value=0.06).word == "inconclusive"


@pytest.mark.parametrize(
    ("value", "low", "high", "p", "said"),
    [
        (0.1, 0.05, 0.2, 0.001, "worse"),
        (-0.1, -0.2, -0.05, 0.001, "better"),
        (0.01, -0.01, 0.0201, 0.4, "equivalent (margin 0.021 nats/token)"),
        (0.0, -0.03, 0.03, 0.4, "equivalent (margin 0.030 nats/token)"),
        (-0.01, -0.031, 0.001, 0.06, "non-inferior (margin 0.001 nats/token)"),
        (0.01, -0.01, 0.031, 0.4, "inconclusive"),
        (0.1, None, None, 0.001, "inconclusive"),
    ],
)
def test_verdicts_in_nats(value: float, low: float | None, high: float | None, p: float, said: str) -> None:
    assert str(verdicts.verdict_nats(intervals.Estimate(value=value, low=low, high=high), p)) == said
