"""Saved files hold the model's own names at even addresses, and what a reload would not find is an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_models
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

from bitzones.backends import checkpoint_files, quantizing
from bitzones.backends.quanto import saving
from bitzones.schema.errors import ModelError

QUERY = "model.layers.0.self_attn.q_proj"


def addresses(file: Path) -> dict[str, tuple[int, int]]:
    """Tensor -> where it begins in the file, and its bytes."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = {name: item["data_offsets"] for name, item in json.loads(data[8 : 8 + length]).items() if name != "__metadata__"}
    return {name: (8 + length + start, stop - start) for name, (start, stop) in header.items()}


def test_tensors_begin_at_what_their_size_is_a_multiple_of(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    tensors = {
        "odd": torch.arange(7, dtype=torch.int8),
        "a.scale": torch.arange(3.0, dtype=torch.bfloat16),
        "a.weight": torch.arange(96, dtype=torch.int8).reshape(4, 24),
        "b.weight": torch.arange(64, dtype=torch.uint8).reshape(2, 32),
        "empty": torch.empty(0),
        "one": torch.tensor(5.0),
    }
    save_file(tensors, file, metadata={"format": "pt"})
    checkpoint_files.align(file)
    whole = file.read_bytes()
    assert {name: (tensor.dtype, tensor.tolist()) for name, tensor in load_file(file).items()} == {
        name: (tensor.dtype, tensor.tolist()) for name, tensor in tensors.items()
    }
    with safe_open(file, framework="pt") as handle:
        assert handle.metadata() == {"format": "pt"}
    for name, (start, size) in addresses(file).items():
        assert start % min(64, (size & -size) or 64) == 0, name
    checkpoint_files.align(file)
    assert file.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_int8_weights_of_a_saved_model_can_be_read_16_bytes_at_a_time(tmp_path: Path) -> None:
    """An embedding of 257 rows and scales of odd counts lie among them, which is what moved them to odd addresses."""
    model = tiny_models.llama(torch.bfloat16)
    quantizing.quantize(model, {QUERY: "qint8", "model.layers.1.mlp.down_proj": "qint8", "model.layers.1.mlp.up_proj": "qint4"})
    saving.save(model, tmp_path)
    found = addresses(tmp_path / "model.safetensors")
    assert [found[name][0] % 16 for name in found if name.endswith("weight._data")] == [0, 0]


def experts() -> PreTrainedModel:
    """A mixture whose experts transformers holds as one tensor and saves under the names of single experts."""
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=257,
        hidden_size=64,
        intermediate_size=64,
        moe_intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=4,
        num_experts_per_tok=2,
    )
    made = Qwen3MoeForCausalLM(config).eval().requires_grad_(requires_grad=False)
    assert isinstance(made, PreTrainedModel)
    return made


def test_fused_experts_come_back_to_the_bit(tmp_path: Path) -> None:
    model = experts()
    quantizing.quantize(model, {QUERY: "qint8"})
    saving.save(model, tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())
    assert "save_pretrained" not in vars(model)
    ids = torch.arange(1, 21).reshape(2, 10)
    assert torch.equal(model(ids).logits, saving.reload(tmp_path)(ids).logits)


def test_a_tensor_that_no_file_holds_is_named(tmp_path: Path) -> None:
    model = tiny_models.llama()
    quantizing.quantize(model, {QUERY: "qint8"})
    saving.save(model, tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    lost = {name: tensor for name, tensor in tensors.items() if not name.startswith("model.layers.2.mlp")}
    save_file(lost, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"no file holds the model's tensor 'model\.layers\.2\.mlp\.gate_proj\.weight' and 2 more"):
        saving.reload(tmp_path)
