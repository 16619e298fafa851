"""What a budget allows on a tiny model: arithmetic for bits, measurement for a tolerance."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_sweep import swept

from bitzones.allocation.knapsack import budget_bytes, solve
from bitzones.schema.errors import PlanError
from bitzones.schema.plan_cells import Trial
from bitzones.schema.profile_sections import Budget
from bitzones.schema.sensitivity_cells import SensitivityCell
from bitzones.search import goals, local_search
from bitzones.search.local_search import Workbench
from bitzones.sensitivity.variants import Variants


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
    expected = goals.expected_menu(variants.loaded.model, bench.units, bench.menu.formats[:-1], "bf16")
    assert (expected.units, expected.formats, expected.parameters) == (bench.menu.units, bench.menu.formats, bench.menu.parameters)
    assert expected.stored_bytes.tolist() == bench.menu.stored_bytes.tolist()
    with pytest.raises(PlanError, match=r"no plan stores the units in 2\.01 average bits: the formats offered reach from 2\.3"):
        goals.check_budget(expected, Budget(average_bits=2.01), None)


def column(bench: Workbench, name: str) -> np.ndarray:
    return np.full(len(bench.units), bench.menu.formats.index(name))


def measured(bench: Workbench, choice: np.ndarray) -> float:
    (trial,) = local_search.trials(bench, [choice])
    return local_search.total(trial)


def test_bits_are_arithmetic(bench: Workbench, cell: SensitivityCell) -> None:
    found = goals.search_cell(bench, cell, Budget(average_bits=3.2), {}, 0)
    assert (found.budget_bytes, found.tolerance_nats) == (budget_bytes(bench.menu, 3.2), None)
    assert bench.choice(found.start.units).tolist() == solve(bench.menu, local_search.summed(bench, cell), found.budget_bytes).tolist()


def between(bench: Workbench, cell: SensitivityCell) -> Budget:
    """A tolerance half way between all units at 4 bits and all at 2."""
    two, four = (measured(bench, column(bench, name)) for name in ("qint2:hqq", "qint4"))
    return Budget(tolerance=(two + four) / 2 / sum(cell.sequence_tokens))


def test_a_tolerance_is_kept_by_the_measured_plan_and_fewer_bytes_break_it(bench: Workbench, cell: SensitivityCell) -> None:
    separate = local_search.summed(bench, cell)
    found = goals.search_cell(bench, cell, between(bench, cell), {}, 0)
    assert found.tolerance_nats is not None
    assert measured(bench, bench.choice(found.found.units)) <= found.tolerance_nats
    assert found.budget_bytes == found.found.stored_bytes
    step = (int(bench.menu.stored_bytes[:, -1].sum()) - bench.menu.least_bytes) // 2**goals.BUDGET_STEPS
    below = solve(bench.menu, separate, found.budget_bytes - 2 * step - 1)
    assert measured(bench, below) > found.tolerance_nats
    assert bench.menu.least_bytes < found.budget_bytes < bench.bytes_of(column(bench, "qint4"))


def test_slack_under_a_tolerance_becomes_fewer_bytes(bench: Workbench, cell: SensitivityCell) -> None:
    """From 4 bits everywhere: what is accepted keeps the tolerance and takes fewer bytes, or as many at a lower KL."""
    goal = goals.FewestBytes(float(between(bench, cell).tolerance or 0) * sum(cell.sequence_tokens))
    (at,) = local_search.trials(bench, [column(bench, "qint4")])
    made = local_search.search(bench, at, goal, 3)
    for step in made.rounds:
        if step.accepted is not None:
            then, at = at, step.trials[step.accepted]
            assert (at.stored_bytes, local_search.total(at)) < (then.stored_bytes, local_search.total(then))
            assert local_search.total(at) <= goal.tolerance
    assert at == made.found
    additive = goals.search_cell(bench, cell, between(bench, cell), {}, 0)
    assert made.found.stored_bytes <= 1.02 * additive.budget_bytes < made.start.stored_bytes


def test_fewer_bytes_are_better_only_where_the_tolerance_is_kept() -> None:
    def trial(stored: int, kl: float | None) -> Trial:
        return Trial(units={}, stored_bytes=stored, kl_nats=None if kl is None else (kl,))

    best_first = [trial(10, 0.9), trial(10, 1.0), trial(20, 0.1), trial(5, 1.1), trial(1, 2.0)]
    key = goals.FewestBytes(1.0).key
    assert sorted((best_first[n] for n in (3, 0, 4, 2, 1)), key=key) == best_first
    assert key(trial(1, None)) > key(trial(1, 2.0))


def test_no_worse_than_a_uniform_variant(bench: Workbench, cell: SensitivityCell, variants: Variants) -> None:
    budget = Budget(tolerance="like:w4")
    found = goals.search_cell(bench, cell, budget, variants.uniform, 1)
    assert found.tolerance_nats == pytest.approx(measured(bench, column(bench, "qint4")))
    assert local_search.total(found.found) <= found.tolerance_nats
    assert found.found.stored_bytes == found.budget_bytes
    assert found.budget_bytes <= bench.bytes_of(column(bench, "qint4"))  # which keeps its own KL


def test_a_tolerance_that_everything_meets_takes_the_smallest_plan(bench: Workbench, cell: SensitivityCell) -> None:
    found = goals.search_cell(bench, cell, Budget(tolerance=1e6), {}, 1)
    assert found.budget_bytes == bench.menu.least_bytes


def test_halving_ends_where_nothing_is_left_to_halve(bench: Workbench) -> None:
    """Plans that never keep the tolerance: the range closes in on what does, and nothing is measured at or above it."""
    asked: list[int] = []

    def propose(budget: int) -> list[np.ndarray]:
        asked.append(budget)
        return []

    assert goals.smallest(bench, bench.menu.least_bytes + 4, 1.0, propose, 50) == []
    assert asked == sorted(set(asked))
    assert asked[-1] == bench.menu.least_bytes + 3
