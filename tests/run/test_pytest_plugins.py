"""The plugin beside what else may be in a user's pytest: a cell is recorded rightly, or one line says why not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import make_run
import processes
import pytest
import pytest_benchmark  # noqa: F401  (without the measure extra this file is left out)
import tiny_models

from bitzones.analysis.plan import Plan
from bitzones.analysis.reader import read_run
from bitzones.regression.compare import compare
from bitzones.schema.cells import FailedCell, UnknownCell
from bitzones.schema.profile_sections import Gate

SUITE = """
from typing import Literal

import pytest

from bitzones.schema.kinds import register
from bitzones.schema.cells import OwnCell


@register
class SizeCell(OwnCell):
    kind: Literal["acme.size"] = "acme.size"
    size: float


def test_size(bitzones_cell, quantized):
    bitzones_cell("acme.size", quantized).measure(lambda: 3, lambda n: SizeCell(variant=quantized, size=n))


ATTEMPTS = []


def test_flaky(bitzones_cell):
    def work(n):
        ATTEMPTS.append(n)
        if len(ATTEMPTS) < 3:
            raise ValueError(f"attempt {len(ATTEMPTS)}")
        return SizeCell(variant="w4", detail="flaky", size=len(ATTEMPTS))

    bitzones_cell("acme.size", "w4", detail="flaky").measure(lambda: 3, work)


def test_plain():
    pass
"""
QUANTIZED = ("w8", "w4", "w2", "plan")


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "test_own.py").write_text(SUITE, encoding="utf-8")
    return tmp_path


def run(folder: Path, *arguments: str) -> processes.Done:
    return processes.run("pytest", ["-q", "-p", "no:cacheprovider", "--rootdir=.", *arguments], folder)


def needs(plugin: str) -> None:
    pytest.importorskip(plugin, reason=f"{plugin} is not installed")


def recorded(place: Path) -> dict[str, Any]:
    return {b["name"]: b["extra_info"]["bitzones"] for b in json.loads(place.read_text(encoding="utf-8"))["benchmarks"]}


# --- inert


def test_an_unrelated_test_may_name_its_arguments_as_it_likes(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "import pytest\n"
        "@pytest.fixture\ndef task():\n    return 1\n"
        "@pytest.fixture\ndef session():\n    return 2\n"
        "@pytest.mark.parametrize('variant', [1, 2])\ndef test_mine(variant, task, session):\n    assert variant and task and session\n"
        "@pytest.mark.parametrize('timing', [1])\ndef test_other(timing):\n    pass\n"
    )
    done = run(tmp_path)
    assert done.code == 0, done.out
    assert "3 passed" in done.out
    assert "bitzones" not in done.out


def test_loading_the_plugin_loads_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "pydantic", "numpy", "rich", "pytest_benchmark")
    source = f"import sys, bitzones.plugin; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_the_project_s_own_folders_are_collected_together() -> None:
    root = Path(__file__).parents[2]
    if not (root / "bench").is_dir():
        pytest.skip("no checkout")
    done = processes.run("pytest", ["bench", "tests/schema/test_files.py", "--collect-only", "-q", "-p", "no:cacheprovider"], root)
    assert done.code == 0, done.out + done.err
    assert "bench/test_memory.py::test_memory[bf16]" in done.out
    assert "tests/schema/test_files.py::" in done.out


# --- cells of one's own


def test_cells_are_parametrized_recorded_and_read_back(suite: Path) -> None:
    done = run(suite, "--benchmark-json=run.json", "--deselect", "test_own.py::test_flaky")
    assert done.code == 0, done.out
    found = read_run(suite / "run.json")
    assert [(cell.kind, cell.variant, cell.size) for cell in found.cells if isinstance(cell, UnknownCell)] == [  # type: ignore[attr-defined]
        ("acme.size", variant, 3.0) for variant in QUANTIZED
    ]
    assert f"{len(QUANTIZED)} of {len(QUANTIZED)} cells measured" in done.out


def test_a_failed_cell_of_one_s_own_stays_with_its_reason(suite: Path) -> None:
    done = run(suite, "--benchmark-json=run.json")
    assert done.code == 1, done.out
    failed = [cell for cell in read_run(suite / "run.json").cells if isinstance(cell, FailedCell)]
    assert [(cell.of, cell.variant, cell.detail, cell.reason) for cell in failed] == [("acme.size", "w4", "flaky", "ValueError: attempt 1")]
    assert "failed: test_flaky: ValueError: attempt 1" in done.out


def test_compare_matches_own_cells_by_kind_variant_and_detail(suite: Path) -> None:
    run(suite, "--benchmark-json=old.json", "-k", "size or flaky")
    run(suite, "--benchmark-json=new.json", "-k", "w4 or w2 or flaky")
    found = compare(read_run(suite / "old.json"), read_run(suite / "new.json"), Gate())
    assert {(cell.kind, cell.variant, cell.detail): cell.status for cell in found.cells} == {
        ("acme.size", "w8", ""): "missing",
        ("acme.size", "w4", ""): "same",
        ("acme.size", "w2", ""): "same",
        ("acme.size", "plan", ""): "missing",
        ("acme.size", "w4", "flaky"): "failed",
    }


# --- a run for a test of one's own


SHIP = """
def test_ship(bitzones_run):
    assert bitzones_run.plan.measured_kl.high < LIMIT
    assert bitzones_run.run.cells
    assert bitzones_run.no_decision is None
