"""Time as a budget: medians that add up, plans that brute force cannot beat, and real products that are really timed."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_run import cells, decided, profile, run_dict, sensitivity, unit_latency, write

from bitzones.allocation.knapsack import Menu, menu_of, solve
from bitzones.allocation.time_cost import budget_ns, plan_ns, plan_ratio, plan_s, timed_menu
from bitzones.analysis import latency_memory
from bitzones.analysis.analyze import analyse, read_run
from bitzones.report.markdown import measurements, summary
from bitzones.schema.errors import PlanError
from bitzones.schema.latency_grid import Latency
from bitzones.schema.performance_cells import ShapeTimes, UnitLatencyCell
from bitzones.schema.profile_sections import Budget

FORMATS = ("qint8", "qint4", "qint2:hqq")
FAST = {"bf16": 1.0, "qint8": 0.7, "qint4": 0.5, "qint2:hqq": 0.4}


def cell(rounds: dict[str, tuple[float, ...]], units: int = 2) -> UnitLatencyCell:
    shapes = ((4, 8),)
    return UnitLatencyCell(
        variant="bf16",
        batch=1,
        warmup_rounds=1,
        units={f"p{n}": shapes for n in range(units)},
        times=tuple(ShapeTimes(shapes=shapes, format=name, repeats=2, rounds_s=took, kernels={}) for name, took in rounds.items()),
    )


def test_a_plan_takes_the_sum_of_its_units_medians() -> None:
    timed = cell({"bf16": (4.0, 2.0, 90.0), "qint4": (1.0, 1.0, 1.0)})
    assert plan_ns(timed, {"p0": "bf16", "p1": "qint4"}) == 2_500_000_000  # of two copies a round: 2 s and 0.5 s
    assert plan_s(timed, {"p0": "bf16", "p1": "qint4"}, 50, 0).value == 2.5
    assert plan_ns(timed, {"p0": "qint8", "p1": "qint4"}) is None


def test_what_all_formats_share_does_not_widen_a_ratio() -> None:
    drift = np.random.default_rng(0).lognormal(0, 0.5, 20)
    timed = cell({"bf16": tuple(drift), "qint4": tuple(0.5 * drift)})
    found = plan_ratio(timed, {"p0": "qint4", "p1": "bf16"}, "bf16", 200, 0)
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((0.75, 0.75, 0.75))
    took = plan_s(timed, {"p0": "qint4", "p1": "bf16"}, 200, 0)
    assert took.low is not None
    assert took.high is not None
    assert took.low < took.value < took.high


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 3), st.floats(0.05, 0.999))
def test_no_plan_within_the_time_is_better(seed: int, units: int, formats: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    stored = rng.integers(1, 99, (units, formats + 1))
    names = tuple(f"f{n}" for n in range(formats))
    offered = np.column_stack([rng.random((units, formats)) < 0.8, np.ones(units, bool)])
    nanoseconds = rng.integers(1, 10**6, stored.shape)
    of = Menu(tuple(f"p{n}" for n in range(units)), (*names, "ref"), stored, offered, 8, nanoseconds)
    kl = np.column_stack([rng.random((units, formats)), np.zeros(units)])
    plans = list(itertools.product(*(np.flatnonzero(row) for row in offered)))
    took = [int(sum(nanoseconds[p, f] for p, f in enumerate(plan))) for plan in plans]
    allowed = share * int(nanoseconds[:, -1].sum())
    if min(took) > int(allowed):
        with pytest.raises(PlanError, match=r"the formats offered reach from \d"):
            budget_ns(of, share)
        return
    budget = budget_ns(of, share)
    choice = solve(of, kl, budget)
    rows = np.arange(units)
    assert offered[rows, choice].all()
    assert nanoseconds[rows, choice].sum() <= budget <= allowed
    best = min(sum(kl[p, f] for p, f in enumerate(plan)) for plan, t in zip(plans, took, strict=True) if t <= budget)
    assert kl[rows, choice].sum() == pytest.approx(best, rel=1e-9, abs=1e-12)


def test_an_impossible_budget_names_the_range_and_says_that_bits_buy_nothing() -> None:
    sweep = sensitivity(layers=2)
    menu = menu_of(sweep, FORMATS, "bf16")
    with pytest.raises(PlanError, match=r"reach from 1\.000 to 3\.000; fewer bits do not buy time on this device; raise budget\.latency"):
        budget_ns(timed_menu(menu, unit_latency(sweep)), 0.8)
    fast = timed_menu(menu, unit_latency(sweep, FAST))
    with pytest.raises(PlanError, match=r"reach from 0\.400 to 1\.000; raise budget"):
        budget_ns(fast, 0.3)
    with pytest.raises(PlanError, match="the run holds no times of units"):
        timed_menu(menu, None)


def test_a_unit_or_format_that_was_not_timed_is_no_option() -> None:
    sweep = sensitivity(layers=2)
    menu = menu_of(sweep, FORMATS, "bf16")
    some = timed_menu(menu, unit_latency(sweep, {"bf16": 1.0, "qint4": 0.5}))
    assert some.offered.tolist() == [[False, True, False, True]] * 2
    with pytest.raises(PlanError, match=r"times of layers\.1 were not measured"):
        timed_menu(menu, unit_latency(sensitivity(layers=1)))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, float]:
    """The summary of a run with a budget of time, and the share of it that its plan takes."""
    found = [*cells(), unit_latency(sensitivity(), FAST)]
    analysis = analyse(read_run(write(tmp_path_factory.mktemp("run"), run_dict(found, profile(budget=Budget(latency=0.55))))))
    plan = decided(analysis).plan
    assert plan.achieved.latency is not None
    assert plan.budget.latency is not None
    assert plan.achieved.latency.nanoseconds <= plan.budget.latency.nanoseconds
    return summary.summary(analysis), plan.achieved.latency.share


def test_a_run_with_a_budget_of_time_has_a_plan_within_it(shown: tuple[str, float]) -> None:
    text, share = shown
    assert 0.5 <= share <= 0.55
    assert "Zones of 12 layers at 0.55 of the reference's time" in text
    assert "may take 0.55 of the reference's time in a decode step" in text
    assert "**On this device qint8, qint4, qint2:hqq take less time than bf16.**" in text


def test_the_report_says_where_bits_do_not_buy_time(tmp_path: Path) -> None:
    analysis = analyse(read_run(write(tmp_path, run_dict([*cells(), unit_latency(sensitivity())]))))
    said = measurements.unit_latency(analysis)
    assert "**On this device qint8, qint4, qint2:hqq take more time than bf16: fewer bits do not save time.**" in said
    assert "| qint4     |" in said
    assert "n = 20 rounds" in said


def test_few_rounds_give_no_interval_and_no_verdict() -> None:
    sweep = sensitivity()
    found = latency_memory.unit_latency(unit_latency(sweep, rounds=3), None, FORMATS, "bf16", 0)
    assert found.slower == ()
    assert all(item.seconds.low is None for item in found.totals)


@pytest.fixture(scope="module")
def really() -> UnitLatencyCell:
    """The products of a tiny model, timed."""
    from tiny_sweep import swept

    from bitzones.profiling import gemm_latency

    variants, _, bench = swept()
    shape = Latency(batch=(2,), rounds=5, warmup_rounds=1)
    return gemm_latency.measure(variants, bench.units, shape, seed=0)


def test_every_sort_of_unit_is_timed_once_in_every_format(really: UnitLatencyCell) -> None:
    from tiny_sweep import swept

    variants, _, bench = swept()
    assert set(really.units) == {unit.name for unit in bench.units}
    assert {item.format for item in really.times} == set(variants.formats.values())
    assert len(really.times) == len(set(really.units.values())) * len(variants.formats)
    assert all(len(item.rounds_s) == 5 and min(item.rounds_s) > 0 for item in really.times)
    assert all(item.repeats == list(really.units.values()).count(item.shapes) for item in really.times)
    dense, packed = (next(item for item in really.times if item.format == name) for name in ("bf16", "qint4"))
    assert set(dense.kernels) == {"dense"}
    assert "dense" not in packed.kernels


def test_a_search_with_a_budget_of_time_stays_within_it(really: UnitLatencyCell) -> None:
    """With times of our own, in which the fewest bits are the fastest; the plans are measured as ever."""
    from tiny_sweep import swept

    from bitzones.search import goals, local_search

    variants, sweep, bench = swept()
    speed = {"bf16": 1.0, "qint8": 0.9, "qint4": 0.6, "qint2:hqq": 0.3}
    planted = tuple(item.model_copy(update={"rounds_s": (speed[item.format] * item.repeats,) * 5}) for item in really.times)
    times = really.model_copy(update={"times": planted})
    timed = local_search.workbench(variants, sweep, bench.batches, bench.sequences, times)
    found = goals.search_cell(timed, sweep, Budget(latency=0.5), variants.uniform, 1)
    reference = plan_ns(times, dict.fromkeys(really.units, "bf16"))
    taken = plan_ns(times, found.found.units)
    assert reference is not None
    assert taken is not None
    assert found.budget_ns == reference // 2
    assert taken <= found.budget_ns < reference
    assert set(found.found.units.values()) != {"qint2:hqq"}  # what time is left is spent
    with pytest.raises(PlanError, match=r"reach from 0\.300"):
        goals.check_budget(timed.menu, Budget(latency=0.2), times)
