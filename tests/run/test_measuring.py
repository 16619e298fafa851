"""Measuring from Python: models and texts in memory, and that nothing of the caller's pytest reaches the run."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import tiny_harness
import tiny_models
import torch
from transformers import LlamaForCausalLM

from bitzones.analysis.analyze import analyse
from bitzones.analysis.reader import RunFile, read_run
from bitzones.run.measuring import measure, profile_of
from bitzones.schema.cells import FailedCell
from bitzones.schema.domain_cell import DomainCell
from bitzones.schema.errors import BitzonesError, ModelError
from bitzones.schema.performance_cells import MemoryCell
from bitzones.schema.quality_cells import AccuracyCell, DivergenceCell, PerplexityCell

DOCUMENTS = [f"Document {number}. " + f"A fox numbered {number} jumps over {number + 1} lazy dogs. " * 5 for number in range(40)]
SETTINGS: dict[str, Any] = {
    "text": {"sequence_tokens": 64},
    "sensitivity": {"tokens": 500},
    "held_out": {"tokens": 400},
    "plans": {"rounds": 0, "random": 0},
    "zones": {"resamples": 50},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tmp_path_factory.mktemp("measuring") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    """As a user has it who fine-tunes: loaded, in training mode."""
    made = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    made.train().requires_grad_(True)
    return made


@pytest.fixture(scope="module")
def in_memory(model: Any, tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    return measure(
        model,
        tiny_models.tokenizer(),
        formats=["qint8", "qint4"],
        tasks=[{"name": "science_mini", "limit": 4}],
        sensitivity_text=DOCUMENTS,
        budget=7.0,
        output=tmp_path_factory.mktemp("in_memory"),
        select="sensitivity_exact or search or test_plans or accuracy and w4 or divergence and w4 or memory and bf16",
        settings=SETTINGS,
    )


def test_a_run_of_a_model_in_memory_is_analyzed_like_any_other(in_memory: RunFile) -> None:
    assert not in_memory.of(FailedCell)
    analysis = analyse(in_memory)
    assert analysis.decision is not None
    assert analysis.decision.plan.achieved.average_bits <= 7.0
    assert analysis.model is not None
    assert analysis.model.source == "memory:LlamaForCausalLM"
    assert read_run(in_memory.path) == in_memory


def test_the_caller_s_model_stays_as_it_is(in_memory: RunFile, model: Any) -> None:
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    before = tiny_models.llama(torch.bfloat16).state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_run_file_says_what_was_read(in_memory: RunFile) -> None:
    texts = in_memory.run.texts
    assert set(texts) == {"sensitivity", "held_out"}
    assert all(found.origin == "memory:list" for found in texts.values())
    assert texts["sensitivity"].tokens >= 500
    assert texts["held_out"].tokens >= 400
    assert len({found.sha256 for found in texts.values()}) == 2
    assert in_memory.run.profile.text is not None
    assert in_memory.run.profile.text.sensitivity == "memory:list"


def test_a_folder_and_a_file_of_text_give_what_memory_gives(in_memory: RunFile, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    settings = {**SETTINGS, "text": {**SETTINGS["text"], "sensitivity": str(tmp_path / "texts.txt")}}
    found = measure(folder, formats=["qint8", "qint4"], budget=7.0, select="test_divergence and w4", settings=settings)
    (here,) = found.of(DivergenceCell)
    there = next(cell for cell in in_memory.of(DivergenceCell) if cell.variant == "w4")
    assert here.kl_nats == there.kl_nats
    assert here.sequences_sha256 == there.sequences_sha256


def test_a_run_that_no_file_holds_is_analyzed(in_memory: RunFile) -> None:
    bare = RunFile(path="memory", measured_at=None, run=in_memory.run, cells=in_memory.cells)
    assert {item.timed for item in analyse(bare).took} == {0}
    with pytest.raises(ValueError, match="took and cells differ in length"):
        RunFile(path="memory", measured_at=None, run=in_memory.run, cells=in_memory.cells, took=(1.0,))


# --- the caller's pytest


def test_no_option_and_no_plugin_of_the_caller_s_pytest_reaches_the_run(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-n 2 --benchmark-disable --no-such-option")
    monkeypatch.setenv("PYTEST_PLUGINS", "no_such_plugin")
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    before = {name: value for name, value in os.environ.items() if name.startswith("PYTEST_")}
    found = measure(
        model,
        tiny_models.tokenizer(),
        formats=["qint4"],
        tasks=[{"name": "science_mini", "limit": 4}],
        output=tmp_path,
        select="accuracy and w4 or memory and (bf16 or w4)",
    )
    assert {type(cell) for cell in found.cells} == {AccuracyCell, MemoryCell}
    assert {name: value for name, value in os.environ.items() if name.startswith("PYTEST_")} == before
    lines = [line for line in capfd.readouterr().err.splitlines() if line[:1].isdigit()]
    assert [re.sub(r" \d+\.\d s.*", "", line) for line in lines] == ["1/3 memory[bf16]", "2/3 accuracy[w4-science_mini]", "3/3 memory[w4]"]
    assert all(re.fullmatch(r"\d/3 \S+ \d+\.\d s(, about \d+ (s|min) left)?", line) for line in lines)


# --- mistakes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"formats": ["int4"]}, "formats.0 = 'int4': not a format"),
        ({"tasks": ()}, "give at least one of [[tasks]], or text.sensitivity"),
        ({"settings": {"latency": {"round": 3}}}, "unknown key latency.round; did you mean rounds?"),
        ({"budget": 1.0}, "budget.average_bits = 1: no plan is that small"),
        ({"tokenizer": None}, "a model in memory needs its tokenizer"),
        ({"sensitivity_text": ["short"]}, "sensitivity.tokens asks for 2048 tokens and memory:list holds 0"),
        ({"sensitivity_text": [1, 2]}, "memory:list: item 0 is int, not text"),
        ({"sensitivity_text": "no such file.txt"}, "no such file.txt: no such file or folder"),
    ],
)
def test_a_mistake_is_one_line(changes: dict[str, Any], said: str, model: Any, tmp_path: Path) -> None:
    good: dict[str, Any] = {"tokenizer": tiny_models.tokenizer(), "formats": ["qint4"], "tasks": ["science_mini"], "output": tmp_path}
    with pytest.raises(BitzonesError) as caught:
        measure(model, **{**good, **changes})
    assert said in str(caught.value)


def test_a_dtype_that_is_no_reference_is_refused() -> None:
    with pytest.raises(ModelError, match="stored in float64; a reference is stored in one of bfloat16, float16, float32"):
        measure(tiny_models.llama(torch.float64), tiny_models.tokenizer(), formats=["qint4"], tasks=["science_mini"])


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (3.5, {"average_bits": 3.5}),
        (None, {"average_bits": 4.0}),
        ("like:w8", {"tolerance": "like:w8"}),
        ({"tolerance": 0.1}, {"tolerance": 0.1}),
        ({"latency": 0.5}, {"latency": 0.5}),
    ],
)
def test_budgets_of_every_kind(budget: Any, expected: dict[str, Any]) -> None:
    made = profile_of(
        "embedded:tiny", formats=["qint8", "qint2:hqq"], tasks=["science_mini"], text={}, budget=budget, device=None, seed=3, settings={}
    )
    assert made.budget.model_dump(exclude_none=True) == expected
    assert (made.seed, made.model.source, made.model.device) == (3, "embedded:tiny", "auto")


def test_domains_and_mixtures_are_measured_from_memory(folder: Path, tmp_path: Path) -> None:
    """Perplexity is that of the model's own loss, and a plan and a baseline are measured on domains too."""
    small = {"tokens": 640, "window": 32}
    others = [f"Line {number}: " + f"{number} boats sail past {number + 2} harbors. " * 5 for number in range(40)]
    found = measure(
        folder,
        formats=["qint8", "qint4"],
        sensitivity_text=[(DOCUMENTS, 0.5), ("generated", 0.3), ("random", 0.2)],
        domains={"mine": {"source": DOCUMENTS, **small}, "theirs": {"source": others, **small}},
        budget=7.0,
        output=tmp_path,
        select="domain and not w8",
        settings={
            **SETTINGS,
            "plans": {"rounds": 0, "random": 1, "domains": ["random"]},
            "domains": [{"name": "law", "source": "embedded:law", **small}],
        },
    )
    assert {(cell.variant, cell.domain) for cell in found.of(DomainCell)} >= {
        (variant, name) for variant in ("w4", "plan") for name in ("mine", "theirs", "law")
    }
    assert [len(part.sha256) for part in found.run.texts["sensitivity"].parts] == [64] * 3
    assert found.run.domains["mine"].origin == "memory:list"
    assert found.run.domains["theirs"].origin == "memory:list 2"
    assert found.run.domains["law"].parts[0].license == "public domain"
    analysis = analyse(found)
    assert analysis.domains is not None
    assert {item.name: item.unseen for item in analysis.domains.domains} == {"mine": False, "theirs": True, "law": True}
    assert analysis.domains.worst in {"mine", "theirs", "law"}
    assert len({(cell.domain, cell.sequences_sha256) for cell in found.of(DomainCell)}) == 3


