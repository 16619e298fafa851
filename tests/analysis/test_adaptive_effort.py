"""A run with an adaptive sweep: its zones, what the report says of it, and comparisons with a full one."""

from __future__ import annotations

from pathlib import Path

import pytest
from make_adaptive import adaptive
from make_run import SENSITIVE, analysed, cells, decided, profile, run_dict, write

from bitzones.analysis.reader import read_run
from bitzones.analysis.results import Analysis
from bitzones.regression.compare import compare
from bitzones.report.markdown.method import methodology
from bitzones.schema.errors import ProfileError
from bitzones.schema.profile_sections import Budget, Gate, Plans, Sensitivity
from bitzones.schema.record import Record
from bitzones.schema.sensitivity_cells import SensitivityCell

PARTIAL = {(f"layers.{layer}", "qint2:hqq"): 25 for layer in SENSITIVE}


def raced(partial: dict[tuple[str, str], int] = PARTIAL) -> list[Record]:
    return [adaptive(cell, partial) if isinstance(cell, SensitivityCell) else cell for cell in cells()]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Analysis, Analysis]:
    folder = tmp_path_factory.mktemp("runs")
    return analysed(folder, cells()), analysed(folder, raced())


def test_what_was_measured_on_all_reads_the_same(both: tuple[Analysis, Analysis]) -> None:
    full, adaptive_one = both
    told = {(item.unit, item.format): item for item in adaptive_one.sensitivity}
    for item in full.sensitivity:
        other = told[item.unit, item.format]
        assert item.kl is not None
        assert other.kl is not None
        if (item.unit, item.format) in PARTIAL:
            assert other.kl.value == pytest.approx(item.kl.value, rel=0.2)
            assert other.kl.value != item.kl.value
        else:
            assert other == item


def test_zones_are_those_of_the_full_sweep(both: tuple[Analysis, Analysis]) -> None:
    full, adaptive_one = (decided(analysis) for analysis in both)
    assert [item.zone for item in adaptive_one.layer_zones] == [item.zone for item in full.layer_zones]
    assert adaptive_one.plan.units == full.plan.units


def test_the_report_says_what_was_saved_and_what_it_can_cost(both: tuple[Analysis, Analysis]) -> None:
    full, adaptive_one = both
    assert full.effort is None
    assert "Adaptive effort" not in methodology(full)
    effort = adaptive_one.effort
    assert effort is not None
    assert (effort.partial, effort.options, effort.fewest) == (2, 36, 25)
    assert effort.measured_share == pytest.approx(1 - 2 * 15 / (36 * 40))
    assert effort.regret == 0.001
    line = next(line for line in methodology(adaptive_one).splitlines() if line.startswith("- Adaptive effort"))
    assert "2% of the sweep was saved" in line
    assert "2 of 36 options" in line
    assert "0.001 nats/token" in line


def test_a_full_and_an_adaptive_sweep_are_compared_on_what_both_measured(tmp_path: Path) -> None:
    old, new = (read_run(write(tmp_path, run_dict(made), name)) for made, name in ((cells(), "old.json"), (raced(), "new.json")))
    for one, other in ((old, new), (new, old)):
        found = next(cell for cell in compare(one, other, Gate()).cells if cell.kind == "sensitivity")
        assert found.status == "same"
        assert {metric.change.value for metric in found.metrics if metric.change is not None} == {0.0}


@pytest.mark.parametrize("fault", ["order", "uniform", "reason", "count"])
def test_a_record_that_contradicts_itself_is_refused(fault: str) -> None:
    cell = next(cell for cell in raced() if isinstance(cell, SensitivityCell))
    data = cell.model_dump(mode="json")
    item = next(item for item in data["measurements"] if item["stopped"])
    if fault == "order":
        data["adaptive"]["order"][0] = data["adaptive"]["order"][1]
    elif fault == "uniform":
        data["adaptive"]["uniform_kl_nats"] = {"qint4": [1.0]}
    elif fault == "reason":
        item["stopped"] = None
    else:
        data["adaptive"] = None
    with pytest.raises(ValueError, match=r"every sequence once|everywhere has 1 sequences|has to say why|25 sequences, the cell has 40"):
        SensitivityCell.model_validate(data)


def test_plans_by_task_need_every_sequence() -> None:
    message = "sensitivity.effort = adaptive: plans by task need every sequence"
    with pytest.raises(ValueError, match=message):
        profile(plans=Plans(by="task"), sensitivity=Sensitivity(effort="adaptive"))
    with pytest.raises(ProfileError, match=message):
        profile(plans=Plans(by="task")).resolved(effort="adaptive")
    with pytest.raises(ProfileError, match=r"a budget\.tolerance gives no bytes"):
        profile(budget=Budget(tolerance=0.1)).resolved(effort="adaptive")


def test_a_full_effort_is_written_and_hashed_as_before_there_was_another() -> None:
    full, adaptive_one = profile(), profile().resolved(effort="adaptive")
    assert "effort" not in full.model_dump_json()
    assert full.sha256 != adaptive_one.sha256
    assert adaptive_one.resolved(effort="full").sha256 == full.sha256
