"""Several runs through the API: the same answers as the commands, and one clear error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from make_run import run_dict, write

import bitzones


@pytest.fixture
def slower(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs, a day apart; in the second one, decoding takes twice as long."""
    old = run_dict()
    new = json.loads(json.dumps(old))
    old["datetime"], new["datetime"] = "2026-11-01T00:00:00+00:00", "2026-11-02T00:00:00+00:00"
    for benchmark in new["benchmarks"]:
        cell = benchmark["extra_info"]["bitzones"]
        if cell["kind"] == "latency" and cell["phase"] == "decode":
            cell["rounds_s"] = [2 * seconds for seconds in cell["rounds_s"]]
    return write(tmp_path, old, "old.json"), write(tmp_path, new, "new.json")


def test_a_trend_of_a_folder_is_that_of_its_runs(slower: tuple[Path, Path]) -> None:
    of_folder, of_runs = bitzones.trend(slower[0].parent), bitzones.trend(list(slower))
    assert of_folder == of_runs
    assert {point.change for point in of_runs.changes} == {"worse"}
    assert {point.reading.kind for point in of_runs.changes} == {"time"}
    assert {point.run for point in of_runs.changes} == {1}


def test_a_trend_as_a_table_and_a_page(slower: tuple[Path, Path]) -> None:
    found = bitzones.trend(list(slower))
    rows = found.to_dataframe()
    assert len(rows) == len(found.points)
    assert (rows.change == "worse").sum() == len(found.changes) > 0
    assert rows.measured_at.nunique() == 2
    assert found.to_html().lower().startswith("<!doctype html>")


def test_one_run_is_no_trend(slower: tuple[Path, Path]) -> None:
    with pytest.raises(bitzones.RunFileError, match="a trend takes two runs or more, and there is one"):
        bitzones.trend([slower[0]])


def test_releases_are_compared_with_the_one_that_is_named(slower: tuple[Path, Path]) -> None:
    found = bitzones.compare_releases(list(slower), baseline="old")
    assert (found.name, [item.name for item in found.releases]) == ("old", ["new"])
    assert {cell.kind for cell in found.releases[0].compared.cells if cell.status == "worse"} == {"latency"}
    assert found.to_markdown().startswith("# Releases")
    assert [line.partition(":")[0] for line in found.lines()] == ["new"]
    with pytest.raises(bitzones.RunFileError, match="no run file is named 'older'"):
        bitzones.compare_releases(list(slower), baseline="older")


def test_metrics_are_files_of_the_format(slower: tuple[Path, Path], tmp_path: Path) -> None:
    files = bitzones.export_metrics(slower[0], tmp_path / "metrics")
    assert [file.name for file in files] == ["customSmallerIsBetter.json", "customBiggerIsBetter.json"]
    assert all({"name", "unit", "value"} <= entry.keys() for file in files for entry in json.loads(file.read_text(encoding="utf-8")))
    with pytest.raises(bitzones.ArgumentError, match="format 'csv' is not one of github-action-benchmark, bencher"):
        bitzones.export_metrics(slower[0], tmp_path, format="csv")


def test_a_kept_run_is_found_for_a_new_one(slower: tuple[Path, Path], tmp_path: Path) -> None:
    storage = tmp_path / "kept"
    kept = bitzones.save_baseline(slower[0], name="main", storage=storage)
    (broken := storage / "broken.json").write_text('{"bitzones": {}, "benchmarks": []}', encoding="utf-8")
    assert [(item.path, item.run is None) for item in bitzones.list_baselines(storage)] == [(broken, True), (kept, False)]
    assert bitzones.find_baseline(slower[1], storage).path == str(kept)
    with pytest.raises(bitzones.RunFileError, match="it holds no other run of bitzones"):
        bitzones.find_baseline(slower[0], storage)