def test_tasks_of_the_harness_are_measured_like_any_other(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    choice = tiny_harness.written(tmp_path, tiny_harness.CHOICE, "capitals", training_split="train")
    pages = tiny_harness.written(tmp_path, tiny_harness.ROLLING, "pages")
    run = measure(
        folder,
        formats=["qint8"],
        tasks=[{"lm_eval": str(choice), "limit": 6}, {"lm_eval": str(pages)}],
        sensitivity_text=DOCUMENTS,
        budget=12.0,
        output=tmp_path / "out",
        select="accuracy and not plan",
        settings=SETTINGS,
    )
    assert [(type(cell), cell.variant, cell.task) for cell in (*run.of(AccuracyCell), *run.of(PerplexityCell))] == [
        (AccuracyCell, "bf16", "capitals"),
        (AccuracyCell, "w8", "capitals"),
        (PerplexityCell, "bf16", "pages"),
        (PerplexityCell, "w8", "pages"),
    ]
    found = analyse(run)
    assert {item.task for item in found.likelihood} == {"capitals", "pages"}
    assert [item.against is not None for item in found.accuracy if item.metric == "acc"] == [False, True]
    assert found.environment is not None
    assert found.environment.versions["lm_eval"] == found.tasks[0].harness.lm_eval  # type: ignore[union-attr]
    with pytest.raises(BitzonesError, match=r"\(pages\): name text"):
        measure(folder, formats=["qint8"], tasks=[{"lm_eval": str(pages)}], budget=12.0, select="divergence and w8", settings=SETTINGS)
