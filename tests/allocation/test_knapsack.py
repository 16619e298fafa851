"""The plan is the best there is, never above its budget, and the same whenever it is asked for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from make_run import sensitivity

from bitzones.allocation import knapsack
from bitzones.allocation.knapsack import Menu, budget_bytes, cheapest, cheapest_many, menu_of, solve, solve_many
from bitzones.schema.errors import PlanError


def menu(stored: list[list[int]], offered: list[list[bool]] | None = None, parameters: int = 8) -> Menu:
    sizes = np.array(stored, dtype=np.int64)
    flags = np.ones(sizes.shape, dtype=bool) if offered is None else np.array(offered)
    names = tuple(f"f{index}" for index in range(sizes.shape[1] - 1))
    return Menu(tuple(f"p{index}" for index in range(len(sizes))), (*names, "ref"), sizes, flags, parameters)


def brute_force(of: Menu, kl: np.ndarray, budget: int) -> float:
    options = [np.flatnonzero(row) for row in of.offered]
    plans = [plan for plan in itertools.product(*options) if sum(of.stored_bytes[p, f] for p, f in enumerate(plan)) <= budget]
    return min(sum(kl[p, f] for p, f in enumerate(plan)) for plan in plans)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Menu, np.ndarray, int]:
    units, formats = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    scale = draw(st.sampled_from([1, 96, 10_007]))
    size, row = st.integers(0, 12).map(lambda value: value * scale), formats + 1
    stored = draw(st.lists(st.lists(size, min_size=row, max_size=row), min_size=units, max_size=units))
    flags = draw(st.lists(st.lists(st.booleans(), min_size=row, max_size=row), min_size=units, max_size=units))
    cost = st.one_of(st.integers(0, 4).map(float), st.floats(0, 10, allow_subnormal=False), st.floats(0, 1e-6, allow_subnormal=False))
    kl = np.array(draw(st.lists(st.lists(cost, min_size=row, max_size=row), min_size=units, max_size=units)))
    kl[:, -1] = 0
    of = menu(stored, [[*line[:-1], True] for line in flags])
    return of, kl, draw(st.integers(of.least_bytes, of.most_bytes))


@pytest.mark.parametrize("most_plans", [knapsack.MOST_PLANS, 0], ids=["enumerated", "solver"])
@settings(max_examples=120, deadline=None)
@given(problem=problems())
def test_no_plan_is_better_and_the_budget_holds(most_plans: int, problem: tuple[Menu, np.ndarray, int]) -> None:
    of, kl, budget = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knapsack, "MOST_PLANS", most_plans)
        choice = solve(of, kl, budget)
    rows = np.arange(len(choice))
    assert of.stored_bytes[rows, choice].sum() <= budget
    assert of.offered[rows, choice].all()
    solver_gap = 1e-9 * kl.max() * (most_plans == 0)  # HiGHS' own absolute gap, as the planner scales it
    assert kl[rows, choice].sum() == pytest.approx(brute_force(of, kl, budget), rel=1e-9, abs=1e-15 + solver_gap)


@settings(max_examples=120, deadline=None)
@given(problem=problems(), gap=st.sampled_from([0.0, 0.02, 0.5]))
def test_a_resample_s_plan_is_within_the_gap_and_the_budget(problem: tuple[Menu, np.ndarray, int], gap: float) -> None:
    of, kl, budget = problem
    many = np.stack([kl, kl[::-1] if of.offered.all() else kl, kl * 2])
    for costs, choice in zip(many, solve_many(of, many, budget, gap), strict=True):
        rows, least = np.arange(len(choice)), brute_force(of, costs, budget)
        assert of.stored_bytes[rows, choice].sum() <= budget
        assert of.offered[rows, choice].all()
        assert (1 - gap) * costs[rows, choice].sum() <= least * (1 + 1e-9) + 1e-15


@pytest.mark.parametrize("most_plans", [knapsack.MOST_PLANS, 0], ids=["enumerated", "solver"])
def test_the_smallest_costs_do_not_overflow(monkeypatch: pytest.MonkeyPatch, most_plans: int) -> None:
    monkeypatch.setattr(knapsack, "MOST_PLANS", most_plans)
    tiny = float(np.finfo(float).tiny)
    assert solve(menu([[0, 0], [0, 1], [0, 0]]), np.array([[0.0, 0.0], [tiny, 0.0], [0.0, 0.0]]), 1).shape == (3,)
    assert solve(menu([[0, 0], [0, 1], [0, 0]]), np.array([[0.0, 0.0], [tiny, 0.0], [0.0, 0.0]]), 0).tolist()[1] == 0


@pytest.mark.parametrize("most_plans", [knapsack.MOST_PLANS, 0], ids=["enumerated", "solver"])
def test_what_the_bound_leaves_open_is_solved(monkeypatch: pytest.MonkeyPatch, most_plans: int) -> None:
    """Greedy improvement takes part 0 (gain 10) and blocks the two of 6 each: only the exact step finds 12."""
    monkeypatch.setattr(knapsack, "MOST_PLANS", most_plans)
    of = menu([[0, 6], [0, 5], [0, 5]])
    kl = np.array([[10.0, 0.0], [6.0, 0.0], [6.0, 0.0]])
    assert solve(of, kl, 10).tolist() == [0, 1, 1]
    monkeypatch.setattr(knapsack, "_finish", lambda known, *_: known)
    assert solve(of, kl, 10).tolist() != [0, 1, 1]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_agrees_with_milp_alone_on_a_real_size(seed: int) -> None:
    from scipy.optimize import LinearConstraint, milp

    rng = np.random.default_rng(seed)
    stored = np.tile([8, 4, 2, 16], (12, 1)) * rng.choice([96, 160], size=(12, 1))
    kl = np.column_stack([rng.lognormal(mean, 1, 12) for mean in (-6, -4, -1)] + [np.zeros(12)])
    of, budget = menu(stored.tolist()), int(stored[:, 0].sum() * rng.uniform(0.4, 1.2))
    one = np.kron(np.eye(12), np.ones(4))
    alone = milp(
        kl.ravel(),
        constraints=[LinearConstraint(one, 1, 1), LinearConstraint(stored.ravel(), 0, budget)],
        integrality=np.ones(48, dtype=int),
        bounds=(0, 1),
        options={"mip_rel_gap": 0},
    )
    assert kl[np.arange(12), solve(of, kl, budget)].sum() == pytest.approx(alone.fun, rel=1e-6)


def test_ties_give_earlier_units_the_fewer_bytes() -> None:
    of = menu([[1, 2]] * 4)
    assert solve(of, np.array([[1.0, 0.0]] * 4), 6).tolist() == [0, 0, 1, 1]


def test_of_equal_kl_the_fewer_bytes() -> None:
    assert solve(menu([[8, 4, 16]]), np.array([[0.0, 0.0, 0.0]]), 16).tolist() == [1]


def test_resamples_are_solved_alike() -> None:
    rng = np.random.default_rng(0)
    of = menu([[8, 4, 2, 16]] * 6)
    kl = rng.random((20, 6, 4)) * [0.01, 0.1, 1.0, 0.0]
    together = solve_many(of, kl, 30)
    assert together.tolist() == [solve(of, each, 30).tolist() for each in kl]
    assert together.tolist() == solve_many(of, kl, 30).tolist()


def test_a_failed_measurement_is_not_offered() -> None:
    cell = sensitivity(layers=3)
    failed = cell.measurements[2].model_copy(update={"kl_nats": None, "failure": "out of memory"})
    cell = cell.model_copy(update={"measurements": (*cell.measurements[:2], failed, *cell.measurements[3:])})
    of = menu_of(cell, ("qint8", "qint4", "qint2:hqq"), "bf16")
    assert of.offered.tolist() == [[True, True, False, True], [True] * 4, [True] * 4]
    assert of.formats[-1] == "bf16"
    assert of.stored_bytes[:, -1].tolist() == [unit.reference_bytes for unit in cell.units]
    assert solve(of, np.zeros((3, 4)), of.most_bytes)[0] != 2


def test_budget_counts_stored_bytes_and_names_the_feasible_range() -> None:
    of = menu([[3, 16], [3, 16]], parameters=16)
    assert budget_bytes(of, 4.0) == 8
    with pytest.raises(PlanError, match=r"2\.5 average bits.*from 3\.000 to 16\.000"):
        budget_bytes(of, 2.5)
    with pytest.raises(ValueError, match="fewer than the smallest"):
        solve(of, np.zeros((2, 2)), 5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 10_000))
def test_more_budget_is_never_worse(first: int, second: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    of = menu((rng.integers(1, 50, (6, 3)) * 7).tolist())
    low, high = (of.least_bytes + value for value in sorted((first, second)))
    assume(low < high)
    kl = rng.random((6, 3))
    tight, loose = (kl[np.arange(6), solve(of, kl, budget)].sum() for budget in (low, high))
    assert loose <= tight + 1e-12


def test_a_plan_that_the_solver_lets_pass_by_a_millionth_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum of 1.000001 at a tolerance of 1.0000005: HiGHS may give it, and the next best, of one byte, has to be found all the same."""
    offered = [[False, True, False, True], [False, False, False, True], [False, False, True, True], [False, True, False, True]]
    of = menu([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 2]], offered)
    kl = np.array([[0, 1.0, 0, 0], [0, 0, 0, 0], [0, 0, 1e-6, 0], [0, 1.0, 0, 0]])
    monkeypatch.setattr(knapsack, "MOST_PLANS", 0)
    assert cheapest(of, kl, 1.0000005).tolist() == [3, 3, 3, 1]


