"""Baseline plans by hand, and within the budget whatever the menu."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitzones.allocation import baselines
from bitzones.allocation.knapsack import Menu

FORMATS = ("qint4", "qint2", "bf16")


def menu(rows: list[tuple[int, int]], reference: int = 16, offered: np.ndarray | None = None) -> Menu:
    """Units with (bytes at 4 bits, bytes at 2 bits)."""
    stored = np.array([[*row, reference] for row in rows], dtype=np.int64)
    given_ = np.ones(stored.shape, dtype=np.bool_) if offered is None else offered
    return Menu(tuple(f"p{n}" for n in range(len(rows))), FORMATS, stored, given_, 8 * len(rows))


def names(choice: np.ndarray) -> list[str]:
    return [FORMATS[index] for index in choice]


def test_the_contiguous_rule_keeps_the_last_units() -> None:
    four = menu([(4, 2)] * 4)
    assert names(baselines.contiguous(four, 12)) == ["qint2", "qint2", "qint4", "qint4"]
    assert names(baselines.contiguous(four, 13)) == ["qint2", "qint2", "qint4", "qint4"]
    assert names(baselines.contiguous(four, 8)) == ["qint2"] * 4
    assert names(baselines.contiguous(four, 10**6)) == ["qint4"] * 4  # the reference is no quantized format


def test_a_format_that_was_not_offered_is_not_taken() -> None:
    offered = np.array([[True, True, True], [False, True, True], [False, False, True]])
    three = menu([(4, 2)] * 3, offered=offered)
    assert names(baselines.contiguous(three, 100)) == ["qint4", "qint2", "bf16"]
    assert baselines.uniform(three, 0) is None
    assert baselines.uniform(three, 2) is not None


def test_too_small_a_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="a budget of 7 is fewer"):
        baselines.contiguous(menu([(4, 2)] * 4), 7)
    with pytest.raises(ValueError, match="a budget of 7 is fewer"):
        baselines.random_plan(menu([(4, 2)] * 4), 7, np.random.default_rng(0))


@given(st.lists(st.tuples(st.integers(3, 9), st.integers(1, 2)), min_size=1, max_size=8), st.floats(0, 1), st.integers(0, 99))
def test_rivals_fill_the_budget_and_never_exceed_it(rows: list[tuple[int, int]], share: float, seed: int) -> None:
    offered = menu(rows)
    least, most = sum(row[1] for row in rows), sum(row[0] for row in rows)
    budget = least + int(share * (most - least))
    for choice in (baselines.contiguous(offered, budget), baselines.random_plan(offered, budget, np.random.default_rng(seed))):
        used = int(offered.stored_bytes[np.arange(len(rows)), choice].sum())
        assert used <= budget
    room = budget - used  # of the random plan: no unit is left that could have been raised
    assert all(FORMATS[index] == "qint4" or row[0] - row[1] > room for index, row in zip(choice, rows, strict=True))


def test_random_plans_differ_and_repeat() -> None:
    eight = menu([(4, 2)] * 8)
    drawn = {baselines.random_plan(eight, 24, np.random.default_rng(seed)).tobytes() for seed in range(8)}
    assert len(drawn) > 4
    assert (baselines.random_plan(eight, 24, np.random.default_rng(3)) == baselines.random_plan(eight, 24, np.random.default_rng(3))).all()


def test_one_plan_under_two_names_is_measured_once() -> None:
    two, other = np.array([1, 1]), np.array([0, 1])
    found = list(baselines.distinct([("a", "additive", two), ("b", "random", two.copy()), ("c", "random", other)]))
    assert [name for name, _, _ in found] == ["a", "c"]
