"""The examples in the docstrings are documentation, so they have to be true.

They run in a folder that holds the files they name: ``run.json`` and ``plan.json`` (tests/golden); ``old.json`` and ``new.json``, the same
run, and the same with the decoding of ``w4`` at half its speed; ``tiny_plan.json`` for the embedded model
(docs/reports/h200-tiny), and ``tiny_task.json``, the same with another format for its first layer.
"""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from imports import MEASURING, within

import bitzones

NOT_MODULES = ("bitzones.bench", "bitzones.__main__")
"""Benchmarks are pytest's to import; ``__main__`` runs."""
NEEDED = {
    "bitzones.deploy.gptqmodel_engine": "gptqmodel",
    "bitzones.deploy.llama_engine": "llama_cpp",
    "bitzones.deploy.mlx_engine": "mlx",
    "bitzones.evaluation.harness_model": "lm_eval",
    "bitzones.evaluation.harness_scoring": "lm_eval",
    "bitzones.monitor.completions": "httpx",
    "bitzones.monitor.prometheus_metrics": "prometheus_client",
    "bitzones.serve.http": "fastapi",
}
"""Modules that import a package of an extra, which need not be installed."""
GOLDEN = Path(__file__).parent / "golden"
RUNNING = ("apply", "tune", "bundle", "measure_bundle", "export", "verify_export", "measure_export", "measure_plan")
"""Functions of the API that run a model."""
SETUP = """
from bitzones import analyze, compare
analysis, found = analyze("run.json"), compare("old.json", "new.json")
"""
"""What examples of methods start from."""


def module_names() -> list[str]:
    """Every module of the package; without torch, only those of the deciding side."""
    without = tuple(module for module, package in NEEDED.items() if not find_spec(package))
    left_out = NOT_MODULES + without + (() if find_spec("torch") else MEASURING)
    found = pkgutil.walk_packages(bitzones.__path__, "bitzones.", onerror=lambda name: None)
    return ["bitzones", *(module.name for module in found if not within(module.name, left_out))]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that examples name."""
    folder = tmp_path_factory.mktemp("examples")
    for source, name in (("run.json", "run.json"), ("run.json", "old.json"), ("plan.json", "plan.json")):
        shutil.copy(GOLDEN / source, folder / name)
    shutil.copy(GOLDEN.parents[1] / "docs" / "reports" / "h200-tiny" / "plan.json", folder / "tiny_plan.json")
    task = json.loads((folder / "tiny_plan.json").read_text(encoding="utf-8"))
    task["assignment"] |= {name: "qint2:hqq" for name in task["assignment"] if name.startswith("model.layers.0.")}
    (folder / "tiny_task.json").write_text(json.dumps(task), encoding="utf-8")
    data = json.loads((GOLDEN / "run.json").read_text(encoding="utf-8"))
    cells = [benchmark["extra_info"]["bitzones"] for benchmark in data["benchmarks"] if "bitzones" in benchmark["extra_info"]]
    (slowed,) = [cell for cell in cells if cell["kind"] == "latency" and (cell["variant"], cell["phase"]) == ("w4", "decode")]
    slowed["rounds_s"] = [2 * took for took in slowed["rounds_s"]]
    (folder / "new.json").write_text(json.dumps(data), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def beside_the_examples(examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(examples)


def runnable(module: str) -> Iterator[doctest.DocTest]:
    """A module's examples; without torch, those that load a model are left out."""
    for test in doctest.DocTestFinder().find(importlib.import_module(module)):
        if find_spec("torch") or test.name.rpartition(".")[2] not in RUNNING:
            yield test


@pytest.mark.parametrize("name", module_names())
def test_examples_are_true(name: str) -> None:
    runner = doctest.DocTestRunner()
    for test in runnable(name):
        if name.startswith("bitzones.api") and test.examples:
            exec(SETUP, test.globs)
            test.globs["bitzones"] = bitzones
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_examples_of_the_api_are_run_without_torch_too() -> None:
    found = [test for name in ("analyzing", "comparing", "history", "planning") for test in runnable(f"bitzones.api.{name}")]
    names = {test.name.rpartition(".")[2] for test in found if test.examples}
    assert {
        "analyze",
        "read_run",
        "write_report",
        "compare",
        "trend",
        "compare_releases",
        "export_metrics",
        "save_baseline",
        "read_plan",
        "Analysis",
        "Comparison",
        "to_dataframe",
    } <= names
