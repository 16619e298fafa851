"""The relaxation's plan holds the budget, its bound is one and the best there is, and what it prices out is in no better plan."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from bitzones.allocation import relaxation
from bitzones.allocation.relaxation import improve, pick, relax, undominated


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Costs and sizes of 3 resamples of up to 4 units, a size of their own in each resample as where a budget counts KL."""
    units, formats = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    shape = (3, units, formats)
    cost = st.one_of(st.integers(0, 3).map(float), st.floats(0, 10, allow_subnormal=False), st.just(np.inf))
    costs = np.array(draw(st.lists(cost, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))).reshape(shape)
    costs[..., 0] = np.where(np.isfinite(costs).any(axis=2), costs[..., 0], 1.0)
    sizes = np.array(draw(st.lists(st.integers(0, 9), min_size=costs.size, max_size=costs.size)), dtype=np.int64).reshape(shape)
    least = np.where(np.isfinite(costs), sizes, 10**6).min(axis=2).sum(axis=1)
    return costs, sizes, least + draw(st.integers(0, 20))


def plans(costs: np.ndarray, sizes: np.ndarray, budget: int) -> list[tuple[int, ...]]:
    options = [np.flatnonzero(np.isfinite(row)) for row in costs]
    return [plan for plan in itertools.product(*options) if sizes[range(len(plan)), plan].sum() <= budget]


@settings(max_examples=150)
@given(problem=problems())
def test_the_plan_fits_and_no_plan_is_below_the_bound(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    costs, sizes, budgets = problem
    choices, bounds, excess = relax(costs, sizes, budgets)
    better = improve(choices, costs, sizes, budgets)
    assert (pick(sizes, choices).sum(axis=1) <= budgets).all()
    assert (pick(sizes, better).sum(axis=1) <= budgets).all()
    assert (pick(costs, better).sum(axis=1) <= pick(costs, choices).sum(axis=1)).all()
    for r, budget in enumerate(budgets):
        for plan in plans(costs[r], sizes[r], int(budget)):
            cost = costs[r][range(len(plan)), plan].sum()
            assert cost >= bounds[r] + excess[r][range(len(plan)), plan].sum() - 1e-9


def test_of_the_smallest_options_the_cheapest_begins_the_hull() -> None:
    """Options of (cost, size) (1, 0), (0, 0) and (0, 2): whatever the budget, nothing has to be paid."""
    costs, sizes = np.array([[[1.0, 0.0, 0.0]]]), np.array([[[0, 0, 2]]])
    choices, bounds, _ = relax(costs, sizes, np.array([1]))
    assert choices.tolist() == [[1]]
    assert bounds.tolist() == [0.0]


@settings(max_examples=60)
@given(problem=problems())
def test_the_bound_is_the_linear_programme_s(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """No bound that only prices bytes is higher: by duality it is the optimum with options taken in unit."""
    costs, sizes, budgets = problem
    bound = relax(costs, sizes, budgets)[1][0]
    offered = np.isfinite(costs[0]).ravel()
    one = np.repeat(np.eye(len(costs[0])), costs.shape[2], axis=1)[:, offered]
    solved = linprog(costs[0].ravel()[offered], sizes[0].ravel()[None, offered], budgets[:1], one, np.ones(len(one)), bounds=(0, 1))
    assert bound == pytest.approx(solved.fun, abs=1e-6)


@settings(max_examples=60)
@given(problem=problems(), block=st.integers(1, 12))
def test_some_units_at_a_time_are_all_of_them(problem: tuple[np.ndarray, np.ndarray, np.ndarray], block: int) -> None:
    whole = relax(*problem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relaxation, "BLOCK", block)
        for alone, together in zip(relax(*problem), whole, strict=True):
            np.testing.assert_array_equal(alone, together)


def test_steps_are_taken_by_what_a_byte_brings() -> None:
    """Unit 0 gains 3 for 1 byte and 1 for 2 more, unit 1 gains 4 for 2: with 3 bytes the first and the last, at the price of the other."""
    costs = np.array([[[4.0, 1.0, 0.0], [4.0, 0.0, np.inf]]])
    sizes = np.array([[[0, 1, 3], [0, 2, 0]]])
    choices, bounds, _ = relax(costs, sizes, np.array([3]))
    assert choices.tolist() == [[1, 1]]
    assert bounds.tolist() == [1.0]
    choices, bounds, excess = relax(costs, sizes, np.array([4]))
    assert (choices.tolist(), bounds.tolist()) == ([[1, 1]], [0.5])
    assert excess.tolist() == [[[2.5, 0.0, 0.0], [3.0, 0.0, np.inf]]]


def test_an_option_that_another_makes_pointless_is_struck_out() -> None:
    costs = np.array([[[1.0, 1.0, 2.0, 0.5, np.inf]]])
    assert undominated(costs, np.array([[4, 4, 9, 5, 1]])).tolist() == [[[1.0, np.inf, np.inf, 0.5, np.inf]]]
