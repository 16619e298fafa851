"""The section on plans by task, its charts, and the files of the plans: figures as they were decided, and nothing without them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from make_run import analysed, cells, run_dict, write
from make_slices import ALIKE, TASKS, sliced, sliced_profile

from bitzones.analysis.analyze import analyse, read_run
from bitzones.analysis.results import Analysis
from bitzones.deploy.plan_file import read_plan
from bitzones.regression.compare import compare
from bitzones.report.charts import slice_charts
from bitzones.report.markdown import headline, slice_tables
from bitzones.report.markdown.summary import summary
from bitzones.report.writer import write_report
from bitzones.schema.errors import OutputError
from bitzones.schema.profile_sections import Gate

RIGHT = {(variant, task): right for variant, right in (("plan", 400), ("plan:science_mini", 405)) for task in TASKS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def analysis(folder: Path) -> Analysis:
    return analyse(read_run(write(folder, run_dict(sliced(right=RIGHT), sliced_profile()))))


@pytest.fixture(scope="module")
def alike(folder: Path) -> Analysis:
    return analyse(read_run(write(folder, run_dict(sliced(ALIKE, each=24), sliced_profile()), "alike.json")))


def rows(text: str, first: str) -> list[list[str]]:
    """The table of a section whose first column is called so, cell by cell."""
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("|") and line.strip("| ").split("|")[0].strip() == first)
    found = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip().strip("|").split("|")])
    return [found[0], *found[2:]]


def test_the_matrix_holds_what_was_decided(analysis: Analysis) -> None:
    assert analysis.slices is not None
    head, *body = rows(slice_tables.by_slice(analysis), "plan made for")
    assert head == ["plan made for", *TASKS, "together"]
    assert [row[0] for row in body] == ["all", *TASKS]
    for row in body:
        for on, cell in zip((*TASKS, None), row[1:], strict=True):
            made = analysis.slices.crossing(None if row[0] == "all" else row[0], on)
            assert made is not None
            assert cell.startswith(f"{made.kl.value:.3g}")
            assert made.against is None or made.against.word in cell
            assert ("**" in cell) == (row[0] == on), "own gains stand out"


def test_the_map_has_a_row_a_layer_and_marks_those_that_depend(analysis: Analysis) -> None:
    head, *body = rows(slice_tables.by_slice(analysis), "layer")
    assert head == ["layer", "all", *TASKS, "depends"]
    assert [row[0] for row in body if row[-1] == "**yes**"] == ["0", "5"]
    assert body[0][2] != body[0][3]


def test_the_headline_recommends_only_what_is_told(analysis: Analysis, alike: Analysis) -> None:
    gains, same = (next(iter(slice_tables.lines(found))) for found in (analysis, alike))
    assert gains.startswith("Plans by task: a plan of its own is recommended for science_mini and word_problems_mini.")
    assert "n = 40 held-out sequences" in gains
    assert same.startswith("Plans by task: one plan serves all")
    assert gains in summary(analysis).replace("&#126;", "~") or "Plans by task: a plan of its own" in summary(analysis)
    assert [item.answer for item in headline.answers(alike)][-1] == "Yes: one plan serves all"
    assert [item.question for item in headline.answers(analysis)][-1] == "Does one plan serve every task?"


def test_a_run_with_one_plan_says_nothing_of_it(tmp_path: Path) -> None:
    found = analysed(tmp_path, cells())
    assert slice_tables.by_slice(found) == ""
    assert list(slice_tables.lines(found)) == []
    assert slice_tables.folded(found) == ()
    assert slice_charts.views(found) == ()
    assert slice_charts.crossed(found) is None
    assert len(headline.answers(found)) == 3


def test_charts_are_of_the_language_and_hold_every_slice(analysis: Analysis) -> None:
    alt = pytest.importorskip("altair", reason="altair holds the schema of Vega-Lite")
    zones, shares = slice_charts.views(analysis)
    for view in (zones, shares):
        alt.VConcatChart.from_dict(view.chart)
        cells_ = view.chart["vconcat"][0]["data"]["values"]
        assert {cell["row"] for cell in cells_} == {"depends", "all", *TASKS, "layer"}
        assert sorted(cell["layer"] for cell in cells_ if cell["row"] == "depends") == [0, 5]
    crossed = slice_charts.crossed(analysis)
    assert crossed is not None
    alt.ConcatChart.from_dict(crossed)
    panel = crossed["concat"][0]["data"]["values"]
    assert [row["variant"] for row in panel] == ["for all", *(f"for {task}" for task in TASKS)]
    assert [row["chosen"] for row in panel] == [False, True, False]
    assert [row["word"] for row in panel] == ["", "better", "worse"]


def test_plans_are_files_that_can_be_applied_and_old_ones_go(analysis: Analysis, alike: Analysis, tmp_path: Path) -> None:
    def draw(charts: object) -> object:
        return dict

    own = tmp_path / "plans" / "mine.json"
    own.parent.mkdir()
    own.write_text(json.dumps({"format": "bitzones-plan", "origin": "search"}), encoding="utf-8")
    written = write_report(analysis, tmp_path, draw)  # type: ignore[arg-type]
    files = [path for path in written if path.parent.name == "plans"]
    assert [path.name for path in files] == [f"{task}.json" for task in TASKS]
    assert analysis.slices is not None
    for path, item in zip(files, analysis.slices.slices, strict=True):
        assert read_plan(path).plan == item.decision.plan
        assert read_plan(path).plan.name == item.name
    (tmp_path / "plans" / "gone.json").write_text(files[0].read_text(encoding="utf-8"), encoding="utf-8")
    write_report(analysis, tmp_path, draw)  # type: ignore[arg-type]
    assert {path.name for path in own.parent.iterdir()} == {"mine.json", *(path.name for path in files)}
    write_report(alike.model_copy(update={"slices": None}), tmp_path, draw)  # type: ignore[arg-type]
    assert [path.name for path in own.parent.iterdir()] == ["mine.json"], "what is somebody's own stays"


def test_a_file_in_the_way_of_the_folder_of_plans_is_said(analysis: Analysis, tmp_path: Path) -> None:
    (tmp_path / "plans").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="cannot be written: plans is a file"):
        write_report(analysis, tmp_path, lambda charts: dict)  # type: ignore[arg-type,return-value]
    assert [path.name for path in tmp_path.iterdir()] == ["plans"], "nothing is half written"


def test_two_runs_by_task_are_compared_plan_by_plan(folder: Path, analysis: Analysis) -> None:
    run = read_run(folder / "run.json")
    (delta,) = (cell for cell in compare(run, run, Gate()).cells if cell.key.kind == "slices")
    assert [metric.name for metric in delta.metrics] == [f"plan for {task}" for task in TASKS]
    assert {metric.status for metric in delta.metrics} == {"same"}