"""


@pytest.mark.parametrize(("limit", "code"), [("10", 0), ("1e-9", 1)])
def test_a_release_is_gated_on_a_run_that_is_there(limit: str, code: int, tmp_path: Path) -> None:
    make_run.write(tmp_path, make_run.run_dict(make_run.planned()))
    (tmp_path / "test_ship.py").write_text(SHIP.replace("LIMIT", limit))
    done = run(tmp_path, "--bitzones-run=run.json")
    assert done.code == code, done.out


def test_a_run_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "test_ship.py").write_text(SHIP.replace("LIMIT", "1"))
    done = run(tmp_path, "--bitzones-run=nowhere.json")
    assert "bitzones: nowhere.json: cannot be read: No such file or directory" in done.out.splitlines()
    assert "Traceback" not in done.out


def test_a_run_without_a_plan_says_so(tmp_path: Path) -> None:
    data = make_run.run_dict([cell for cell in make_run.cells() if cell.kind == "accuracy"])  # type: ignore[attr-defined]
    make_run.write(tmp_path, data)
    (tmp_path / "test_ship.py").write_text(SHIP.replace("LIMIT", "1"))
    assert "PlanError: there is no plan" in run(tmp_path, "--bitzones-run=run.json").out


def test_a_profile_is_measured_for_a_test_that_asks(tmp_path: Path) -> None:
    """Inside the pytest that asks, which here makes warnings errors."""
    tiny_models.save(tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n\n".join(f"Document {n}. " + f"Fox {n} jumps. " * 20 for n in range(30)), encoding="utf-8")
    (tmp_path / "small.toml").write_text(
        tiny_models.profile_text(
            "model",
            formats='formats = ["qint8"]\ntasks = []',
            tasks='[text]\nsensitivity = "text.txt"\nsequence_tokens = 64',
            model='[model]\nsource = "model"',
            sensitivity="[sensitivity]\ntokens = 200",
            held_out="[held_out]\ntokens = 200",
            plans="[plans]\nrounds = 0\nrandom = 0",
            budget="[budget]\naverage_bits = 12.0",
        )
    )
    (tmp_path / "test_ship.py").write_text(
        "import pytest\n\n\n@pytest.mark.filterwarnings('error')\ndef test_ship(bitzones_run):\n"
        "    assert bitzones_run.plan.measured_kl.value < 1\n"
        "    assert bitzones_run.run.run.texts['sensitivity'].origin == 'text.txt'\n"
    )
    done = run(tmp_path, "--bitzones-profile=small.toml")
    assert done.code == 0, done.out + done.err
    assert "1 passed" in done.out


def test_a_profile_without_tasks_has_no_cells_of_tasks(suite: Path) -> None:
    text = tiny_models.profile_text(
        "embedded:tiny",
        formats='formats = ["qint8"]\ntasks = []',
        tasks='[text]\nsensitivity = "text.txt"',
        plans="[plans]\nrandom = 0",
        budget="[budget]\naverage_bits = 12.0",
    )
    (suite / "texts.toml").write_text(text, encoding="utf-8")
    (suite / "test_tasks.py").write_text("def test_task(bitzones_cell, task):\n    assert False\n", encoding="utf-8")
    done = run(suite, "--bitzones-profile=texts.toml", "--collect-only")
    assert done.code == 0, done.out + done.err
    names = [line.partition("::")[2] for line in done.out.splitlines() if "::" in line]
    assert [name for name in names if name != "test_plain"] == ["test_size[w8]", "test_flaky", "test_size[plan]"]


# --- other plugins


@pytest.mark.parametrize("activated", [(), ("--bitzones",)])
def test_xdist_is_refused_in_one_line(activated: tuple[str, ...], suite: Path) -> None:
    needs("xdist")
    done = run(suite, "-n", "2", "-rN", *activated)  # pytest's summary repeats an error, whole where CI is set
    assert done.code != 0
    said = [line for line in (done.out + done.err).splitlines() if "cells are timed one after another, and -n of pytest-xdist" in line]
    assert len(said) == 1
    assert "Traceback" not in done.out + done.err


def test_reading_a_run_works_beside_xdist(tmp_path: Path) -> None:
    needs("xdist")
    make_run.write(tmp_path, make_run.run_dict(make_run.planned()))
    (tmp_path / "test_ship.py").write_text(SHIP.replace("LIMIT", "10"))
    assert run(tmp_path, "-n", "1", "--bitzones-run=run.json").code == 0


def test_of_a_cell_that_is_run_again_the_last_attempt_counts(suite: Path) -> None:
    needs("pytest_rerunfailures")
    done = run(suite, "--reruns=3", "--benchmark-json=run.json")
    assert done.code == 0, done.out
    assert "2 rerun" in done.out
    cells = recorded(suite / "run.json")
    assert cells["test_flaky"]["size"] == 3
    assert len(read_run(suite / "run.json").cells) == len(QUANTIZED) + 1


def test_a_shuffle_does_not_change_the_order_of_cells(suite: Path) -> None:
    needs("pytest_randomly")
    orders = set()
    for seed in ("1", "2", "3"):
        done = run(suite, f"--randomly-seed={seed}", "--collect-only")
        assert done.code == 0, done.out
        orders.add(tuple(line for line in done.out.splitlines() if "::test_size" in line or "::test_flaky" in line))
    (order,) = orders
    assert [name.partition("::")[2] for name in order] == [
        *(f"test_size[{variant}]" for variant in QUANTIZED[:-1]),
        "test_flaky",
        "test_size[plan]",
    ]


def test_a_cell_that_takes_too_long_is_kept_with_the_reason(suite: Path) -> None:
    needs("pytest_timeout")
    (suite / "test_slow.py").write_text(
        "import time\n\n\ndef test_slow(bitzones_cell):\n    bitzones_cell('memory', 'w4').measure(lambda: 9, time.sleep)\n"
    )
    done = run(suite, "--timeout=0.5", "--timeout-method=signal", "--benchmark-json=run.json", "test_slow.py")
    assert done.code == 1, done.out
    cell = recorded(suite / "run.json")["test_slow"]
    assert (cell["kind"], cell["of"], cell["reason"]) == ("failed", "memory", "Timeout (>0.5s) from pytest-timeout.")


def test_without_pytest_benchmark_one_line_says_what_is_missing(suite: Path) -> None:
    done = run(suite, "-p", "no:benchmark")
    assert "bitzones: cells are timed by pytest-benchmark, which is not loaded: pip install 'bitzones[measure]'" in done.out
    assert "Traceback" not in done.out


@pytest.mark.parametrize("column", ["variant", "quantized", "task"])
def test_cells_are_grouped_by_any_parameter(column: str, suite: Path) -> None:
    done = run(suite, f"--benchmark-group-by=param:{column}", "--deselect", "test_own.py::test_flaky")
    assert done.code == 0, done.out
    groups = set(re.findall(rf"benchmark '{column}=(\S+)'", done.out))
    assert groups == ({"-"} if column == "task" else set(QUANTIZED))


def test_a_saved_run_is_a_run_file(suite: Path) -> None:
    assert run(suite, "--benchmark-autosave", "-k", "size").code == 0
    (saved,) = (suite / ".benchmarks").rglob("*.json")
    assert len(read_run(saved).cells) == len(QUANTIZED)


def test_only_cells_are_run_where_only_benchmarks_are_asked_for(suite: Path) -> None:
    done = run(suite, "--benchmark-only", "-k", "size or plain")
    assert "4 passed, 1 skipped" in done.out


def test_the_marker_leaves_cells_out(suite: Path) -> None:
    assert "1 passed, 5 deselected" in run(suite, "-m", "not bitzones").out


def test_nothing_is_recorded_where_nothing_is_timed_and_that_is_said(suite: Path) -> None:
    done = run(suite, "--benchmark-disable", "--benchmark-json=run.json", "-k", "size")
    assert done.code == 0, done.out
    assert "--benchmark-disable: cells ran once each, and nothing was recorded" in done.out
    assert not (suite / "run.json").exists()


# --- what is documented runs


def examples() -> dict[str, str]:
    text = (Path(__file__).parents[2] / "docs" / "pytest.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", text, re.DOTALL)
    return dict(blocks)


def test_the_documented_kind_of_one_s_own_measures_every_variant(tmp_path: Path) -> None:
    (tmp_path / "test_outliers.py").write_text(examples()["test_outliers.py"], encoding="utf-8")
    done = run(tmp_path, "--bitzones-profile=tiny", "--benchmark-json=run.json", "-k", "not plan")
    assert done.code == 0, done.out
    found = {cell.variant: cell.largest for cell in read_run(tmp_path / "run.json").cells if isinstance(cell, UnknownCell)}  # type: ignore[attr-defined]
    assert list(found) == ["bf16", "w8", "w4", "w2"]
    assert found["bf16"] > 3


@pytest.mark.skipif(not hasattr(Plan, "kl"), reason="the plan has no kl yet")
def test_the_documented_gate_fails_a_plan_that_loses_more(tmp_path: Path) -> None:
    (tmp_path / "test_ship.py").write_text(examples()["test_ship.py"], encoding="utf-8")
    make_run.write(tmp_path, make_run.run_dict(make_run.planned()))
    done = run(tmp_path, "--bitzones-run=run.json")
    assert done.code == 1
    assert re.search(r"assert \d\S+ < 0\.05", done.out), done.out
