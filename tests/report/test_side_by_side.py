"""One report of several runs: what each says, where they differ, and every run's own report beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_run import NASTY, cells, hostile, run_dict, small, write
from typer.testing import CliRunner

from bitzones.analysis.analyze import analyse, read_run
from bitzones.cli.main import app
from bitzones.report.side_by_side import Named, compared_page, compared_summary, names_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, collected as a user would."""
    place = tmp_path_factory.mktemp("several")
    paths = [write(place, run_dict(found), f"{name}.json") for name, found in (("arc", cells()), ("svamp", cells(sequences=24)))]
    done = CliRunner().invoke(app, ["collect", *map(str, paths), "-o", str(place / "report")])
    assert done.exit_code == 0, done.output
    assert done.output.endswith(f"report: {place / 'report' / 'report.html'}\n")
    return place / "report"


def test_one_report_and_one_for_each(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"report.html", "summary.md", "arc", "svamp"}
    assert (folder / "arc" / "plan.json").is_file()


def test_the_summary_sets_them_side_by_side(folder: Path) -> None:
    text = (folder / "summary.md").read_text(encoding="utf-8")
    assert "[arc](arc/summary.md)" in text
    assert "| arc, svamp |" in text.replace("  ", " ").replace("  ", " ")
    assert "| layer" in text


def test_the_page_has_a_map_of_layers_by_runs(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert '"row":"arc"' in text
    assert '"row":"svamp"' in text
    assert "Do the same layers matter?" in text


def test_hostile_names_are_text(tmp_path: Path) -> None:
    runs = [Named("a", analyse(read_run(write(tmp_path, hostile())))), Named("b", analyse(read_run(write(tmp_path, run_dict(small())))))]
    page = compared_page(runs)
    assert "<script>alert" not in page
    assert "<script" not in compared_summary(runs)


def test_a_fault_in_one_file_writes_nothing(tmp_path: Path) -> None:
    good, bad = write(tmp_path, run_dict(small()), "good.json"), tmp_path / "bad.json"
    bad.write_text("{")
    done = CliRunner().invoke(app, ["collect", str(good), str(bad), "-o", str(tmp_path / "report")])
    assert done.exit_code != 0
    assert "bad.json" in str(done.exception)
    assert not (tmp_path / "report").exists()


@given(st.lists(st.sampled_from(["a/run", "b/run", "b/other", "c/..x", f"d/{NASTY.replace('/', '')}", "é/é"]), min_size=1, max_size=5))
def test_names_are_folders_and_told_apart(stems: list[str]) -> None:
    names = names_of([Path(f"{stem}.json") for stem in stems])
    assert len(set(names)) == len(stems)
    for name in names:
        assert name.strip(".")
        assert "/" not in name
        assert name.isascii()
