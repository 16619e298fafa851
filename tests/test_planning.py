"""What a budget allows on a tiny model: arithmetic for bits, measurement for a tolerance."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_sweep import swept

from bitzones.decide.planner import budget_bytes, solve
from bitzones.errors import PlanError
from bitzones.measure import planning, search
from bitzones.measure.search import Workbench
from bitzones.measure.variants import Variants
from bitzones.profile import Budget
from bitzones.records import SensitivityCell


@pytest.fixture(scope="module")
def variants() -> Variants:
    return swept()[0]


@pytest.fixture(scope="module")
def cell() -> SensitivityCell:
    return swept()[1]


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return swept()[2]


def test_what_a_sweep_will_offer_is_known_before_it(variants: Variants, bench: Workbench) -> None:
    expected = planning.expected_menu(variants.loaded.model, bench.parts, bench.menu.formats[:-1], "bf16")
    assert (expected.parts, expected.formats, expected.parameters) == (bench.menu.parts, bench.menu.formats, bench.menu.parameters)
    assert expected.stored_bytes.tolist() == bench.menu.stored_bytes.tolist()
    with pytest.raises(PlanError, match=r"no plan stores the parts in 2\.01 average bits: the formats offered reach from 2\.3"):
        planning.check_budget(expected, 2.01)


def column(bench: Workbench, name: str) -> np.ndarray:
    return np.full(len(bench.parts), bench.menu.formats.index(name))


def measured(bench: Workbench, choice: np.ndarray) -> float:
    (trial,) = search.trials(bench, [choice])
    return search.total(trial)


def test_bits_are_arithmetic(bench: Workbench, cell: SensitivityCell) -> None:
    allowed = planning.allowed(bench, cell, Budget(average_bits=3.2), {})
    assert allowed == (budget_bytes(bench.menu, 3.2), None)


def test_a_tolerance_is_kept_by_the_measured_plan_and_fewer_bytes_break_it(bench: Workbench, cell: SensitivityCell) -> None:
    separate = search.summed(bench, cell)
    two, four = (measured(bench, column(bench, name)) for name in ("qint2:hqq", "qint4"))
    nats = (two + four) / 2 / sum(cell.sequence_tokens)
    budget, tolerance = planning.allowed(bench, cell, Budget(tolerance=nats), {})
    assert tolerance == pytest.approx((two + four) / 2)
    plan = solve(bench.menu, separate, budget)
    assert measured(bench, plan) <= tolerance
    step = (int(bench.menu.stored_bytes[:, -1].sum()) - bench.menu.least_bytes) // 2**planning.BUDGET_STEPS
    below = solve(bench.menu, separate, budget - 2 * step - 1)
    assert measured(bench, below) > tolerance
    assert bench.menu.least_bytes < budget < bench.bytes_of(column(bench, "qint4"))


def test_no_worse_than_a_uniform_variant(bench: Workbench, cell: SensitivityCell, variants: Variants) -> None:
    budget = Budget(tolerance="like:w4")
    found = planning.search_cell(bench, cell, budget, variants.uniform, 1)
    assert found.tolerance_nats == pytest.approx(measured(bench, column(bench, "qint4")))
    assert search.total(found.found) <= found.tolerance_nats
    assert found.found.stored_bytes <= found.budget_bytes
    assert found.budget_bytes <= bench.bytes_of(column(bench, "qint4")) * 1.02


def test_a_tolerance_that_everything_meets_takes_the_smallest_plan(bench: Workbench, cell: SensitivityCell) -> None:
    budget, _ = planning.allowed(bench, cell, Budget(tolerance=1e6), {})
    assert budget <= bench.menu.least_bytes * 1.05
