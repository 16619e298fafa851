"""The paired tests on data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from bitzones.regression.decision_rule import Draft, decided
from bitzones.regression.paired import Sequences, kl
from bitzones.schema.profile_sections import Gate

TOKENS = Sequences([30] * 60, 0)


def word(draft: Draft) -> str:
    return decided([draft])[0].status


def heavy() -> np.ndarray:
    return 0.01 * np.random.default_rng(1).lognormal(0, 2, 60)


@pytest.mark.parametrize(("factor", "said"), [(1.0, "same"), (1.02, "same"), (1.5, "worse"), (0.5, "better")])
def test_a_change_in_every_sequence_is_seen_though_few_hold_most_of_it(factor: float, said: str) -> None:
    assert word(kl("KL", heavy().tolist(), (heavy() * factor).tolist(), TOKENS, Gate())) == said


def test_a_mean_that_one_sequence_raised_is_not_worse() -> None:
    new = heavy()
    new[3] += 5.0
    assert word(kl("KL", heavy().tolist(), new.tolist(), TOKENS, Gate())) == "inconclusive"


def test_many_small_rises_under_a_mean_that_fell_are_not_worse() -> None:
    old, new = heavy(), heavy() * 1.2
    new[int(old.argmax())] = 0.0
    assert word(kl("KL", old.tolist(), new.tolist(), TOKENS, Gate())) != "worse"


def test_chance_alone_is_called_worse_no_more_often_than_it_says() -> None:
    rng, alarms = np.random.default_rng(5), 0
    for _ in range(200):
        old = heavy()
        new = old * 1.03 * np.exp(rng.normal(0, 0.2, 60))
        alarms += word(kl("KL", old.tolist(), new.tolist(), TOKENS, Gate())) == "worse"
    assert alarms <= 10


def test_too_few_sequences_cannot_tell() -> None:
    few = Sequences([30] * 5, 0)
    assert word(kl("KL", [1.0] * 5, [2.0] * 5, few, Gate())) == "inconclusive"
