"""The public API without torch: what is offered, what an analysis and a comparison hold, and what is refused in one line."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import make_run
import pytest
from make_run import NASTY, cells, profile, run_dict, write

import bitzones
from bitzones import api
from bitzones.analysis.plan import Plan
from bitzones.analysis.reader import RunFile
from bitzones.api.dataframes import columns
from bitzones.schema.plan_cells import PlansCell, SearchCell
from bitzones.schema.profile_sections import Budget
from bitzones.schema.quality_cells import DivergenceCell

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "run.json"
SMOLLM2, H200 = ROOT / "docs" / "reports" / "smollm2" / "run.json", ROOT / "profiles" / "reference" / "h200-tiny.json"
COMMITTED = [GOLDEN, SMOLLM2, *sorted((ROOT / "profiles" / "reference").glob("*[!s].json"))]
"""Every run file of the repository; verdicts.json is none."""
ELEMENTS = set("div h3 h4 p b br small strong em code ul li table thead tbody tr th td details summary svg g rect path text line".split())
"""What a notebook may be shown: nothing that loads, links or runs."""


@pytest.fixture(scope="module")
def golden() -> bitzones.Analysis:
    return bitzones.analyze(GOLDEN)


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> bitzones.Analysis:
    """Twelve layers of which 0 and 5 are planted as sensitive and 3, 7 and 8 as robust, with whole plans."""
    return bitzones.analyze(write(tmp_path_factory.mktemp("big"), run_dict(make_run.planned())))


# --- what is offered


def test_importing_is_light() -> None:
    """Neither torch nor what reads a run file is loaded until it is used, and no public name but those that run a model loads torch."""
    lines = (
        "import sys, bitzones",
        "heavy = ('torch', 'transformers', 'pydantic', 'numpy', 'scipy', 'pandas')",
        "print([name for name in heavy if name in sys.modules])",
        "[getattr(bitzones, name) for name in bitzones.__all__ if name != 'measure']",
        "print([name for name in heavy[:2] if name in sys.modules], 'pandas' in sys.modules, 'analyze' in vars(bitzones))",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["[]", "[] False True"]


def test_every_name_of_the_api_is_offered() -> None:
    assert set(bitzones.__all__) == {*api.__all__, "__version__"}
    assert set(bitzones.__all__) <= set(dir(bitzones))
    here = [name for name in api.__all__ if name != "measure" or find_spec("torch")]
    assert all(getattr(bitzones, name) is getattr(api, name) for name in here)


def test_a_star_import_gives_the_names_of_the_api() -> None:
    names: dict[str, Any] = {}
    exec("from bitzones.api.history import *", names)
    assert {"trend", "find_baseline"} <= names.keys()
    assert [name for name in api.__all__ if name.startswith("_")] == []


@pytest.mark.skipif(find_spec("mypy") is None, reason="a type checker reads the stub")
def test_type_checkers_see_the_names_of_the_api(tmp_path: Path) -> None:
    source = tmp_path / "uses.py"
    source.write_text("import bitzones\nreveal_type(bitzones.trend)\nreveal_type(bitzones.measure)\nbitzones.nothing\n")
    config = tmp_path / "mypy.ini"  # only bitzones is read: torch and transformers alone take a minute
    config.write_text("[mypy]\nfollow_imports = skip\n[mypy-bitzones.*]\nfollow_imports = silent\n")
    command = [sys.executable, "-m", "mypy", "--no-incremental", "--config-file", str(config), "--cache-dir", str(tmp_path), str(source)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "MYPYPATH": str(ROOT / "src")}
    )
    assert "-> bitzones.api.history.Trend" in done.stdout
    assert "-> bitzones.analysis.reader.RunFile" in done.stdout or not find_spec("torch")
    assert 'Module has no attribute "nothing"' in done.stdout


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'bitzones' has no attribute 'analyse_all'"):
        _ = bitzones.analyse_all  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.xfail(name == "measure" and find_spec("bitzones.measure") is not None, reason="see there"))
        for name in bitzones.__all__
    ],
)
def test_no_public_name_is_a_module(name: str) -> None:
    """Importing a module binds its name in the package, over whatever was offered under it."""
    assert find_spec(f"bitzones.{name}") is None


def test_every_error_is_public() -> None:
    from bitzones.schema import errors

    assert set(errors.__all__) <= set(bitzones.__all__)


# --- an analysis


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_every_committed_run_is_analyzed(path: Path) -> None:
    found = bitzones.analyze(path)
    assert found.model is not None
    assert found.model.source in repr(found)
    assert sum(len(found.to_dataframe(table)) for table in found.tables) > 0
    assert bitzones.analyze(bitzones.read_run(path)).to_json() == found.to_json()
    if found.decision is None:
        assert found.model.random_weights
        with pytest.raises(bitzones.PlanError, match="there is no plan: the model has random weights"):
            _ = found.plan


def test_values_of_a_real_run() -> None:
    found = bitzones.analyze(SMOLLM2)
    assert found.plan.kl == bitzones.PlanKL(found.plan.kl.value, found.plan.kl.low, found.plan.kl.high, 25)
    assert (found.plan.kl.value, found.plan.kl.low, found.plan.kl.high) == pytest.approx((0.3814, 0.3088, 0.4648), abs=5e-5)
    assert (found.plan.stored_bytes, found.plan.average_bits) == (39_536_640, pytest.approx(2.97917, abs=1e-5))
    assert Counter(found.zones.values()) == {"SAFE": 17, "CRITICAL": 8, "TRANSITION": 5}
    assert [layer for layer, zone in found.zones.items() if zone == "CRITICAL"] == [0, 1, 3, 6, 11, 18, 22, 29]
    assert len(found.plan.formats) == sum(name != found.reference for name in found.plan.assignment.values()) > 0


def test_values_of_a_planted_run(big: bitzones.Analysis) -> None:
    """Zones of the planted layers, the verdict of the planted accuracies, and the sizes that the formats have."""
    zones = big.to_dataframe("zones").set_index("layer")["zone"].to_dict()
    assert zones == big.zones
    assert {3, 8} <= {layer for layer, zone in zones.items() if zone == "SAFE"} <= set(make_run.ROBUST)
    accuracy = big.to_dataframe("accuracy").query("task == 'science_mini' and metric == 'acc'").set_index("variant")
    assert accuracy["k"].to_dict() | make_run.RIGHT == accuracy["k"].to_dict()
    assert accuracy.loc["w2", "against_verdict"] == "worse"
    assert accuracy.loc["w2", "against_difference"] == pytest.approx((160 - 440) / 500)
    assert math.isnan(accuracy.loc["bf16", "against_difference"])
    assert set(big.plan.formats.values()) <= set(make_run.BITS)


def test_a_plan_is_written_as_the_report_has_it(golden: bitzones.Analysis, tmp_path: Path) -> None:
    report = bitzones.write_report(GOLDEN, tmp_path / "report")
    written = golden.plan.write(tmp_path / "deep" / "plan.json")
    assert written.read_bytes() == (report.path.parent / "plan.json").read_bytes()
    assert bitzones.read_plan(written) == golden.plan == report.analyses[0].plan
    assert (report.path.parent / "analysis.json").read_text(encoding="utf-8") == golden.to_json()


def test_a_plan_says_what_it_is(golden: bitzones.Analysis) -> None:
    plan = golden.plan
    assert str(plan) == repr(plan)
    assert repr(plan) == "<Plan 'plan' for 'embedded:tiny': 3.83 bits per weight, 70,592 bytes, KL 0.476 nats/token on held-out sequences>"


def test_a_plan_that_was_not_measured_has_no_kl(golden: bitzones.Analysis) -> None:
    unmeasured = golden.plan.model_copy(update={"measured_kl": None, "measured_sequences": None})
    with pytest.raises(bitzones.PlanError, match="was not measured as a whole"):
        _ = unmeasured.kl
    assert "KL" not in repr(unmeasured)


def test_too_few_sequences_show_no_bound(golden: bitzones.Analysis) -> None:
    kl = bitzones.Estimate(value=0.01, low=None, high=None)
    few: Plan = golden.plan.model_copy(update={"measured_kl": kl, "measured_sequences": 3})
    assert few.kl == bitzones.PlanKL(0.01, 0.0, math.inf, 3)
    assert not few.kl.high < 0.05


def test_a_run_without_a_budget_that_can_be_met_says_why(tmp_path: Path) -> None:
    found = bitzones.analyze(write(tmp_path, run_dict(cells(), profile(budget=Budget(average_bits=2.1)))))
    assert found.zones == {}
    assert repr(found).startswith("<Analysis of 'embedded:tiny': no plan, the budget cannot be met")
    with pytest.raises(bitzones.PlanError, match=r"^there is no plan: the budget cannot be met"):
        _ = found.plan


def test_a_run_in_memory_without_times_is_analyzed() -> None:
    """``took`` is what pytest-benchmark timed: a run that was never written has none."""
    read = bitzones.read_run(GOLDEN)
    made = RunFile(path="in memory", measured_at=None, run=read.run, cells=read.cells)
    found = bitzones.analyze(made)
    assert {(item.timed, item.seconds_s) for item in found.took} == {(0, 0)}
    assert sum(item.cells for item in found.took) == len(read.cells) - len(found.failures)
    assert found.zones == bitzones.analyze(read).zones
    with pytest.raises(ValueError, match="took and cells differ in length"):
        RunFile(path="in memory", measured_at=None, run=read.run, cells=read.cells, took=(1.0,))


@pytest.mark.parametrize("wrong", [3, None, ["run.json"]])
def test_what_is_no_run_is_refused(wrong: Any) -> None:
    with pytest.raises(bitzones.ArgumentError, match="expected a run or the path of a run file, got a"):
        bitzones.analyze(wrong)


def test_a_report_of_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(bitzones.ArgumentError, match="there is no run to report on"):
        bitzones.write_report([], tmp_path)


def test_a_report_of_several_runs(tmp_path: Path, golden: bitzones.Analysis) -> None:
    one, two = write(tmp_path, json.loads(GOLDEN.read_text()), "one.json"), bitzones.read_run(GOLDEN)
    report = bitzones.write_report([one, two], tmp_path / "both")
    assert [found.zones for found in report.analyses] == [golden.zones, golden.zones]
    assert sorted(path.parent.name for path in (tmp_path / "both").glob("*/plan.json")) == ["one", "run"]


# --- tables


def test_a_table_has_the_same_columns_whatever_was_measured(big: bitzones.Analysis) -> None:
    bare = bitzones.analyze(H200.with_name("h200-mistral-7b.json"))
    for table in big.tables:
        assert list(big.to_dataframe(table).columns) == list(bare.to_dataframe(table).columns)
    assert len(bare.to_dataframe("sensitivity")) == 0
    assert [*columns(bitzones.Verdict, "verdict"), *columns(bitzones.Interval, "share")] == ["verdict", "share", "share_low", "share_high"]


def test_no_table_leaves_a_record_in_a_cell(big: bitzones.Analysis) -> None:
    from pydantic import BaseModel

    for table in big.tables:
        for column in big.to_dataframe(table).items():
            assert not any(isinstance(value, BaseModel) for value in column[1]), (table, column[0])


@pytest.mark.parametrize(("wrong", "near"), [("accuracies", "accuracy"), ("sensitivty", "sensitivity"), ("zone", "zones")])
def test_a_wrong_table_is_refused_with_a_suggestion(golden: bitzones.Analysis, wrong: str, near: str) -> None:
    with pytest.raises(bitzones.ArgumentError) as caught:
        golden.to_dataframe(wrong)
    assert str(caught.value).startswith(f"there is no table '{wrong}'. Did you mean '{near}'? Tables: accuracy, perplexity, likelihood, ")
    with pytest.raises(bitzones.ArgumentError, match=r"^there is no table '\?'\. Tables: accuracy"):
        golden.to_dataframe("?")


def test_without_pandas_one_line_says_what_to_install(golden: bitzones.Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(bitzones.MissingPackageError) as caught:
        golden.to_dataframe("zones")
    assert str(caught.value) == "this needs the package pandas: pip install 'bitzones[pandas]'"


# --- in a notebook


def test_a_notebook_shows_the_layer_map(golden: bitzones.Analysis) -> None:
    page = golden._repr_html_()
    drawing = page[page.index("<svg") : page.index("</svg>") + len("</svg>")]
    svg = ET.fromstring(drawing)
    texts = ["".join(node.itertext()).strip() for node in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"zone", "whole layer", "layer", "0", "1", "2", "3"} <= set(texts)
    assert "embedded:tiny" in page


def test_a_run_without_a_map_has_its_answer() -> None:
    page = bitzones.analyze(H200.with_name("h200-mistral-7b.json"))._repr_html_()
    assert "<svg" not in page
    assert "No plan" in page


def test_no_name_of_a_run_becomes_html(tmp_path: Path) -> None:
    """Everything that a stranger can write into a run file comes out as text: no element, no handler, no reference."""
    found = bitzones.analyze(write(tmp_path, make_run.hostile()))
    both = bitzones.compare(write(tmp_path, make_run.hostile(), "old.json"), write(tmp_path, make_run.hostile(), "new.json"))
    for page in (found._repr_html_(), both._repr_html_()):
        assert "<script" not in page
        assert "alert(1)" in page
        tags = re.findall(r"<(\w+)([^>]*)>", page)
        assert {tag for tag, _ in tags} <= ELEMENTS
        assert not [inside for _, inside in tags if re.search(r"\bon\w+=|javascript:|href=", inside)]
    assert NASTY not in repr(found)
    assert "\n" not in repr(found) + repr(both)


# --- two runs


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run, and the same with 40 more answers wrong at 4 bits and the KL of whole variants gone."""
    folder, data = tmp_path_factory.mktemp("pair"), run_dict(make_run.planned(layers=6))
    old = write(folder, data, "old.json")
    found = [benchmark["extra_info"]["bitzones"] for benchmark in data["benchmarks"]]
    cell = next(item for item in found if (item["kind"], item["variant"], item.get("task")) == ("accuracy", "w4", "science_mini"))
    right = [at for at, value in enumerate(cell["correct"]) if value][:40]
    for at in right:
        cell["correct"][at] = False
    data["benchmarks"] = [b for b in data["benchmarks"] if b["extra_info"]["bitzones"]["kind"] != "divergence"]
    return old, write(folder, data, "new.json")


