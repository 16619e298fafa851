"""A machine that changes between runs is not taken for a release that did, where enough runs of one release say how much it changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_run import latency, run_dict, write
from scipy.stats import t as student
from typer.testing import CliRunner

from bitzones.analysis.reader import RunFile, read_run
from bitzones.cli.main import app
from bitzones.regression import drift as drifts
from bitzones.regression.change_points import trend
from bitzones.regression.compare import compare
from bitzones.regression.comparison import Comparison, Metric
from bitzones.regression.decision_rule import samples_needed
from bitzones.regression.drift import Drift, between, medians, timed
from bitzones.schema.cell_key import CellKey
from bitzones.schema.performance_cells import LatencyCell
from bitzones.schema.profile_sections import Gate

RELEASE = {"torch": "2.14.0", "transformers": "5.23.0", "optimum-quanto": "0.2.7"}


def run_of(folder: Path, name: str, scales: Sequence[float], model: str = "m" * 64, seed: int = 0, **environment: Any) -> RunFile:
    """A run of cells w4, w8, ... whose rounds are multiples of the same."""
    data = run_dict([latency(variant, "decode", scale) for variant, scale in zip(("w4", "w8"), scales, strict=False)])
    data["bitzones"]["environment"] |= environment
    data["bitzones"]["model"]["sha256"] = model
    data["bitzones"]["profile"]["seed"] = seed
    data["datetime"] = f"2026-11-{10 + len(list(folder.glob('*.json'))):02}T06:00:00+00:00"
    return read_run(write(folder, data, f"{name}.json"))


def drifting(folder: Path, by: float, runs: int = 4, **facts: Any) -> list[RunFile]:
    """Runs of one release whose medians lie in even steps from exp(-by) to exp(by): no two are the same."""
    steps = np.linspace(-by, by, runs)
    return [run_of(folder, f"past{number}{''.join(facts)}", [math.exp(step)] * 2, **facts) for number, step in enumerate(steps)]


def spread(by: float, runs: int = 4) -> float:
    """The standard deviation of `drifting`."""
    return float(np.std(np.linspace(-by, by, runs), ddof=1))


def drift(like: RunFile, past: Sequence[RunFile]) -> Drift | None:
    return drifts.drift(timed(like), map(timed, past))


def judged(old: RunFile, new: RunFile, repeats: Drift | None) -> list[Metric]:
    return [metric for cell in compare(old, new, Gate(), repeats).cells for metric in cell.metrics]


def test_known_answer() -> None:
    a, b, c = (
        CellKey("latency", "w8", "decode-b1-p64-n16"),
        CellKey("latency", "w4", "decode-b1-p64-n16"),
        CellKey("latency", "w2", "decode-b1-p64-n16"),
    )
    first = [{a: 0.0, b: 1.0, c: 5.0}, {a: 0.3, b: 1.0, c: 5.9}, {a: 0.6, b: 1.0}]
    second = [{a: 7.0, b: 2.0}, {a: 7.2, b: 2.1}]
    found = between([first, second, [{a: 100.0}]])
    assert found is not None
    assert (found.runs, found.freedom) == (5, 3)
    own_a, own_b = math.sqrt((0.18 + 0.02) / 3), math.sqrt(0.005 / 3)  # squares within each release, 2 + 1 degrees of freedom
    assert found.cells == pytest.approx({a: own_a, b: own_b})  # c has one degree of freedom
    assert found.typical == pytest.approx((own_a + own_b) / 2)
    assert between([first]) is None


def test_a_cell_that_drifts_more_than_others_has_its_own(tmp_path: Path) -> None:
    past = [run_of(tmp_path, f"past{n}", scales) for n, scales in enumerate(([1, 1], [1.1, 1.001], [1.2, 1.002], [1.3, 1.003]))]
    found = drift(run_of(tmp_path, "new", [2.0, 2.0]), past)
    assert found is not None
    w4, w8 = past[0].of(LatencyCell)
    assert {w4.variant, w8.variant} == {"w4", "w8"}
    wide, narrow = (w4, w8) if w4.variant == "w4" else (w8, w4)
    assert found.of(wide).sd == pytest.approx(float(np.std(np.log([1, 1.1, 1.2, 1.3]), ddof=1)))
    assert found.of(narrow).sd == found.typical


@pytest.mark.parametrize("other", [{"cpu": "Another"}, {"threads": 7}, {"model": "n" * 64}, {"seed": 7}])
def test_runs_of_another_machine_model_or_profile_say_nothing(tmp_path: Path, other: dict[str, Any]) -> None:
    few, elsewhere = drifting(tmp_path, 0.1, 3), drifting(tmp_path, 0.5, 4, **other)
    new = run_of(tmp_path, "new", [2.0, 2.0])
    assert drift(new, [*few, *elsewhere]) is None
    found = drift(new, [*few, *elsewhere, run_of(tmp_path, "one_more", [1.0, 1.01])])
    assert found is not None
    assert found.typical < 0.12


def test_a_run_counts_once_and_never_for_itself(tmp_path: Path) -> None:
    past = drifting(tmp_path, 0.1)
    new = run_of(tmp_path, "new", [3.0, 3.0])
    found = drift(new, [*past, *past, new])
    assert found is not None
    assert (found.runs, found.freedom) == (4, 3)
    assert found.typical == pytest.approx(spread(0.1))
    assert drift(new, [past[0]] * 9) is None


def test_disturbed_cells_plans_and_cells_without_time_are_left_out() -> None:
    good = latency("w4", "decode", 1.0)
    gpu = good.model_copy(update={"variant": "w8", "device_rounds_s": good.rounds_s, "rounds_s": (1.0, 2.0) * 10})
    none = good.model_copy(update={"variant": "w2", "rounds_s": (0.0,) * 20})
    assert list(medians([good, gpu, none, latency("plan", "decode", 1.0)])) == [CellKey("latency", "w4", "decode-b1-p64-n16")]


def test_a_new_release_is_judged_by_how_far_the_old_one_drifts(tmp_path: Path) -> None:
    past = drifting(tmp_path, 0.1)
    new = run_of(tmp_path, "new", [1.3, 1.3], versions=RELEASE)
    alone, known = (judged(past[1], new, given) for given in (None, drift(new, past)))
    assert {metric.status for metric in alone} == {"worse"}
    assert {metric.status for metric in known} == {"inconclusive"}
    change, sd = known[0].change, math.sqrt(2) * spread(0.1)
    assert change is not None
    assert change.high is not None
    assert math.log(change.high / change.value) == pytest.approx(student.ppf(0.975, 3) * sd)
    assert known[0].p == pytest.approx(2 * student.sf((math.log(change.value) - math.log(1.05)) / sd, 3))  # Holm, two cells
    assert known[0].needed is None
    assert f"{spread(0.1):.1%} from run to run" in known[0].reason


def test_a_steady_machine_costs_no_power_and_a_large_change_shows_on_any(tmp_path: Path) -> None:
    new = run_of(tmp_path, "new", [1.2, 1.0])
    past = drifting(tmp_path, 1e-4)
    assert [metric.status for metric in judged(past[0], new, drift(new, past))] == ["worse", "same"]
    assert judged(past[0], new, drift(new, past)) == judged(past[0], new, None)
    slow = run_of(tmp_path, "slow", [9.0, 9.0])
    past = drifting(tmp_path, 0.1)
    assert {metric.status for metric in judged(past[0], slow, drift(slow, [*past, slow]))} == {"worse"}


def test_units_take_no_floor_out_of_the_spread() -> None:
    assert samples_needed(20, 0.05, 0.05, 1) == samples_needed(20, 0.05, 0.05, 1, 0.0)
    few, more, none = (samples_needed(20, 0.05, 0.05, 1, floor) for floor in (0.0, 0.01, 0.02))
    assert few is not None
    assert more is not None
    assert few < more
    assert none is None


@pytest.mark.parametrize("runs", [4, 6])
def test_false_alarms_on_a_machine_that_drifts(tmp_path: Path, runs: int) -> None:
    """Two runs of the same thing, 200 times, at a drift of 10% that all cells share: with the others as history few alarm."""
    rng = np.random.default_rng(0)
    template = run_of(tmp_path, "past", [1.0, 1.0])

    def again() -> RunFile:
        level = 0.01 * math.exp(rng.normal(0, 0.1))
        cells = (
            cell.model_copy(update={"rounds_s": tuple((level * rng.lognormal(0, 0.01, 20)).tolist())}) for cell in template.of(LatencyCell)
        )
        return template.model_copy(update={"cells": tuple(cells)})

    alarms = {"alone": 0, "known": 0}
    for _ in range(200):
        old, new, *past = (again() for _ in range(2 + runs))
        for name, repeats in (("alone", None), ("known", drift(new, past))):
            alarms[name] += any(metric.status == "worse" for metric in judged(old, new, repeats))
    assert alarms["known"] <= 10
    assert alarms["alone"] > 60


def test_absurd_medians_are_refused_in_one_line(tmp_path: Path) -> None:
    past, new = drifting(tmp_path, 0.1), run_of(tmp_path, "new", [1.0, 1.0])
    odd = run_of(tmp_path, "odd", [1e-300, 1e90])
    for repeats in (drift(new, [*past, odd]), None):
        assert {metric.status for metric in judged(past[0], odd, repeats)} == {"incomparable"}
    assert {metric.status for metric in judged(past[0], new, drift(new, [*past, odd]))} == {"inconclusive"}


def test_the_command_takes_a_history_and_says_what_it_does_not_know(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    drifting(kept, 0.1)
    run_of(tmp_path, "old", [1.01, 1.01])
    run_of(tmp_path, "new", [1.3, 1.3], versions=RELEASE)
    (kept / "broken.json").write_text('{"benchmarks": [], "bitzones": {"schema": 99}}', encoding="utf-8")
    old, new, page = (str(tmp_path / name) for name in ("old.json", "new.json", "delta.md"))
    alone = CliRunner().invoke(app, ["compare", old, new, "-o", page])
    assert alone.exit_code == 1
    assert "is unknown: it needs a --history folder with 4 runs" in alone.output
    assert "is unknown: it needs a `--history` folder" in Path(page).read_text(encoding="utf-8")
    for arguments in ([old, new, "--history", str(kept)], [new, "--against", str(kept)]):
        known = CliRunner().invoke(app, ["compare", *arguments, "-o", page, "--json", f"{page}.json"])
        assert known.exit_code == 0, known.output
        assert "left out: " in known.output
        text = Path(page).read_text(encoding="utf-8")
        assert "between runs on this machine (standard deviation, 4 runs)." in text
        repeats = Comparison.model_validate_json(Path(f"{page}.json").read_text(encoding="utf-8")).repeats
        assert repeats is not None
        assert repeats.drift == pytest.approx(spread(0.1))


def test_a_trend_on_a_machine_that_drifts_has_fewer_change_points_the_more_runs_it_has(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    past = [run_of(tmp_path, f"past{number}", [math.exp(rng.normal(0, 0.15))] * 2) for number in range(12)]
    marked = {point.run for point in trend(past).changes}
    assert marked
    assert max(marked) <= drifts.MIN_FREEDOM + 1
