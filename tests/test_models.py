"""Loading a model from wherever it is, and one line where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
import torch
from transformers import LlamaForCausalLM

from bitzones import profile
from bitzones.errors import ModelError
from bitzones.measure import models

CPU = torch.device("cpu")


def settings(source: str | Path, dtype: str = "bfloat16") -> profile.Model:
    return profile.Model.model_validate({"source": str(source), "dtype": dtype})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tmp_path_factory.mktemp("model"))


# --- loading


def test_a_folder_is_loaded_as_it_is_stored(folder: Path) -> None:
    loaded = models.load(settings(folder), CPU)
    original = tiny_models.llama(torch.bfloat16)
    assert isinstance(loaded.model, LlamaForCausalLM)
    assert loaded.model.dtype == torch.bfloat16
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    for name, parameter in original.named_parameters():
        assert torch.equal(parameter, loaded.model.get_parameter(name)), name
    assert loaded.tokenizer("ab")["input_ids"] == tiny_models.tokenizer()("ab")["input_ids"]


def test_another_dtype_is_made(folder: Path) -> None:
    assert models.load(settings(folder, "float32"), CPU).model.dtype == torch.float32


def test_the_hash_is_that_of_the_weights(folder: Path, tmp_path: Path) -> None:
    other = tiny_models.llama(torch.bfloat16)
    other.model.norm.weight[0] = 2.0
    tiny_models.save(tmp_path, other)
    first, again, changed = (models.load(settings(source), CPU).sha256 for source in (folder, folder, tmp_path))
    assert first == again != changed


def test_what_the_run_file_says(folder: Path) -> None:
    info = models.load(settings(folder), CPU).info(torch.float32)
    width, inner = tiny_models.WIDTH, tiny_models.INNER
    in_layer = 2 * width * width + 2 * width * width // 3 + 3 * width * inner + 2 * width
    assert info.parameters == 257 * width + tiny_models.LAYERS * in_layer + width
    assert (info.layers, info.dtype, info.compute_dtype, info.tied_embeddings) == (tiny_models.LAYERS, "bfloat16", "float32", True)
    assert (info.source, info.architecture) == (str(folder), "LlamaForCausalLM")


def refused(source: str | Path) -> str:
    with pytest.raises(ModelError) as caught:
        models.load(settings(source), CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_that_could_run_code_are_not_loaded(folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path, "exploded"),)  # type: ignore[return-value]

    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(Bomb(), tmp_path / "pytorch_model.bin")
    said = refused(tmp_path)
    assert "no *.safetensors" in said
    assert not (tmp_path / "exploded").exists()


def test_safetensors_that_are_not_are_said(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[:1000] if file.suffix == ".safetensors" else file.read_bytes())
    assert "cannot be loaded" in refused(tmp_path)


def test_a_folder_without_a_config_is_said(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert "cannot be loaded" in refused(tmp_path)