def test_a_comparison_has_a_verdict_for_every_cell(pair: tuple[Path, Path]) -> None:
    found = bitzones.compare(*pair)
    gone = {key for key, status in found.verdicts.items() if status == "missing"}
    assert gone == {("divergence", name, "") for name in ("w8", "w4", "w2", "plan")}
    assert found.verdicts["accuracy", "w4", "science_mini"] == "worse"
    assert found.verdicts["accuracy", "w8", "science_mini"] == "same"
    assert {(cell.kind, cell.variant, cell.detail) for cell in found.regressions} == gone | {("accuracy", "w4", "science_mini")}
    assert len(found.verdicts) == len(found.cells)
    assert repr(found).startswith(f"<Comparison of '{pair[0]}' and '{pair[1]}': 4 missing, 1 worse, ")


def test_the_gate_of_a_comparison(pair: tuple[Path, Path]) -> None:
    found = bitzones.compare(*pair)
    assert (found.exit_code(), found.exit_code("worse"), found.exit_code("failed"), found.exit_code("none")) == (1, 1, 0, 0)
    wide = bitzones.Gate(accuracy=0.5)
    assert bitzones.compare(*pair, gate=wide).gate == wide != found.gate == bitzones.read_run(pair[1]).run.profile.gate
    with pytest.raises(bitzones.ProfileError, match="--fail-on"):
        found.exit_code("nonsense")