@pytest.mark.parametrize("most_plans", [knapsack.MOST_PLANS, 0], ids=["enumerated", "solver"])
@settings(max_examples=120, deadline=None)
@given(problem=problems(), share=st.floats(0.01, 1.5))
def test_no_plan_within_the_tolerance_is_smaller(most_plans: int, problem: tuple[Menu, np.ndarray, int], share: float) -> None:
    of, kl, _ = problem
    tolerance = share * max(1e-9, np.where(of.offered, kl, 0.0).max(axis=1).sum())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knapsack, "MOST_PLANS", most_plans)
        choice = cheapest(of, kl, tolerance)
    rows = np.arange(len(choice))
    assert of.offered[rows, choice].all()
    assert kl[rows, choice].sum() <= tolerance * (1 + 1e-12)
    plans = list(itertools.product(*(np.flatnonzero(row) for row in of.offered)))
    clearly = tolerance * (1 - 2e-8)  # within rounding of the tolerance a plan may be passed over
    smallest = min(
        sum(of.stored_bytes[p, f] for p, f in enumerate(plan)) for plan in plans if sum(kl[p, f] for p, f in enumerate(plan)) <= clearly
    )
    assert of.stored_bytes[rows, choice].sum() <= smallest


def test_a_tolerance_by_hand() -> None:
    of = menu([[2, 16], [2, 16], [3, 16]])
    kl = np.array([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0]])
    assert cheapest(of, kl, 7.001).tolist() == [0, 0, 0]
    assert cheapest(of, kl, 6.9).tolist() == [0, 0, 1]
    assert cheapest(of, kl, 3.001).tolist() == [0, 0, 1]
    assert cheapest(of, kl, 0.5).tolist() == [1, 1, 1]
    assert cheapest_many(of, np.stack([kl, 2 * kl]), np.array([3.001, 3.001])).tolist() == [[0, 0, 1], [0, 1, 1]]


