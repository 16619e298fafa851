"""The divergence of two lists: by hand, its ends, and what a missing token may and may not do."""

from __future__ import annotations

import math
from collections.abc import Mapping

import make_canary
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitzones.monitor.deviation import LARGEST, deviation

TOKENS = st.integers(0, 30)
LISTS = st.dictionaries(TOKENS, st.floats(1e-6, 1.0), min_size=1, max_size=12).map(lambda found: as_logprobs(found, 1.3))


def as_logprobs(weights: Mapping[int, float], total: float = 1.0) -> dict[int, float]:
    whole = total * max(1.0, sum(weights.values()))
    return {token: math.log(value / whole) for token, value in weights.items()}


def test_of_whole_distributions_it_is_what_lin_defines() -> None:
    """P = (0.5, 0.5), q = (0.9, 0.1): half the KL of each to the middle (0.7, 0.3)."""
    p, q = {0: math.log(0.5), 1: math.log(0.5)}, {0: math.log(0.9), 1: math.log(0.1)}
    to_middle = 0.5 * math.log(0.5 / 0.7) + 0.5 * math.log(0.5 / 0.3), 0.9 * math.log(0.9 / 0.7) + 0.1 * math.log(0.1 / 0.3)
    assert deviation(p, q) == pytest.approx(sum(to_middle) / 2, rel=1e-12)


def test_two_sure_lists_of_other_tokens_are_as_far_apart_as_can_be() -> None:
    assert deviation({0: 0.0}, {1: 0.0}) == pytest.approx(LARGEST)


def test_lists_without_a_common_token_are_apart_though_their_tails_hide_much() -> None:
    apart = deviation({n: math.log(0.03) for n in range(20)}, {n: math.log(0.03) for n in range(20, 40)})
    assert apart > 0.001, "each leaves 40% to 20 tokens that may have at most 3% each: nothing of that tells them apart for sure"
    assert deviation({n: math.log(0.045) for n in range(20)}, {n: math.log(0.045) for n in range(20, 40)}) > 0.3


@given(LISTS, LISTS)
def test_it_is_symmetric_and_within_its_bounds(first: dict[int, float], second: dict[int, float]) -> None:
    found = deviation(first, second)
    assert 0 <= found <= LARGEST
    assert found == pytest.approx(deviation(second, first), abs=1e-12)


@given(LISTS, st.integers(1, 12))
def test_a_shorter_list_of_the_same_distribution_does_not_deviate(listed: dict[int, float], count: int) -> None:
    shorter = make_canary.listed(listed, count)
    assert deviation(listed, shorter) == pytest.approx(0, abs=1e-12)


@given(st.dictionaries(TOKENS, st.tuples(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0)), min_size=6), st.integers(1, 5))
def test_shorter_lists_of_the_same_tokens_say_less(pairs: dict[int, tuple[float, float]], count: int) -> None:
    """Data processing: with the same tokens named on both sides, fewer names are fewer cells."""
    first, second = (as_logprobs({token: pair[side] for token, pair in pairs.items()}, 1.3) for side in (0, 1))
    named = sorted(pairs)[:count]
    assert deviation({n: first[n] for n in named}, {n: second[n] for n in named}) <= deviation(first, second) + 1e-12


def test_near_each_other_it_is_a_quarter_of_the_kl() -> None:
    before, after = make_canary.predict((0, 3, 4)), make_canary.predict((0, 3, 4), 1.01)
    kl = sum(math.exp(p) * (p - after[token]) for token, p in before.items())
    assert deviation(before, after) == pytest.approx(kl / 4, rel=0.05)


def test_probabilities_that_rounding_made_more_than_one_are_one() -> None:
    assert deviation({0: math.log(0.7), 1: math.log(0.31)}, {0: math.log(0.7), 1: math.log(0.3)}) < 1e-4
    assert deviation({0: 1e-4}, {0: 0.0}) == 0
