"""What the installed release does, measured the plain way: as the rest of the measuring side sees it, and said where it lacks something."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import processes
import pytest
import tiny_models
import torch
from optimum import quanto

from bitzones.analysis.reader import RunFile, read_run
from bitzones.backends import linear, quantizing
from bitzones.backends.quanto import compat, saving
from bitzones.data import prompts, tasks
from bitzones.evaluation import accuracy, kl
from bitzones.run import release
from bitzones.schema import profile_files, profile_sections
from bitzones.schema.cells import FailedCell, ReleaseCell
from bitzones.schema.performance_cells import MemoryCell
from bitzones.schema.quality_cells import AccuracyCell, DivergenceCell

FORMATS = 'formats = ["qint8", "qint4", "qint2", "qint2:hqq"]'
VARIANTS = {"f32": "f32", "w8": "qint8", "w4": "qint4", "w2-hqq": "qint2:hqq", "w2-max": "qint2"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    tiny_models.save(folder / "model", tiny_models.llama())
    (folder / "small.toml").write_text(
        tiny_models.profile_text(
            str(folder / "model"), formats=FORMATS, model=f'[model]\nsource = "{folder / "model"}"\ndtype = "float32"\ndevice = "cpu"'
        ),
        encoding="utf-8",
    )
    return folder


@pytest.fixture(scope="module")
def found(place: Path) -> RunFile:
    done = processes.run("bitzones", ["release", "small.toml", "-o", "found.json"], place)
    assert done.code == 0, done.err
    assert done.out == "wrote found.json\n"
    return read_run(place / "found.json")


def measured(place: Path) -> dict[str, Any]:
    chosen = profile_files.load(str(place / "small.toml"))
    small = chosen.model_copy(update={"tasks": chosen.tasks[:1], "formats": ("qint8", "qint2:hqq")})
    return release.measure(small, lambda message: None)


def read(place: Path, data: dict[str, Any]) -> RunFile:
    (place / "other.json").write_text(json.dumps(data), encoding="utf-8")
    return read_run(place / "other.json")


def test_every_variant_has_every_cell(found: RunFile) -> None:
    assert found.run.variants == VARIANTS
    assert Counter(cell.kind for cell in found.cells) == {"accuracy": 10, "memory": 5, "divergence": 4, "release": 4}
    assert all(cell.unasked == cell.missed == () and cell.modules == 7 * tiny_models.LAYERS for cell in found.of(ReleaseCell))
    assert {cell.reload for cell in found.of(ReleaseCell)} == {"same"}


def test_the_plain_way_answers_as_the_shared_cache_does(place: Path, found: RunFile) -> None:
    chosen, model = profile_files.load(str(place / "small.toml")), tiny_models.llama()
    for task in chosen.tasks:
        asked = prompts.asked(tasks.load(task.name, limit=task.limit), tiny_models.tokenizer())
        expected = accuracy.measure(model, tiny_models.tokenizer(), asked, "f32", task.batch)
        (cell,) = [cell for cell in found.of(AccuracyCell) if (cell.task, cell.variant) == (task.name, "f32")]
        assert (cell.item_ids, cell.predictions, cell.correct) == (expected.item_ids, expected.predictions, expected.correct)
        assert cell.predictions_normalized == expected.predictions_normalized
        assert cell.gold_nll_nats == pytest.approx(expected.gold_nll_nats, rel=1e-4)


def test_solved_items_and_the_chat_are_those_of_the_profile(place: Path) -> None:
    chosen = profile_files.load(str(place / "small.toml"))
    shown = [task.model_copy(update={"fewshot": 2, "chat_template": True}) for task in chosen.tasks]
    small = chosen.model_copy(update={"tasks": tuple(shown), "formats": ("qint8", "qint2:hqq"), "model": _with_chat(place, chosen.model)})
    cells = [cell for cell in read(place, release.measure(small, lambda message: None)).of(AccuracyCell) if cell.variant == "f32"]
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = tiny_models.CHATML
    for task, cell in zip(tasks.of_profile(small).values(), cells, strict=True):
        expected = accuracy.measure(tiny_models.llama(), tokenizer, prompts.asked(task, tokenizer), "f32", 4)
        assert (cell.fewshot, cell.chat_template) == (2, True)
        assert cell.gold_nll_nats == pytest.approx(expected.gold_nll_nats, rel=1e-4)


def _with_chat(place: Path, model: profile_sections.Model) -> profile_sections.Model:
    folder = place / "chat"
    shutil.copytree(place / "model", folder)
    (folder / "chat_template.jinja").write_text(tiny_models.CHATML, encoding="utf-8")
    return model.model_copy(update={"source": str(folder)})


def test_formats_lose_what_the_checked_way_of_quantizing_loses(place: Path, found: RunFile) -> None:
    reference = tiny_models.llama()
    chosen = profile_files.load(str(place / "small.toml"))
    bench = release.release_bench(chosen, lambda message: None)
    for cell in found.of(DivergenceCell):
        model = tiny_models.llama()
        quantizing.quantize(model, dict.fromkeys(bench.names, VARIANTS[cell.variant]))
        with torch.no_grad():
            expected = kl.whole(reference, model, bench.batches, len(bench.sensitivity_set.sequences))
        assert sum(expected) > 0
        assert cell.kl_nats == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_stored_bytes_are_those_of_the_file_that_is_saved(place: Path, found: RunFile) -> None:
    model = tiny_models.llama()
    compat.quantize(model, "qint4", [name for name, m in model.named_modules() if linear.is_quantizable(m) and name != "lm_head"])
    saving.save(model, place / "saved")
    on_disk = (place / "saved" / "model.safetensors").stat().st_size
    (cell,) = [cell for cell in found.of(MemoryCell) if cell.variant == "w4"]
    assert 0 <= on_disk - cell.stored_bytes < 0.3 * on_disk  # the names in the file's head: many, for so small a model


def test_what_a_release_lacks_is_said_and_the_rest_is_measured(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(quanto, "HqqOptimizer")
    monkeypatch.delattr(quanto, "QuantizedModelForCausalLM")
    run = read(place, measured(place))
    lacking = run.of(FailedCell)
    assert {(cell.of, cell.variant, cell.status) for cell in lacking} == {
        (of, "w2", "not measured") for of in ("accuracy", "memory", "divergence", "release")
    }
    assert {cell.reason for cell in lacking} == {"this release of quanto has no HqqOptimizer"}
    (cell,) = run.of(ReleaseCell)
    assert (cell.variant, cell.reload) == ("w8", "unsupported")
    assert "no QuantizedModelForCausalLM" in cell.reason


def test_modules_that_nobody_asked_for_are_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quanto 0.2.4 takes a list of names and quantizes every module."""
    whole = quanto.quantize
    monkeypatch.setattr(quanto, "quantize", lambda model, include=None, **options: whole(model, **options))
    assert {cell.unasked for cell in read(place, measured(place)).of(ReleaseCell)} == {("lm_head",)}