def test_a_comparison_as_a_table(pair: tuple[Path, Path]) -> None:
    rows = bitzones.compare(*pair).to_dataframe()
    worse = rows[rows.metric_status == "worse"]
    assert worse[["kind", "variant", "detail", "metric_name", "metric_unit"]].values.tolist() == [
        ["accuracy", "w4", "science_mini", "acc", "share"]
    ]
    (row,) = worse.to_dict("records")
    assert row["metric_new"] - row["metric_old"] == pytest.approx(-0.08)
    assert row["metric_change_low"] < row["metric_change"] < row["metric_change_high"] < 0


def test_a_comparison_as_markdown_and_json(pair: tuple[Path, Path]) -> None:
    found = bitzones.compare(bitzones.read_run(pair[0]), bitzones.read_run(pair[1]))
    assert found.to_markdown().startswith("## bitzones: regression\n")
    assert found.to_markdown(fail_on="failed").startswith("## bitzones: no regression\n")
    assert json.loads(found.to_json())["cells"][0]["kind"] == found.cells[0].kind
    assert found._repr_html_().startswith("<h3>bitzones: regression</h3>")
    assert found.lines()[0].startswith("regression: 4 missing, 1 worse")


def test_a_run_compared_with_itself_is_refused(pair: tuple[Path, Path]) -> None:
    with pytest.raises(bitzones.RunFileError, match="compared with itself"):
        bitzones.compare(pair[0], str(pair[0]))


