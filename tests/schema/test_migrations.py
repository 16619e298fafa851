"""What older versions wrote is read as if it had been written today: the committed run files, plans and profiles, and each renamed key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bitzones.analysis.analyze import analyse, read_run
from bitzones.deploy.plan_file import read_plan
from bitzones.schema import migrations, profile_files
from bitzones.schema.errors import BitzonesWarning, ProfileError
from bitzones.schema.performance_cells import UnitLatencyCell
from bitzones.schema.run_record import SCHEMA, CalibrationSet
from bitzones.schema.sensitivity_cells import SensitivityCell

ROOT = Path(__file__).parents[2]
RUN_FILES = sorted([*ROOT.glob("docs/reports/*/run.json"), *ROOT.glob("profiles/reference/h200-*.json"), ROOT / ".ci" / "baseline.json"])
RUN_FILES = [path for path in RUN_FILES if "verdicts" not in path.name]
OLD_PROFILE = """
schema = 1
formats = ["qint4", "qint2:gptq"]
[model]
source = "embedded:tiny"
[[tasks]]
name = "science_mini"
[calibration]
tokens = 900
batch = 8
[rounding]
tokens = 700
damping = 0.02
[sensitivity]
granularity = "group"
[plans]
rounds = 1
held_out_tokens = 400
"""


def keys_of(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_committed_run_files_are_read_and_decided(path: Path) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    found = read_run(path)
    assert len(found.cells) == sum("bitzones" in benchmark["extra_info"] for benchmark in data["benchmarks"])
    old, now = data["bitzones"]["profile"], found.run.profile
    if old["schema"] == 1:
        assert (now.sensitivity.tokens, now.held_out.tokens) == (old["calibration"]["tokens"], old["plans"]["held_out_tokens"])
    assert analyse(found).model == found.run.model


def test_a_cell_of_units_keeps_its_numbers() -> None:
    path = ROOT / "docs" / "reports" / "smollm2" / "run.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    old = next(cell for benchmark in data["benchmarks"] if (cell := benchmark["extra_info"]["bitzones"])["kind"] == "sensitivity")
    (now,) = read_run(path).of(SensitivityCell)
    assert [unit.name for unit in now.units] == [part["name"] for part in old["parts"]]
    assert [(item.unit, item.format, list(item.kl_nats or ())) for item in now.measurements] == [
        (item["part"], item["format"], item["kl_nats"]) for item in old["measurements"]
    ]
    assert now.sequences_sha256 == old["calibration_sha256"]


def test_no_old_key_is_left_in_any_committed_cell_of_an_older_schema() -> None:
    old = {"part", "parts", "calibration_sha256", "disturbed", "rounding"}
    older = {path: data for path in RUN_FILES if (data := json.loads(path.read_text(encoding="utf-8")))["bitzones"]["schema"] < SCHEMA}
    assert len(older) >= 4
    for path, data in older.items():
        cells = [benchmark["extra_info"]["bitzones"] for benchmark in data["benchmarks"]]
        migrated = [migrations.run(data["bitzones"]), *map(migrations.cell, cells)]
        assert not old & keys_of(migrated), path.name


def test_the_calibration_set_of_a_run_stays_whole() -> None:
    path = ROOT / "docs" / "reports" / "smollm2" / "run.json"
    old = json.loads(path.read_text(encoding="utf-8"))["bitzones"]["rounding"]
    now = read_run(path).run.calibration
    assert isinstance(now, CalibrationSet)
    assert (now.sequences_sha256, list(now.sequences), now.damping) == (old["calibration_sha256"], old["sequences"], old["damping"])


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/reports/*/plan.json")), ids=lambda path: path.parent.name)
def test_committed_plans_are_read(path: Path) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    found = read_plan(path)
    assert found.plan.units == data.get("units", data.get("parts"))
    assert found.plan.schema_number == 4


def test_words_of_a_plan_are_todays() -> None:
    verdict = {"word": "no worse within", "within": 0.01, "unit": "share"}
    found = migrations.plan({"schema": 3, "accuracy": [{"verdict": verdict}, {"verdict": None}]})
    assert found == {"schema": 4, "accuracy": [{"verdict": {**verdict, "word": "non-inferior"}}, {"verdict": None}]}


def test_a_profile_of_schema_1_is_read_and_names_the_new_keys(tmp_path: Path) -> None:
    path = tmp_path / "old.toml"
    path.write_text(OLD_PROFILE, encoding="utf-8")
    with pytest.warns(BitzonesWarning) as said:
        found = profile_files.load(str(path))
    assert (found.sensitivity.tokens, found.sensitivity.batch, found.sensitivity.granularity) == (900, 8, "group")
    assert (found.calibration.tokens, found.calibration.damping, found.held_out.tokens) == (700, 0.02, 400)
    (warning,) = said
    assert all(name in str(warning.message) for name in (str(path), "[sensitivity]", "[calibration]", "held_out.tokens"))


@pytest.mark.parametrize(("old", "now"), sorted(migrations.RENAMED_KEYS.items()))
def test_an_old_key_in_a_new_profile_is_named_with_its_successor(tmp_path: Path, old: str, now: str) -> None:
    section, _, key = old.rpartition(".")
    start = OLD_PROFILE.partition("[calibration]")[0].replace("schema = 1", "schema = 2")
    text = f"{start}\n[{section or old}]\n{key if section else 'tokens'} = 5\n"
    path = tmp_path / "new.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ProfileError) as error:
        profile_files.load(str(path))
    assert old in str(error.value)
    assert now in str(error.value)


@pytest.mark.parametrize("value", [None, 3, [], "text", {"schema": True}, {"schema": 99, "parts": 1}, {"parts": 1}])
def test_what_is_no_older_value_stays_as_it_is(value: Any) -> None:
    assert migrations.cell(value) == value
    assert migrations.run(value) == value
    assert migrations.plan(value) == value


def test_nothing_that_was_given_is_changed() -> None:
    cell = {"schema": 3, "kind": "search", "start": {"parts": {"a": "qint4"}}, "rounds": [{"around": [{"part": "a"}], "trials": []}]}
    before = json.dumps(cell)
    found = migrations.cell(cell)
    assert json.dumps(cell) == before
    assert found["start"] == {"units": {"a": "qint4"}}
    assert found["rounds"] == [{"around": [{"unit": "a"}], "trials": []}]
    assert UnitLatencyCell.model_fields["kind"].default == migrations.cell({"schema": 3, "kind": "part_latency"})["kind"]


def test_kinds_of_kernels_of_older_files_are_read_off_their_names() -> None:
    """Quanto's plain packing and what an interpreter computes are unpacked at every product; its other classes are fused."""
    kernels = {"dense": 1, "WeightQBitsTensor": 2, "python": 3, "AWQWeightQBitsTensor": 4, "WeightQBytesTensor": 5}
    found = migrations.cell({"schema": 3, "kind": "latency", "kernels": kernels})
    kinds = dict(zip(kernels, ("dense", "unpacked", "unpacked", "fused", "fused"), strict=True))
    assert (found["kernel_kinds"], found["kernels"]) == (kinds, kernels)
    assert "kernel_kinds" not in migrations.cell({"schema": 3, "kind": "memory"})