def test_a_release_that_takes_modules_is_given_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """As quanto 0.2.1 does, which has no names to include."""
    whole = quanto.quantize

    def by_module(model: torch.nn.Module, modules: Any = None, **options: Any) -> None:
        whole(model, include=[name for name, module in model.named_modules() if module in modules], **options)

    monkeypatch.setattr(quanto, "quantize", by_module)
    model = tiny_models.llama()
    compat.quantize(model, "qint8", ["model.layers.0.mlp.up_proj"])
    assert compat.quantized_modules(model) == ["model.layers.0.mlp.up_proj"]


def test_a_model_that_comes_back_otherwise_differs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = compat.save_and_load

    def damaged(model: Any, folder: Path) -> torch.nn.Module:
        loaded = saved(model, folder)
        loaded.get_input_embeddings().weight.data[:] *= 1.5  # type: ignore[operator]
        return loaded

    monkeypatch.setattr(compat, "save_and_load", damaged)
    (cell, _) = read(place, measured(place)).of(ReleaseCell)
    assert (cell.reload, cell.reason[:21]) == ("differs", "logits differ by up t")


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "profile.toml").write_text(tiny_models.profile_text("/nowhere/model"), encoding="utf-8")
    done = processes.run("bitzones", ["release", "profile.toml", "-o", "out.json"], tmp_path)
    assert done.code == 2
    assert done.err.strip().splitlines()[-1].startswith("bitzones: model source '/nowhere/model' is not understood")
    assert not (tmp_path / "out.json").exists()
