"""Evidence that a mean is above a bound: what it is by hand, that it is fair, and that it finds a change."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitzones.stats.e_process import SHARES, AboveBound, evidence_needed

NUMBERS = st.lists(st.floats(0, 1e6, allow_nan=False), max_size=30)


def capital(bound: float, rounds: list[list[float]]) -> float:
    """The mixture as its definition has it: over shares, and over the round in which a bet begins."""
    total = 1 / (len(rounds) + 1)  # what begins later
    for share, (begin, _) in product(SHARES, enumerate(rounds)):
        weight = 1 / ((begin + 1) * (begin + 2)) / len(SHARES)
        total += weight * math.prod(1 + share * (x / bound - 1) for numbers in rounds[begin:] for x in numbers)
    return total


@given(st.lists(st.lists(st.floats(0, 50, allow_nan=False), max_size=4), max_size=5))
def test_the_recursion_is_the_mixture(rounds: list[list[float]]) -> None:
    test = AboveBound(2.0)
    for numbers in rounds:
        test = test.after(numbers)
    assert test.evidence == pytest.approx(math.log(capital(2.0, rounds)), abs=1e-9)


def test_nothing_is_known_before_the_first_number() -> None:
    assert AboveBound(1.0).evidence == 0
    assert AboveBound(1.0).after([]).evidence == pytest.approx(0)
    assert AboveBound(1.0).after([1.0, 1.0]).evidence == pytest.approx(0), "numbers at the bound gain and lose nothing"


def test_the_bet_is_fair() -> None:
    """The mean capital over all outcomes of a fair coin that pays twice the bound is 1, after whole rounds too."""
    ends = []
    for outcome in product((0.0, 2.0), repeat=6):
        test = AboveBound(1.0)
        for start in range(0, 6, 2):
            test = test.after(outcome[start : start + 2])
        ends.append(math.exp(test.evidence))
    assert np.mean(ends) == pytest.approx(1, abs=1e-12)


def test_a_round_drawn_without_replacement_is_no_better_than_fair() -> None:
    """Of a population whose mean is the bound (Maclaurin)."""
    population = (0.0, 0.0, 0.5, 1.0, 3.5)
    draws = [population[a] for a in range(5)], list(product(range(5), repeat=3))
    ends = [math.exp(AboveBound(1.0).after(population[n] for n in draw).evidence) for draw in draws[1] if len(set(draw)) == 3]
    assert len(ends) == 60
    assert np.mean(ends) < 1


@pytest.mark.parametrize("spread", [0.3, 2.0])
def test_within_the_bound_alarms_are_rarer_than_alpha_over_the_whole_time(spread: float) -> None:
    """200 watches of 30 rounds of 20 numbers, at the bound itself and skewed: at most alpha = 0.1 of them ever raise an alarm."""
    rng = np.random.default_rng(0)
    alarmed = 0
    for _ in range(200):
        test = AboveBound(1.0)
        for _ in range(30):
            test = test.after(rng.lognormal(-(spread**2) / 2, spread, 20).tolist())
        alarmed += test.above(0.1)
    assert alarmed <= 200 * 0.1 + 3 * math.sqrt(200 * 0.1 * 0.9)


def test_a_change_after_a_long_time_is_found_in_a_few_rounds() -> None:
    rng = np.random.default_rng(1)
    test = AboveBound(1.0)
    for _ in range(1000):
        test = test.after(rng.exponential(0.2, 20).tolist())
    assert not test.above(0.001)
    rounds = 0
    while not test.above(0.001):
        test, rounds = test.after(rng.exponential(5.0, 20).tolist()), rounds + 1
    assert rounds <= 2


@given(NUMBERS, NUMBERS)
def test_larger_numbers_are_more_evidence(numbers: list[float], more: list[float]) -> None:
    larger = [a + b for a, b in zip(numbers, [*more, *[0.0] * len(numbers)], strict=False)]
    assert AboveBound(1.0).after(larger).evidence >= AboveBound(1.0).after(numbers).evidence - 1e-9


def test_an_alarm_is_not_taken_back() -> None:
    test = AboveBound(1.0).after([100.0] * 5)
    assert test.above(0.001)
    for _ in range(50):
        test = test.after([0.0] * 20)
    assert test.evidence < evidence_needed(0.001)
    assert test.above(0.001)


def test_the_threshold_is_what_ville_says() -> None:
    assert evidence_needed(0.001) == pytest.approx(6.907755)
