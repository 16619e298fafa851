"""What quanto's kernels take is asked of them, a crash is an answer, and what they do not take stays as it is everywhere alike."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import tiny_models
import torch

from bitzones.backends import quantizing
from bitzones.backends.quanto import kernel_probe, packing, supported
from bitzones.backends.quanto.kernel_probe import Question

CPU = torch.device("cpu")


def asked(rows: int, columns: int, format_: str, dtype: str = "float32", compute_dtype: str = "float32") -> Question:
    return Question(rows, columns, format_, dtype, compute_dtype, "cpu")


# --- one shape


@pytest.mark.parametrize("format_", ["qint8", "qint4", "qint2:hqq", "qint4:gptq", "qint2:gptq"])
@pytest.mark.parametrize(("rows", "columns"), [(5, 100), (8, 256)])
def test_float32_products_are_torchs_own_and_take_every_shape(rows: int, columns: int, format_: str) -> None:
    assert kernel_probe.answer(asked(rows, columns, format_)) is None


def test_one_row_in_one_group_is_more_than_hqq_takes() -> None:
    """Also for calibrated formats: it is what a module gets that could not be calibrated."""
    for format_ in ("qint2:hqq", "qint2:gptq"):
        assert "axis parameter must be 0" in str(kernel_probe.answer(asked(1, 96, format_)))
    assert kernel_probe.answer(asked(1, 256, "qint2:hqq")) is None  # two groups


def test_packed_4_bit_weights_of_rows_that_are_no_multiple_of_16() -> None:
    """Raised where a weight is packed, whatever the arithmetic, since quanto packs a bfloat16 weight when it loads it."""
    assert "dividable by 16" in str(kernel_probe.answer(asked(264, 256, "qint4", "bfloat16")))
    assert kernel_probe.answer(asked(272, 256, "qint4", "bfloat16")) is None
    assert kernel_probe.answer(asked(264, 288, "qint4", "bfloat16")) is None  # groups of 96: no packed kernel


def test_a_kernel_that_computes_something_else_is_found() -> None:
    made = kernel_probe._quantized(torch.randn(8, 64, generator=torch.Generator().manual_seed(0)), "qint8")
    given = [torch.randn(3, 64)]
    assert kernel_probe._apart(made, given, torch.float32) is None
    made.register_forward_hook(lambda _module, _args, product: product * 1.25)
    assert kernel_probe._apart(made, given, torch.float32) == "products in float32 are off by 25%"
    made.register_forward_hook(lambda _module, _args, product: product * float("nan"))
    assert kernel_probe._apart(made, given, torch.float32) == "products in float32 are off by nan%"


# --- many shapes, in forks


def test_a_crash_is_the_answer_of_its_own_question_and_the_others_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(question: Question) -> str | None:
        faulthandler.disable()  # pytest's would tell of the crash
        if question.rows == 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        if question.rows == 4:
            os._exit(3)
        if question.rows == 5:
            time.sleep(30)
        return None if question.rows == 1 else f"rows {question.rows}"

    monkeypatch.setattr(kernel_probe, "answer", answer)
    monkeypatch.setattr(kernel_probe, "MOST_SECONDS", 1)
    questions = [asked(rows, 16, "qint8") for rows in (1, 2, 3, 2, 4, 5, 1, 2)]
    killed = "it crashes the process (SIGSEGV)"
    ended = "it ends the process"
    assert list(kernel_probe.answers(questions)) == [None, killed, "rows 3", killed, ended, "it takes more than 1 seconds", None, killed]


def test_questions_go_through_text_whole() -> None:
    questions = [asked(1, 96, "qint2:hqq"), asked(8, 16, "qint4:gptq", "bfloat16", "float16")]
    assert kernel_probe.asked(kernel_probe.written(questions)) == questions


@pytest.mark.parametrize("columns", [1, 24, 100, 576, 3071, 3072, 3100, 4096, 4304, 8960, 11008, 28672])
@pytest.mark.parametrize("rows", [1, 255, 511, 512, 769, 151936, 128257])
def test_a_large_shape_is_asked_for_at_the_same_remainders(rows: int, columns: int) -> None:
    found = supported.question(torch.empty(rows, columns, device="meta", dtype=torch.bfloat16), "qint4", torch.float32, CPU)
    assert packing.planned_group_size(found.columns) == packing.planned_group_size(columns)
    assert (found.rows % 256, found.columns % 512, found.columns % 384) == (rows % 256, columns % 512, columns % 384)
    assert min(rows, 256) <= found.rows < 512
    assert min(columns, 1536) <= found.columns < 3072
    assert (found.dtype, found.compute_dtype, found.device) == ("bfloat16", "float32", "cpu")


# --- a model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BITZONES_CACHE", str(tmp_path))
    return tmp_path / "kernels"


def two() -> torch.nn.Module:
    return torch.nn.ModuleDict({"gate": torch.nn.Linear(96, 1, bias=False), "up": torch.nn.Linear(96, 8, bias=False)})


PAIRS = [(name, format_) for name in ("gate", "up") for format_ in ("qint8", "qint2:hqq")]


def test_what_a_model_cannot_take_by_format_and_module(cache: Path) -> None:
    found = supported.staying(two(), PAIRS, torch.float32, CPU)
    assert list(found) == ["qint2:hqq"]
    assert list(found["qint2:hqq"]) == ["gate"]
    assert found["qint2:hqq"]["gate"].startswith(
        "quanto has no kernel for 1 output and 96 input features in float32 on cpu: ValueError: axis"
    )
    (kept,) = cache.iterdir()
    assert sorted(answer is None for answer in json.loads(kept.read_text(encoding="utf-8")).values()) == [False, True, True, True]


def test_a_child_process_asks_bfloat16_and_what_it_said_is_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, said = two().to(torch.bfloat16), list[str]()
    found = supported.staying(model, PAIRS, torch.float32, CPU, said.append)
    assert said == ["checking which of 4 shapes and formats quanto's kernels support"]
    assert {format_: list(modules) for format_, modules in found.items()} == {"qint2:hqq": ["gate"]}
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert supported.staying(model, PAIRS, torch.float32, CPU, said.append) == found
    assert len(said) == 1


def test_a_child_that_cannot_start_is_said_and_nothing_stays(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert supported.staying(two().to(torch.bfloat16), PAIRS, torch.float32, CPU, said.append) == {}
    assert said[-1].startswith("4 shapes could not be checked and are assumed to be supported: ")
    assert not cache.exists() or [json.loads(file.read_text(encoding="utf-8")) for file in cache.iterdir()] == [{}]


@pytest.mark.parametrize("text", ["", "[1]", '{"1x96 qint8": 3}', "[" * 100000])
def test_a_damaged_cache_is_asked_anew(cache: Path, text: str) -> None:
    place = supported._place()
    place.parent.mkdir(parents=True)
    place.write_text(text, encoding="utf-8")
    assert list(supported.staying(two(), PAIRS, torch.float32, CPU)) == ["qint2:hqq"]


def test_a_quantized_model_is_asked_for_too(cache: Path) -> None:
    model = tiny_models.llama(layers=1)
    quantizing.quantize(model, {"model.layers.0.mlp.up_proj": "qint8"})
    assert supported.staying(model, [("model.layers.0.mlp.up_proj", "qint8")], torch.float32, CPU) == {}
