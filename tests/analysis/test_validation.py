"""Cells that contradict each other are refused at the door in one line: the search, the screen and the plans are about one run."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from make_run import cell_of, planned, run_dict

from bitzones.analysis.analyze import read_run
from bitzones.analysis.validation import faults
from bitzones.schema.cells import Cell, FailedCell
from bitzones.schema.errors import RunFileError
from bitzones.schema.run_record import Run

Data = dict[str, Any]


@pytest.fixture(scope="module")
def good() -> Data:
    return run_dict(planned())


@pytest.fixture
def data(good: Data) -> Data:
    return copy.deepcopy(good)


def plan_of(data: Data, name: str) -> Data:
    return next(plan for plan in cell_of(data, "plans")["plans"] if plan["name"] == name)


def twice(kind: str) -> Callable[[Data], None]:
    def spoil(data: Data) -> None:
        benchmark = next(b for b in data["benchmarks"] if b["extra_info"]["bitzones"]["kind"] == kind)
        data["benchmarks"].append(copy.deepcopy(benchmark))
        data["benchmarks"][-1]["extra_info"]["bitzones"]["variant"] = "w8"

    return spoil


def set_(kind: str, *steps: Any, to: Any) -> Callable[[Data], None]:
    def spoil(data: Data) -> None:
        at = cell_of(data, kind)
        for step in steps[:-1]:
            at = at[step]
        at[steps[-1]] = to

    return spoil


def same_sequences(data: Data) -> None:
    cell_of(data, "plans")["sequences_sha256"] = cell_of(data, "sensitivity")["sequences_sha256"]


def empty_held_out(data: Data) -> None:
    cell = cell_of(data, "plans")
    cell["sequence_tokens"] = [0] * len(cell["sequence_tokens"])


def no_searched_plan(data: Data) -> None:
    plan_of(data, "plan")["origin"] = "random"


def another_plan(data: Data) -> None:
    plan_of(data, "plan")["units"], plan_of(data, "plan")["stored_bytes"] = (
        plan_of(data, "uniform qint4")["units"],
        plan_of(data, "uniform qint4")["stored_bytes"],
    )


def unit_missing(data: Data) -> None:
    del plan_of(data, "random 1")["units"]["layers.3"]


def unit_foreign(data: Data) -> None:
    plan_of(data, "random 1")["units"]["layers.99"] = "qint4"


def start_foreign(data: Data) -> None:
    cell_of(data, "search")["start"]["units"]["layers.99"] = "qint4"


def wrong_bytes(data: Data) -> None:
    plan_of(data, "random 1")["stored_bytes"] -= 1


def unmeasured(data: Data) -> None:
    item = next(m for m in cell_of(data, "sensitivity")["measurements"] if (m["unit"], m["format"]) == ("layers.0", "qint2:hqq"))
    item |= {"kl_nats": None, "failure": "NaN"}


def over_budget(data: Data) -> None:
    cell_of(data, "search")["budget_bytes"] = cell_of(data, "plans")["budget_bytes"] = 1000


def fisher_unit_missing(data: Data) -> None:
    cell = cell_of(data, "fisher")
    cell["units"] = cell["units"][:-1]
    cell["scores"] = [item for item in cell["scores"] if item["unit"] != "layers.11"]


def nan(data: Data) -> None:
    cell_of(data, "plans")["plans"][2]["kl_nats"][4] = math.nan


def infinite_score(data: Data) -> None:
    cell_of(data, "fisher")["scores"][1]["nats"][0] = math.inf


def short_around(data: Data) -> None:
    cell_of(data, "search")["rounds"][0]["around"][0]["kl_nats"].pop()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (twice("fisher"), "2 fisher cells; a run has one"),
        (twice("search"), "2 search cells; a run has one"),
        (twice("plans"), "2 plans cells; a run has one"),
        (set_("fisher", "sequences_sha256", to="x"), "fisher cell: measured on other sensitivity sequences than the sensitivity cell"),
        (set_("search", "sequences_sha256", to="x"), "search cell: measured on other sensitivity sequences than the sensitivity cell"),
        (same_sequences, "plans cell: its sequences are those that the plans were made from, not held out"),
        (empty_held_out, "plans cell: no sequence has a scored token"),
        (set_("plans", "budget_bytes", to=5), "plans cell: its budget is 5 bytes, the search's 221184"),
        (over_budget, r"search cell: the plan found takes \d+ bytes, the budget is 1000"),
        (no_searched_plan, "plans cell: 0 plans are of the search; there is one"),
        (another_plan, "plans cell: plan plan is not the one that the search found"),
        (unit_missing, "plans cell: plan random 1 is not about the units of the run"),
        (unit_foreign, "plans cell: plan random 1 is not about the units of the run"),
        (start_foreign, "search cell: the start is not about the units of the run"),
        (wrong_bytes, r"plans cell: plan random 1 takes \d+ bytes, its units \d+"),
        (unmeasured, "plan uniform qint2:hqq puts layers.0 at qint2:hqq, which was not measured there"),
        (
            set_("plans", "plans", 1, "units", "layers.0", to="qint3"),
            "plan additive: format .'qint3'. is neither one of the profile's nor the",
        ),
        (
            set_("search", "rounds", 0, "around", 0, "format", to="qint3"),
            "search cell: round 1, layers.0 at qint3: the plans do not know it",
        ),
        (short_around, "search cell: round 1, layers.0 at qint8 has another number of sequences"),
        (set_("fisher", "scores", 0, "format", to="qint3"), "fisher cell: format .'qint3'. is not one of the profile's"),
        (fisher_unit_missing, "fisher cell: its units are not those of the sensitivity cell"),
        (set_("search", "start", "stored_bytes", to=2**51), "search cell: the start: a plan of 2251799813685248 bytes cannot be"),
        (nan, r"benchmark bench/test_plans\.py.*plans\.2\.kl_nats\.4 is nan"),
        (infinite_score, r"benchmark bench/test_fisher\.py.*scores\.1\.nats\.0 is inf"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_contradiction_is_one_line(tmp_path: Path, data: Data, spoil: Callable[[Data], None], said: str) -> None:
    spoil(data)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(RunFileError) as caught:
        read_run(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert re.search(said, str(caught.value))


def test_a_good_run_has_no_fault_and_neither_has_one_with_failures(good: Data) -> None:
    cells: list[Cell] = planned()  # type: ignore[assignment]
    run = Run.model_validate(good["bitzones"])
    assert list(faults(run, cells)) == []
    kinds = ("fisher", "search", "plans")
    failed: list[Cell] = [FailedCell(variant="bf16", of=kind, reason="none") for kind in kinds]
    assert list(faults(run, [*(cell for cell in cells if cell.kind not in kinds), *failed])) == []
