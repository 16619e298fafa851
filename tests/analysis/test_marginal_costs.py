"""Costs around a plan: what a change of it was measured to do, negative ones too, at the price at which the plan itself stands."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_run import sensitivity
from make_search import searched

from bitzones.allocation.knapsack import Menu, menu_of
from bitzones.analysis.layer_sensitivity import Measured, measured_of
from bitzones.analysis.marginal_costs import Costs, around_plan, costs_of, separate, swap_price
from bitzones.schema.plan_cells import SearchCell
from bitzones.schema.sensitivity_cells import SensitivityCell

FORMATS = ("qint8", "qint4", "qint2:hqq")


@pytest.fixture(scope="module")
def sweep() -> SensitivityCell:
    return sensitivity()


@pytest.fixture(scope="module")
def measured(sweep: SensitivityCell) -> Measured:
    return measured_of(sweep, FORMATS, 50, 0)


@pytest.fixture(scope="module")
def menu(sweep: SensitivityCell) -> Menu:
    return menu_of(sweep, FORMATS, "bf16")


@pytest.fixture(scope="module")
def search(sweep: SensitivityCell) -> SearchCell:
    return searched(sweep)


def around(measured: Measured, menu: Menu, search: SearchCell) -> Costs:
    found = around_plan(measured, menu, search, search.budget_bytes)
    assert found is not None
    return found


def test_a_cost_is_the_changed_plan_less_the_plan(measured: Measured, menu: Menu, search: SearchCell) -> None:
    costs = around(measured, menu, search)
    assert costs.around == "plan"
    assert search.around_found is not None
    item = search.around_found[4]
    row, column = menu.units.index(item.unit), menu.formats.index(item.format)
    assert costs.kl[row, column].tolist() == (np.array(item.kl_nats) - np.array(search.found.kl_nats)).tolist()
    for unit, name in search.found.units.items():
        stands = menu.units.index(unit), menu.formats.index(name)
        assert (costs.kl[stands] == 0).all()
        assert costs.swap[stands] == 0
        assert costs.menu.offered[stands]


def test_the_plan_found_is_the_best_from_all_sequences_and_no_lower_price_makes_it_so(
    measured: Measured, menu: Menu, search: SearchCell
) -> None:
    costs, budget = around(measured, menu, search), search.budget_bytes
    choice = np.array([menu.formats.index(search.found.units[unit]) for unit in menu.units])
    price = float(costs.swap.max())
    assert price > 0  # the planted search stops at exchanges that are not free

    def at(paid: float) -> list[int]:
        swap = np.where(costs.swap > 0, paid, 0.0)
        return Costs("plan", costs.menu, costs.kl, swap, costs.tokens).plan(budget).tolist()

    assert at(price * 1.001) == choice.tolist()
    assert at(price * 0.999) != choice.tolist()
    assert at(0.0) != choice.tolist()


def test_a_resample_of_every_sequence_once_is_the_whole(measured: Measured, menu: Menu, search: SearchCell) -> None:
    for costs in (separate(measured, menu), around(measured, menu, search)):
        once = costs.plans(np.ones((1, measured.sequences)), search.budget_bytes)
        assert once[0].tolist() == costs.plan(search.budget_bytes).tolist()


def test_the_same_costs_twice_give_the_same_plans(measured: Measured, menu: Menu, search: SearchCell) -> None:
    first, second = (around(measured, menu, search).plans(measured.weights, search.budget_bytes) for _ in range(2))
    assert (first == second).all()


def test_without_a_sweep_around_the_plan_the_separate_sensitivities_serve(measured: Measured, menu: Menu, search: SearchCell) -> None:
    nothing = search.model_copy(update={"rounds": (), "around": None})
    for cell in (None, nothing):
        assert costs_of(measured, menu, cell, search.budget_bytes).around == "reference"
    assert costs_of(measured, menu, search, search.budget_bytes).around == "plan"
    assert costs_of(measured, menu, search, search.found.stored_bytes - 1).around == "reference"  # the plan would not be within it


def test_a_format_that_failed_around_the_plan_is_not_offered(measured: Measured, menu: Menu, search: SearchCell) -> None:
    rounds, last = search.rounds, search.around_found or ()
    broken = last[3].model_copy(update={"kl_nats": None, "failure": "NaN"})
    swept = (*last[:3], broken, *last[4:])
    cell = search.model_copy(update={"rounds": rounds[:-1], "around": swept}) if search.rounds[-1].accepted is None else None
    cell = cell or search.model_copy(update={"around": swept})
    costs = around(measured, menu, cell)
    where = menu.units.index(broken.unit), menu.formats.index(broken.format)
    assert not costs.menu.offered[where]
    assert costs.menu.offered.sum() == len(menu.units) + len(last) - 1


@given(st.lists(st.floats(-1, 1), min_size=6, max_size=6), st.integers(0, 63))
def test_at_its_price_no_plan_beats_the_one_at_hand(gains: list[float], at: int) -> None:
    """Six units in two formats of 1 and 2 bytes, costs of any sign, brute force over all 64 plans: the price is the largest mean gain."""
    choice = np.array([at >> bit & 1 for bit in range(6)])
    kl = np.zeros((6, 3, 1))
    kl[np.arange(6), 1 - choice, 0] = gains
    stored = np.tile(np.array([2, 1, 4]), (6, 1))
    menu = Menu(tuple("abcdef"), ("x", "y", "z"), stored, np.tile(np.array([True, True, False]), (6, 1)), 6)
    costs = Costs("plan", menu, kl, np.zeros((6, 3)), np.ones(1))
    budget = int(stored[np.arange(6), choice].sum())
    best = 0.0
    for number in range(64):
        plan = np.array([number >> bit & 1 for bit in range(6)])
        swaps = int((plan != choice).sum())
        if swaps and stored[np.arange(6), plan].sum() <= budget:
            best = max(best, -float(costs.mean[np.arange(6), plan].sum()) / swaps)
    assert swap_price(costs, choice, budget) == pytest.approx(best, rel=1e-6, abs=1e-9)