def test_history_is_a_folder_or_runs(pair: tuple[Path, Path], tmp_path: Path) -> None:
    runs = []
    for number in range(5):
        data = json.loads(pair[0].read_text(encoding="utf-8"))
        data["datetime"] = f"2026-11-2{number}T06:00:00+00:00"
        for benchmark in data["benchmarks"]:
            cell = benchmark["extra_info"]["bitzones"]
            if cell["kind"] == "latency":
                cell["rounds_s"] = [took * (1 + 0.1 * number) for took in cell["rounds_s"]]
        runs.append(bitzones.read_run(write(tmp_path, data, f"{number}.json")))
    by_folder, by_runs = bitzones.compare(*pair, history=tmp_path), bitzones.compare(*pair, history=runs)
    assert by_folder.repeats == by_runs.repeats
    assert by_runs.repeats is not None
    assert by_runs.repeats.drift == pytest.approx(0.13, abs=0.03)
    assert bitzones.compare(*pair).repeats is None


def test_what_a_search_and_plans_leave_out_is_no_crash(tmp_path: Path) -> None:
    """Every table of a run without whole plans, without a search and without divergences."""
    left = [cell for cell in make_run.planned() if not isinstance(cell, PlansCell | SearchCell | DivergenceCell)]
    found = bitzones.analyze(write(tmp_path, run_dict(left)))
    assert len(found.to_dataframe("plans")) == 0
    assert len(found.to_dataframe("units")) == 12
    with pytest.raises(bitzones.PlanError, match="not measured as a whole"):
        _ = found.plan.kl


