"""What a run of the benches leaves in the JSON: every cell under a readable id, the failed ones with their reason."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import processes
import pytest
import tiny_models
import torch
from pydantic import TypeAdapter

from bitzones.run import recorder, runner
from bitzones.schema.cells import Cell
from bitzones.schema.run_record import SCHEMA, Environment, Run

BENCH = str(runner.bench_folder())
VARIANTS, TASKS = ("bf16", "w8", "w4", "w2", "plan"), ("science_mini", "word_problems_mini")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of which one token that no text holds has a NaN: only what reads logits can notice."""
    folder = tmp_path_factory.mktemp("plugin")
    model = tiny_models.llama(torch.bfloat16)
    model.model.embed_tokens.weight[256, 0] = math.nan
    tiny_models.save(folder / "model", model)
    (folder / "profile.toml").write_text(tiny_models.profile_text(str(folder / "model")), encoding="utf-8")
    return folder


def test_cells_have_readable_ids_variant_by_variant(place: Path) -> None:
    done = processes.run("pytest", [BENCH, "--bitzones-profile=profile.toml", "--collect-only", "-q", "-p", "no:cacheprovider"], place)
    ids = [line.rpartition("::")[2] for line in done.out.splitlines() if "::" in line]
    expected = []
    for variant in VARIANTS:
        if variant == "plan":  # what it takes to know the plan comes before what is measured of it
            expected += ["test_units", "test_layers", "test_sensitivity_exact", "test_sensitivity_fisher", "test_search", "test_plans"]
        expected += [f"test_accuracy[{variant}-{task}]" for task in TASKS]
        expected += [f"test_latency[{variant}-{phase}]" for phase in ("prefill", "decode")]
        expected += [f"test_memory[{variant}]", *([f"test_divergence[{variant}]"] if variant != "bf16" else [])]
    assert ids == [
        *expected,
        *(f"test_accuracy[random-{task}]" for task in TASKS),
    ]  # a baseline that the profile names: its answers, no more


@pytest.fixture(scope="module")
def ended(place: Path) -> processes.Done:
    chosen = ["-k", "accuracy and (bf16 or w4) or memory and not plan or layers or sensitivity_exact or latency and w4"]
    arguments = [BENCH, "--bitzones-profile=profile.toml", "--benchmark-json=run.json", "-p", "no:cacheprovider", *chosen]
    return processes.run("pytest", arguments, place)