def test_a_tolerance_that_nothing_meets_is_refused() -> None:
    of = menu([[2, 16]], [[True, False]])
    with pytest.raises(ValueError, match="below the least sum"):
        cheapest(of, np.array([[1.0, 0.0]]), 0.5)
    with pytest.raises(ValueError, match="must be positive"):
        cheapest(of, np.array([[1.0, 0.0]]), 0.0)


def test_within_a_gap_a_plan_is_left_as_it_is_and_never_further_off() -> None:
    rng = np.random.default_rng(5)
    kl = np.sort(rng.exponential(1.0, (50, 12, 3)))[:, :, ::-1].copy()
    stored = np.sort(rng.integers(1, 40, (12, 3)))
    of = Menu(tuple(map(str, range(12))), ("a", "b", "c"), stored, np.ones((12, 3), dtype=np.bool_), 100)
    budget = int(stored.sum(axis=0)[1])
    rows, units = np.arange(50)[:, None], np.arange(12)
    exact, near = (kl[rows, units, solve_many(of, kl, budget, gap)].sum(axis=1) for gap in (0.0, 0.1))
    assert (near >= exact - 1e-12).all()
    assert (near > exact + 1e-12).any()  # else a gap would change nothing
    assert (near <= exact * (1 + 0.1 / 0.9) + 1e-12).all()