# --- plans, as far as no torch is needed


@pytest.mark.parametrize("wrong", [3, None])
def test_what_is_no_plan_is_refused(wrong: Any) -> None:
    for call in (lambda: bitzones.apply(wrong, wrong), lambda: bitzones.export(wrong, "folder")):
        with pytest.raises(bitzones.ArgumentError, match=r"expected an analysis, a plan or the path of a plan\.json, got a"):
            call()


def test_a_device_that_is_none_is_refused(golden: bitzones.Analysis, tmp_path: Path) -> None:
    for call in (lambda: bitzones.export(golden, tmp_path, device="tpu"), lambda: bitzones.verify_export(tmp_path, device="tpu")):
        with pytest.raises(bitzones.ArgumentError, match=r"^'tpu' is not a device: cpu, cuda, cuda:N or auto$"):
            call()


def test_without_torch_one_line_says_what_to_install() -> None:
    lines = (
        "import sys, bitzones",
        f"plan = bitzones.analyze({str(GOLDEN)!r}).plan",
        "sys.modules['torch'] = None  # after the analysis: scipy looks torch up in sys.modules and takes None for a module",
        "for call in (bitzones.apply, bitzones.export):",
        "    try:",
        "        call(plan, 'a model or folder')",
        "    except bitzones.MissingPackageError as error:",
        "        print(error)",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60, check=True)
    assert len(done.stdout.splitlines()) == 2, done.stderr
    assert all(re.fullmatch(r"this needs the package \w+: pip install 'bitzones\[measure\]'", line) for line in done.stdout.splitlines())


def test_a_bug_of_ours_is_not_taken_for_a_missing_package() -> None:
    from bitzones.schema.requirements import needs

    with pytest.raises(ModuleNotFoundError, match="bitzones"), needs("measure"):
        import bitzones.no_such_module  # type: ignore[import-not-found]  # noqa: F401
