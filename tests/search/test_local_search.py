"""The search on a tiny model: what it accepts was measured, is within the budget and is better than where it started."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_sweep import CALIBRATION, batches, swept

from bitzones.allocation.knapsack import budget_bytes, solve
from bitzones.evaluation import kl
from bitzones.schema.plan_cells import Trial
from bitzones.schema.progress import Progress, silent
from bitzones.schema.sensitivity_cells import SensitivityCell
from bitzones.search import local_search
from bitzones.search.local_search import LeastKl, Searched, Workbench
from bitzones.sensitivity.variants import Variants

BITS = 3.2
"""Average bits of the budget: between all units at 2 bits and all at 4, so that there is something to choose."""


@pytest.fixture(scope="module")
def variants() -> Variants:
    return swept()[0]


@pytest.fixture(scope="module")
def cell() -> SensitivityCell:
    return swept()[1]


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return swept()[2]


def choice_of(bench: Workbench, trial: Trial) -> np.ndarray:
    return np.array([bench.menu.formats.index(trial.units[name]) for name in bench.menu.units])


def total(trial: Trial) -> float:
    return sum(trial.kl_nats or (float("inf"),))


@pytest.fixture(scope="module")
def worst(bench: Workbench, cell: SensitivityCell) -> np.ndarray:
    """The plan within the budget that separate sensitivities call worst."""
    found = local_search.summed(bench, cell)
    return solve(bench.menu, np.where(bench.menu.offered, found.max() - found, 0.0) + (np.arange(3) == 2) * 1e3, budget(bench))


def budget(bench: Workbench) -> int:
    return budget_bytes(bench.menu, BITS)


@pytest.fixture(scope="module")
def improved(bench: Workbench, worst: np.ndarray) -> Searched:
    return searched(bench, worst, 3)


def searched(bench: Workbench, choice: np.ndarray, rounds: int, progress: Progress = silent) -> Searched:
    (start,) = local_search.trials(bench, [choice])
    return local_search.search(bench, start, LeastKl(budget(bench)), rounds, progress)


def test_a_bad_plan_gets_better_and_stays_within_the_budget(bench: Workbench, worst: np.ndarray, improved: Searched) -> None:
    first, rounds = improved.start, improved.rounds
    assert (choice_of(bench, first) == worst).all()
    at = total(first)
    for found in rounds:
        for trial in found.trials:
            assert trial.stored_bytes <= budget(bench)
            assert trial.stored_bytes == bench.bytes_of(choice_of(bench, trial))
        if found.accepted is not None:
            assert total(found.trials[found.accepted]) == min(map(total, found.trials)) < at
            at = total(found.trials[found.accepted])
    assert rounds[0].accepted is not None
    assert at == total(improved.found) < 0.9 * total(first)


def test_a_trial_is_the_measured_kl_of_the_whole_plan(variants: Variants, improved: Searched, bench: Workbench) -> None:
    trial = improved.rounds[0].trials[0]
    assignment = {module: trial.units[unit.name] for unit in bench.units for module in unit.modules}
    variants.define("plan", assignment)
    expected = kl.whole(variants.reference, variants.model("plan"), batches(), len(CALIBRATION.sequences))
    assert trial.kl_nats == pytest.approx(expected, rel=2e-3, abs=1e-5)


def test_the_sweep_around_a_plan_changes_one_unit_and_leaves_the_others_in_the_plan(
    bench: Workbench, worst: np.ndarray, improved: Searched
) -> None:
    around = improved.rounds[0].around
    assert len(around) == len(bench.units)  # two formats, of which the plan has one
    item = around[5]
    row = next(row for row, unit in enumerate(bench.units) if unit.name == item.unit)
    changed = worst.copy()
    changed[row] = bench.menu.formats.index(item.format)
    assert changed[row] != worst[row]
    (measured,) = local_search.trials(bench, [changed])
    assert item.kl_nats == pytest.approx(measured.kl_nats, rel=1e-4)


def test_the_search_ends_where_nothing_is_better(bench: Workbench, improved: Searched) -> None:
    again = searched(bench, choice_of(bench, improved.found), 20)
    assert len(again.rounds) < 20
    assert again.rounds[-1].accepted is None
    assert again.around is None  # its last round swept around the plan found


def test_the_search_ends_with_a_sweep_around_the_plan_found(bench: Workbench, worst: np.ndarray) -> None:
    """One round that accepts something, and then one unit of its plan changed: measured as a whole, that is what the last sweep says."""
    made = searched(bench, worst, 1)
    assert made.rounds[0].accepted is not None
    assert made.around is not None
    assert len(made.around) == len(bench.units)
    item = made.around[3]
    assert item.format != made.found.units[item.unit]
    (measured,) = local_search.trials(
        bench, [choice_of(bench, made.found.model_copy(update={"units": made.found.units | {item.unit: item.format}}))]
    )
    assert item.kl_nats == pytest.approx(measured.kl_nats, rel=1e-4)


def test_no_round_leaves_the_start(bench: Workbench, worst: np.ndarray) -> None:
    made = searched(bench, worst, 0)
    assert (made.rounds, made.around, made.found, total(made.start) > 0) == ((), None, made.start, True)


def test_the_same_search_twice_is_the_same_and_the_model_is_as_it_was(bench: Workbench, worst: np.ndarray, improved: Searched) -> None:
    before = {name: (parameter.data_ptr(), parameter.clone()) for name, parameter in bench.model.named_parameters()}
    said: list[float] = []
    assert searched(bench, worst, 3, said.append) == improved
    assert said == sorted(said)
    assert said[-1] == 1.0
    for name, parameter in bench.model.named_parameters():
        assert (parameter.data_ptr(), True) == (before[name][0], torch.equal(parameter, before[name][1]))
