"""Layers and what can be quantized in them, found by structure, and bytes that can be checked by hand."""

from __future__ import annotations

from pathlib import Path

import odd_models
import pytest
import tiny_models
import torch
from safetensors import safe_open
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM, PreTrainedModel

from bitzones.backends import quantizing
from bitzones.backends.weights import packed_weights
from bitzones.models import structure
from bitzones.schema.errors import ModelError


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=4, n_head=2, n_positions=16))


def opt() -> PreTrainedModel:
    sizes = {"hidden_size": 64, "ffn_dim": 128, "word_embed_proj_dim": 64}
    return OPTForCausalLM(OPTConfig(vocab_size=64, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=32, **sizes))


@pytest.mark.parametrize(("make", "names"), [
    (tiny_models.llama, ["model.layers.0", "model.layers.1", "model.layers.2"]),
    (gpt2, [f"transformer.h.{n}" for n in range(4)]),
    (opt, ["model.decoder.layers.0", "model.decoder.layers.1"]),
])  # fmt: skip
def test_decoder_layers_are_found_by_structure(make: type[PreTrainedModel], names: list[str]) -> None:
    model = make()
    found = structure.decoder_layers(model)
    assert list(found) == names
    assert all(model.get_submodule(name) is layer for name, layer in found.items())


def test_a_model_without_layers_is_said() -> None:
    with pytest.raises(ModelError, match="Linear has no list of decoder layers"):
        structure.decoder_layers(torch.nn.Linear(2, 2))


def test_conv1d_is_said_to_be_out_of_quanto_s_reach() -> None:
    with pytest.raises(ModelError, match=r"no module of GPT2LMHeadModel is quantizable .*Conv1D"):
        structure.quantizable_modules(gpt2())


def test_what_quanto_cannot_quantize_is_counted_by_kind() -> None:
    inside = 4 * (32 * 96 + 32 * 32 + 2 * 32 * 128)
    assert structure.not_quantizable(gpt2()) == {"Conv1D": inside}
    assert structure.not_quantizable(tiny_models.llama()) == {}


def test_a_weight_that_several_layers_have_in_common_stays_and_counts_once() -> None:
    model = odd_models.model("zamba2")
    first, second = model.get_submodule("model.layers.1.shared_transformer"), model.get_submodule("model.layers.3.shared_transformer")
    found = structure.quantizable_modules(model)
    assert first.self_attn.q_proj.weight is second.self_attn.q_proj.weight
    assert not any("shared_transformer" in name for name in found)
    assert {"model.layers.1.linear", "model.layers.3.linear", "model.layers.0.mamba.in_proj"} <= set(found)
    matrices = {id(m.weight): m.weight.numel() for m in first.modules() if isinstance(m, torch.nn.Linear)}
    assert structure.not_quantizable(model)["Linear with shared weights"] == sum(matrices.values())


def test_quantizable_modules_are_the_linear_ones_inside_the_layers() -> None:
    found = structure.quantizable_modules(tiny_models.llama())
    inside = [f"self_attn.{n}_proj" for n in "qkvo"] + [f"mlp.{n}_proj" for n in ("gate", "up", "down")]
    assert found == {f"model.layers.{n}.{name}": n for n in range(tiny_models.LAYERS) for name in inside}
    assert len(structure.quantizable_modules(opt())) == 2 * 6


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings(tied: bool) -> None:
    assert structure.tied_embeddings(tiny_models.llama(tied=tied)) is tied


# --- bytes


@pytest.mark.parametrize("tied", [True, False])
def test_model_bytes_are_those_of_the_tensors_in_the_file(tied: bool, tmp_path: Path) -> None:
    model = tiny_models.llama(torch.bfloat16, tied=tied)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        stored = sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    assert structure.model_bytes(model, {}) == stored


def test_model_bytes_with_packed_weights() -> None:
    model = tiny_models.llama(torch.bfloat16)
    name = "model.layers.0.self_attn.q_proj"
    before = structure.model_bytes(model, {})
    other = tiny_models.llama(torch.bfloat16)
    quantizing.quantize(other, {name: "qint8"})
    square = tiny_models.WIDTH**2
    assert structure.model_bytes(model, packed_weights(other)) == before - 2 * square + square + 2 * tiny_models.WIDTH


def test_an_untied_head_is_named_and_a_tied_one_is_refused_to_the_byte() -> None:
    assert structure.head(tiny_models.llama(torch.bfloat16, tied=False)) == "lm_head"
    tied = tiny_models.llama(torch.bfloat16)
    with pytest.raises(ModelError, match=r"the head is tied .* would grow by ([\d,]+) bytes at qint8, ([\d,]+) bytes at qint4") as refused:
        structure.head(tied)
    for name in ("qint8", "qint4", "qint2"):
        model = tiny_models.llama(torch.bfloat16)
        quantizing.quantize(model, {"lm_head": name})
        packed = packed_weights(model)
        grown = structure.model_bytes(tied, packed) - structure.model_bytes(tied, {})
        assert grown == packed["lm_head"].stored_bytes
        assert f"{grown:,} bytes at {name}" in str(refused.value)