@pytest.fixture(scope="module")
def data(ended: processes.Done, place: Path) -> Any:
    return json.loads((place / "run.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def cells(data: Any) -> dict[str, Any]:
    found = {benchmark["name"]: benchmark["extra_info"]["bitzones"] for benchmark in data["benchmarks"]}
    for cell in found.values():
        TypeAdapter[Any](Cell).validate_python(cell)
    return found


def test_a_run_with_failed_cells_goes_on_and_ends_with_1(ended: processes.Done, cells: dict[str, Any]) -> None:
    assert ended.code == 1, ended.out
    assert len(cells) == 2 * 2 + 4 + 1 + 1 + 2
    assert "5 failed, 7 passed" in ended.out


def test_failed_cells_say_why(cells: dict[str, Any]) -> None:
    failed = {
        name: (cell["of"], cell["variant"], cell["detail"], cell["reason"]) for name, cell in cells.items() if cell["kind"] == "failed"
    }
    likelihood = "the log-likelihood of an answer is NaN or infinite"
    reference = "the reference's own logits are NaN or infinite: nothing can be compared with it"
    assert failed == {
        "test_accuracy[bf16-science_mini]": ("accuracy", "bf16", "science_mini", likelihood),
        "test_accuracy[w4-science_mini]": ("accuracy", "w4", "science_mini", likelihood),
        "test_accuracy[bf16-word_problems_mini]": ("accuracy", "bf16", "word_problems_mini", likelihood),
        "test_accuracy[w4-word_problems_mini]": ("accuracy", "w4", "word_problems_mini", likelihood),
        "test_sensitivity_exact": ("sensitivity", "bf16", "exact", reference),
    }


def test_the_other_cells_are_measured(cells: dict[str, Any]) -> None:
    assert [layer["layer"] for layer in cells["test_layers"]["layers"]] == list(range(tiny_models.LAYERS))
    stored = [cells[f"test_memory[{variant}]"]["stored_bytes"] for variant in VARIANTS[:-1]]
    assert stored == sorted(stored, reverse=True)
    assert len(set(stored)) == 4
    decode = cells["test_latency[w4-decode]"]
    assert (decode["tokens"], len(decode["rounds_s"])) == (2, 3)
    assert decode["warmup_rounds"] >= 1
    assert decode["bandwidth"]["status"] == "ok"
    assert decode["gpu"]["device_used_peak"] == {"value": None, "unit": "bytes", "status": "not measured (no CUDA device)"}
    assert sum(decode["kernels"].values()) == tiny_models.LAYERS * 7
    assert "dense" not in decode["kernels"]


def test_latency_keeps_the_rounds_that_pytest_benchmark_timed(data: Any, cells: dict[str, Any]) -> None:
    for name in ("test_latency[w4-prefill]", "test_latency[w4-decode]"):
        (benchmark,) = [b for b in data["benchmarks"] if b["name"] == name]
        assert benchmark["stats"]["rounds"] == 3
        assert benchmark["stats"]["iterations"] == 1
        assert benchmark["stats"]["min"] == min(cells[name]["rounds_s"])
        assert benchmark["stats"]["max"] == max(cells[name]["rounds_s"])


def test_the_run_and_the_machine_are_recorded(data: Any) -> None:
    run = Run.model_validate(data["bitzones"])
    assert run.model is not None
    assert run.environment is not None
    assert run.variants == dict(zip(VARIANTS[:-1], ("bf16", "qint8", "qint4", "qint2:hqq"), strict=True))
    assert (run.model.layers, run.model.dtype, run.model.compute_dtype) == (tiny_models.LAYERS, "bfloat16", "float32")
    assert run.model.tied_embeddings
    machine = Environment.model_validate(data["machine_info"]["bitzones"])
    assert machine == run.environment
    assert {"torch", "transformers", "optimum-quanto"} <= set(machine.versions)
    assert data["bitzones"]["schema"] == SCHEMA


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("one\n  two"), "ValueError: one two"),
        (torch.OutOfMemoryError("tried to allocate"), "out of memory: tried to allocate"),
        (MemoryError("none left"), "out of memory: none left"),
        (RuntimeError("CPU: can't allocate memory: 5 bytes"), "out of memory: CPU: can't allocate memory: 5 bytes"),
        (ValueError("x" * 1000), "ValueError: " + "x" * recorder.REASON_LENGTH),
    ],
)
def test_a_reason_is_one_line_and_names_memory(error: Exception, said: str) -> None:
    assert recorder.reason(error) == said


STOPPED = """
from bitzones.schema.errors import NotMeasuredError
from bitzones.schema.performance_cells import MemoryCell
from bitzones.schema.record import Figure

none = Figure(value=None, unit="bytes", status="unsupported")


def cell_of(_):
    return MemoryCell(variant="bf16", stored_bytes=1, stored_bytes_by_format={"bf16": 1}, process_rss=none, process_peak_rss=none,
                      device_allocated=none, device_used=none)


def interrupted(_):
    raise KeyboardInterrupt


def impossible(_):
    raise NotMeasuredError("this machine cannot")


def test_finished(bitzones_cell):
    bitzones_cell("memory", "bf16").measure(lambda: None, cell_of)


def test_impossible(bitzones_cell):
    bitzones_cell("latency", "w4", detail="decode").measure(lambda: None, impossible)


def test_in_flight(bitzones_cell):
    bitzones_cell("memory", "w8").measure(lambda: None, interrupted)


def test_never_reached(bitzones_cell):
    bitzones_cell("memory", "w4").measure(lambda: None, cell_of)
"""


def test_the_cells_before_an_interruption_are_kept(tmp_path: Path) -> None:
    (tmp_path / "test_bench.py").write_text(STOPPED)
    done = processes.run("pytest", ["-q", "-p", "no:cacheprovider", "--rootdir=.", "--benchmark-json=run.json", "."], tmp_path)
    assert done.code == 2, done.out + done.err
    cells = {b["name"]: b["extra_info"]["bitzones"] for b in json.loads((tmp_path / "run.json").read_text())["benchmarks"]}
    assert list(cells) == ["test_finished", "test_impossible", "test_in_flight"]
    assert cells["test_finished"]["kind"] == "memory"
    assert (cells["test_impossible"]["status"], cells["test_impossible"]["reason"]) == ("not measured", "this machine cannot")
    assert (cells["test_in_flight"]["status"], cells["test_in_flight"]["reason"]) == ("failed", "interrupted")
