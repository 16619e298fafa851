"""Duets in comparisons, trends and metrics: their verdicts replace those of runs at different times, and only where they belong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import make_duet
import make_run
import pytest

import bitzones
from bitzones.analysis.reader import RunFile, read_run
from bitzones.regression.duet_changes import read_duet
from bitzones.schema.cells import FailedCell
from bitzones.schema.errors import RunFileError

DECODE, PREFILL = ("latency", "w4", "decode-b1-p64-n16"), ("latency", "w4", "prefill-b1-p64")


def written(folder: Path, name: str, change: Any = lambda data: None, when: str = "2026-11-01T00:00:00") -> Path:
    data = make_run.run_dict()
    data["datetime"] = when
    change(data)
    (folder / name).write_text(json.dumps(data), encoding="utf-8")
    return folder / name


def half_speed(data: dict[str, Any]) -> None:
    for benchmark in data["benchmarks"]:
        cell = benchmark["extra_info"]["bitzones"]
        if cell["kind"] == "latency" and (cell["variant"], cell["phase"]) == ("w4", "decode"):
            cell["rounds_s"] = [2 * took for took in cell["rounds_s"]]


@pytest.fixture
def old(tmp_path: Path) -> RunFile:
    return read_run(written(tmp_path, "old.json"))


@pytest.fixture
def new(tmp_path: Path) -> RunFile:
    """The decoding of w4 takes twice as long here: a busy hour, as far as two runs can tell."""
    return read_run(written(tmp_path, "new.json", half_speed, "2026-11-02T00:00:00"))


def test_a_duet_overrides_the_times_of_two_runs(old: RunFile, new: RunFile) -> None:
    assert bitzones.compare(old, new).verdicts[DECODE] == "worse"
    found = bitzones.compare(old, new, duet=make_duet.file(make_duet.cell(1.0)))
    assert found.verdicts[DECODE] == "same"
    assert found.duets == 1
    (metric,) = next(cell for cell in found.cells if cell.key == DECODE).metrics
    assert (metric.name, metric.n, metric.units, metric.tolerance) == ("ratio in pairs", 60, "quadruples", 0.02)
    assert found.exit_code() == 0


def test_a_duet_sees_what_two_runs_do_not(old: RunFile) -> None:
    found = bitzones.compare(old, old, duet=make_duet.file(make_duet.cell(1.10)))
    assert found.verdicts[DECODE] == "worse"
    assert found.exit_code() == 1
    assert "against itself" in next(cell for cell in found.cells if cell.key == DECODE).reason
    assert "smallest change seen" in found.to_markdown()


def test_a_duet_of_other_releases_is_refused(old: RunFile, new: RunFile) -> None:
    other = old.run.model_copy(update={"bitzones": "0.0.9"})
    with pytest.raises(RunFileError, match="other releases or another model"):
        bitzones.compare(old, new, duet=make_duet.file(make_duet.cell(1.0), old=other))


def test_a_duet_file_is_compared_by_itself(tmp_path: Path) -> None:
    cells = (make_duet.cell(1.10), make_duet.cell(1.0, detail=PREFILL[2]), make_duet.cell(1.0, of="unit_latency", detail="layers.0"))
    failed = (
        FailedCell(variant="w2", of="latency", detail="decode-b1-p64-n16", reason="NEW: the kernel ends the process"),
        FailedCell(variant="w2", of="latency", detail="prefill-b1-p64", status="not measured", reason="the new side has no such cell"),
        FailedCell(variant="w8", of="latency", detail="prefill-b1-p64", status="not measured", reason="the old side has no such cell"),
    )
    place = tmp_path / "duet.json"
    place.write_text(make_duet.file(*cells, failed=failed).model_dump_json(by_alias=True), encoding="utf-8")
    found = bitzones.read_duet(place).comparison()
    assert found.verdicts == {
        DECODE: "worse",
        PREFILL: "same",
        ("unit_latency", "w4", "layers.0"): "same",
        ("latency", "w2", "decode-b1-p64-n16"): "failed",
        ("latency", "w2", "prefill-b1-p64"): "missing",
        ("latency", "w8", "prefill-b1-p64"): "incomparable",
    }
    assert found.exit_code() == 1


def test_what_is_no_time_is_compared_as_in_runs() -> None:
    lost, kept = (make_run.accuracy("science_mini", "w4", right) for right in (300, 440))
    played = make_duet.file(make_duet.cell(1.0))
    sides = {"old": played.old.model_copy(update={"cells": (kept,)}), "new": played.new.model_copy(update={"cells": (lost,)})}
    found = bitzones.Duet(**dict(played.model_copy(update=sides))).comparison()
    assert found.verdicts["accuracy", "w4", "science_mini"] == "worse"


def test_a_tolerance_may_be_another_one_afterwards() -> None:
    played = bitzones.Duet(**dict(make_duet.file(make_duet.cell(1.10))))
    assert played.comparison(bitzones.Gate(duet_time=0.2)).verdicts[DECODE] == "same"


def test_duets_that_pytest_recorded_override_too(old: RunFile, new: RunFile) -> None:
    against = old.run.releases
    recorded = new.model_copy(update={"cells": (*new.cells, make_duet.cell(1.0, against=against)), "took": ()})
    assert bitzones.compare(old, recorded).verdicts[DECODE] == "same"
    other = new.model_copy(update={"cells": (*new.cells, make_duet.cell(1.0, against={"bitzones": "0.0.1"})), "took": ()})
    assert bitzones.compare(old, other).verdicts[DECODE] == "worse"


def test_a_trend_marks_what_a_duet_says(tmp_path: Path, old: RunFile, new: RunFile) -> None:
    assert [point.reading.cell for point in bitzones.trend(tmp_path).changes] == [DECODE]
    (tmp_path / "duet.json").write_text(make_duet.file(make_duet.cell(1.0)).model_dump_json(by_alias=True), encoding="utf-8")
    assert bitzones.trend(tmp_path).changes == ()


@pytest.mark.parametrize("form", ["bencher", "github-action-benchmark"])
def test_ratios_are_exported(tmp_path: Path, form: str) -> None:
    (tmp_path / "duet.json").write_text(make_duet.file(make_duet.cell(1.10)).model_dump_json(by_alias=True), encoding="utf-8")
    text = bitzones.export_metrics(tmp_path / "duet.json", tmp_path / "metrics", format=form)[0].read_text(encoding="utf-8")
    name = "time ratio w4 decode-b1-p64-n16"
    if form == "bencher":
        value = json.loads(text)[name]["time-ratio"]["value"]
    else:
        ((entry),) = json.loads(text)
        assert (entry["name"], entry["unit"]) == (name, "ratio")
        value = entry["value"]
    assert value == pytest.approx(1.10, abs=0.01)


@pytest.mark.parametrize("text", ["", "{", '{"in_turn": 1}', '{"benchmarks": [], "in_turn": 1}'])
def test_what_is_no_duet_is_one_line(tmp_path: Path, text: str) -> None:
    place = tmp_path / "no.json"
    place.write_text(text, encoding="utf-8")
    with pytest.raises(RunFileError) as caught:
        read_duet(place)
    assert "\n" not in str(caught.value)
    assert str(place) in str(caught.value)
    with pytest.raises(RunFileError):
        read_duet(tmp_path / "absent.json")
