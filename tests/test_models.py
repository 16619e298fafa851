"""Loading from a folder, layers found by structure, and bytes that can be checked by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
import torch
from safetensors import safe_open
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from bitzones import embedded, profile
from bitzones.errors import ModelError
from bitzones.measure import models, quantizers

CPU = torch.device("cpu")


def settings(source: str | Path, dtype: str = "bfloat16") -> profile.Model:
    return profile.Model.model_validate({"source": str(source), "dtype": dtype})


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=4, n_head=2, n_positions=16))


def opt() -> PreTrainedModel:
    sizes = {"hidden_size": 64, "ffn_dim": 128, "word_embed_proj_dim": 64}
    return OPTForCausalLM(OPTConfig(vocab_size=64, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=32, **sizes))


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


@pytest.mark.parametrize("source", ["embedded:other", "/nowhere/at/all", "gpt2"])
def test_a_source_that_is_not_understood_is_said(source: str) -> None:
    assert refused(source).startswith(f"model source '{source}' is not understood: give embedded:tiny or a folder")


def test_safetensors_that_are_not_are_said(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[:1000] if file.suffix == ".safetensors" else file.read_bytes())
    assert "cannot be loaded" in refused(tmp_path)


def test_a_folder_without_a_config_is_said(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert "cannot be loaded" in refused(tmp_path)


def test_the_embedded_model_has_a_name() -> None:
    assert models._folder("embedded:tiny") == embedded.TINY


# --- structure


@pytest.mark.parametrize(("make", "names"), [
    (tiny_models.llama, ["model.layers.0", "model.layers.1", "model.layers.2"]),
    (gpt2, [f"transformer.h.{n}" for n in range(4)]),
    (opt, ["model.decoder.layers.0", "model.decoder.layers.1"]),
])  # fmt: skip
def test_decoder_layers_are_found_by_structure(make: type[PreTrainedModel], names: list[str]) -> None:
    model = make()
    found = models.decoder_layers(model)
    assert list(found) == names
    assert all(model.get_submodule(name) is layer for name, layer in found.items())


def test_lists_inside_layers_are_not_taken_for_layers() -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(8))

    model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList(Layer() for _ in range(3))})
    assert list(models.decoder_layers(model)) == ["blocks.0", "blocks.1", "blocks.2"]


def test_a_model_without_layers_is_said() -> None:
    with pytest.raises(ModelError, match="Linear has no list of decoder layers"):
        models.decoder_layers(torch.nn.Linear(2, 2))


def test_conv1d_is_said_to_be_out_of_quanto_s_reach() -> None:
    with pytest.raises(ModelError, match=r"no module of GPT2LMHeadModel is quantizable by quanto .*Conv1D"):
        models.quantizable_modules(gpt2())


def test_quantizable_modules_are_the_linear_ones_inside_the_layers() -> None:
    found = models.quantizable_modules(tiny_models.llama())
    inside = [f"self_attn.{n}_proj" for n in "qkvo"] + [f"mlp.{n}_proj" for n in ("gate", "up", "down")]
    assert found == {f"model.layers.{n}.{name}": n for n in range(tiny_models.LAYERS) for name in inside}
    assert len(models.quantizable_modules(opt())) == 2 * 6


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings(tied: bool) -> None:
    assert models.tied_embeddings(tiny_models.llama(tied=tied)) is tied


# --- bytes


def test_parts_by_hand() -> None:
    parts = models.layer_parts(tiny_models.llama(torch.bfloat16))
    width, inner = tiny_models.WIDTH, tiny_models.INNER
    parameters = 2 * width * width + 2 * width * width // 3 + 3 * width * inner
    assert [(part.name, part.layer) for part in parts] == [(f"model.layers.{n}", n) for n in range(tiny_models.LAYERS)]
    assert {(len(part.modules), part.parameters, part.reference_bytes) for part in parts} == {(7, parameters, 2 * parameters)}


@pytest.mark.parametrize("tied", [True, False])
def test_model_bytes_are_those_of_the_tensors_in_the_file(tied: bool, tmp_path: Path) -> None:
    model = tiny_models.llama(torch.bfloat16, tied=tied)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        stored = sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    assert models.model_bytes(model, {}) == stored


def test_model_bytes_with_packed_weights() -> None:
    model = tiny_models.llama(torch.bfloat16)
    name = "model.layers.0.self_attn.q_proj"
    before = models.model_bytes(model, {})
    other = tiny_models.llama(torch.bfloat16)
    quantizers.quantize(other, {name: "qint8"})
    square = tiny_models.WIDTH**2
    assert models.model_bytes(model, quantizers.packed_weights(other)) == before - 2 * square + square + 2 * tiny_models.WIDTH
