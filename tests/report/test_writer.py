"""A report is written whole or not at all, and what stands in its JSON can be read back."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from make_run import decided, hostile, run_dict, small, without, write

from bitzones.analysis.analyze import analyse, read_run
from bitzones.analysis.plan import PLAN_FORMAT, PLAN_SCHEMA, Plan
from bitzones.analysis.results import Analysis
from bitzones.report import writer
from bitzones.report.writer import write_report
from bitzones.schema.errors import OutputError
from bitzones.schema.sensitivity_cells import SensitivityCell

PLANNED = ["report.html", "summary.md", "overview_diagram.md", "technical_diagram.md", "analysis.json", "plan.json"]
NAMES = [*PLANNED, "layer_map.svg", "layer_map.png", "frontier.svg", "frontier.png"]
PLANLESS = [name for name in NAMES if name != "plan.json"]


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyse(read_run(write(tmp_path_factory.mktemp("run"), run_dict(small()))))


def test_every_file_and_nothing_else(analysis: Analysis, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "report"
    paths = write_report(analysis, folder)
    assert [path.name for path in paths] == NAMES
    assert {path.name for path in folder.iterdir()} == set(NAMES)
    assert all(path.stat().st_size for path in paths)


@pytest.fixture(scope="module")
def planless(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyse(read_run(write(tmp_path_factory.mktemp("run"), run_dict(without(SensitivityCell, small())))))


def test_without_a_plan_there_is_no_earlier_plan_nor_picture_of_it(analysis: Analysis, planless: Analysis, tmp_path: Path) -> None:
    write_report(analysis, tmp_path)
    assert (tmp_path / "plan.json").is_file()
    assert [path.name for path in write_report(planless, tmp_path)] == PLANLESS
    assert {path.name for path in tmp_path.iterdir()} == set(PLANLESS)
    assert Analysis.model_validate_json((tmp_path / "analysis.json").read_text(encoding="utf-8")) == planless
    assert [path.name for path in write_report(analysis, tmp_path)] == NAMES


def test_an_earlier_plan_stays_where_the_report_cannot_be_written(
    planless: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: str | bytes) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "plan.json").write_text("earlier", encoding="utf-8")
    monkeypatch.setattr(writer, "_write", full)
    with pytest.raises(OutputError, match="No space left"):
        write_report(planless, tmp_path)
    assert (tmp_path / "plan.json").read_text(encoding="utf-8") == "earlier"


def test_a_folder_in_the_plan_s_place_is_left_alone(planless: Analysis, tmp_path: Path) -> None:
    (tmp_path / "plan.json").mkdir()
    with pytest.raises(OutputError, match=r"plan\.json is a folder"):
        write_report(planless, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_json_reads_back_as_what_it_was(analysis: Analysis, tmp_path: Path) -> None:
    write_report(analysis, tmp_path)
    assert Analysis.model_validate_json((tmp_path / "analysis.json").read_text(encoding="utf-8")) == analysis
    assert Plan.model_validate_json((tmp_path / "plan.json").read_text(encoding="utf-8")) == decided(analysis).plan


def test_plan_json_has_what_applying_it_needs(analysis: Analysis, tmp_path: Path) -> None:
    write_report(analysis, tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert (plan["format"], plan["schema"], plan["reference"]) == (PLAN_FORMAT, PLAN_SCHEMA, "bf16")
    assert plan["achieved"]["stored_bytes"] <= plan["budget"]["stored_bytes"]
    assert set(plan["predicted_kl"]) == {"value", "low", "high"}
    assert plan["assignment"]["model.layers.3.o_proj"] == plan["units"]["layers.3"]
    assert plan["model"]["sha256"] == "m" * 64
    assert plan["versions"]["optimum-quanto"] == "0.2.7"


def test_the_same_bytes_twice(analysis: Analysis, tmp_path: Path) -> None:
    first, second = (write_report(analysis, tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_hostile_names_are_written_and_read_back(tmp_path: Path) -> None:
    analysis = analyse(read_run(write(tmp_path, hostile())))
    write_report(analysis, tmp_path / "report")
    assert Analysis.model_validate_json((tmp_path / "report" / "analysis.json").read_text(encoding="utf-8")) == analysis


def test_a_file_where_the_folder_should_be(analysis: Analysis, tmp_path: Path) -> None:
    (tmp_path / "report").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="the report cannot be written"):
        write_report(analysis, tmp_path / "report")
    assert (tmp_path / "report").read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_closed(analysis: Analysis, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        write_report(analysis, tmp_path)


@pytest.mark.parametrize("fails_at", range(10))
def test_a_full_disk_leaves_the_old_report(analysis: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    for name in NAMES:
        (tmp_path / name).write_text("old", encoding="utf-8")
    whole, calls = writer._write, []

    def full(path: Path, content: str | bytes) -> None:
        calls.append(path)
        if len(calls) > fails_at:
            path.write_bytes(content[:10] if isinstance(content, bytes) else content[:10].encode())
            raise OSError(28, "No space left on device")
        whole(path, content)

    monkeypatch.setattr(writer, "_write", full)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        write_report(analysis, tmp_path)
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == set(NAMES)
    assert {(tmp_path / name).read_text(encoding="utf-8") for name in NAMES} == {"old"}


def test_an_interruption_leaves_nothing_half_written(analysis: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path, content: str | bytes) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_report(analysis, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_taken_leaves_the_earlier_report_whole(analysis: Analysis, tmp_path: Path) -> None:
    (tmp_path / "summary.md").write_text("earlier")
    (tmp_path / "technical_diagram.md").mkdir()
    with pytest.raises(OutputError, match=r"technical_diagram\.md is a folder|Is a directory"):
        write_report(analysis, tmp_path)
    assert (tmp_path / "summary.md").read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["summary.md", "technical_diagram.md"]
