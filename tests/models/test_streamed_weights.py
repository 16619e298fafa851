"""When layers stay in their files, what the files must be like for that, and that the model computes what it computes in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_gguf
import tiny_models
import torch
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel

from bitzones.devices import device as devices
from bitzones.evaluation.swapping import swapped
from bitzones.models import loading, offload, streamed_weights, structure
from bitzones.schema.errors import ModelError, NotMeasuredError
from bitzones.schema.profile_sections import Model

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 6, 7, 8]])
UP = "model.layers.1.mlp.up_proj"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tmp_path_factory.mktemp("model"))


def settings(source: Path, placement: str, **more: str) -> Model:
    return Model.model_validate({"source": str(source), "placement": placement, **more})


def load(source: Path, placement: str, **more: str) -> PreTrainedModel:
    return loading.load(settings(source, placement, **more), CPU).model


def test_a_streamed_model_computes_what_it_computes_in_memory(folder: Path) -> None:
    stored, expected = load(folder, "stream"), load(folder, "memory")
    assert streamed_weights.is_streamed(stored)
    assert not streamed_weights.is_streamed(expected)
    assert torch.equal(stored(IDS).logits, expected(IDS).logits)
    assert structure.model_bytes(stored, {}) == structure.model_bytes(expected, {})
    assert structure.weights_sha256(stored) == structure.weights_sha256(expected)
    assert torch.equal(streamed_weights.computing(stored, torch.float32)(IDS).logits, torch.nn.Module.float(expected)(IDS).logits)


def test_what_is_outside_the_layers_computes_in_its_dtype_and_the_layers_stay_as_stored(folder: Path) -> None:
    stored = load(folder, "stream")
    made = streamed_weights.computing(stored, torch.float32)
    dtypes = {name: parameter.dtype for name, parameter in made.named_parameters()}
    inside = {name for name in dtypes if ".layers." in name}
    assert {dtypes[name] for name in inside} == {torch.bfloat16}
    assert {dtypes[name] for name in set(dtypes) - inside} == {torch.float32}
    assert {name: p.data_ptr() for name, p in made.named_parameters() if name in inside} == {
        name: p.data_ptr() for name, p in stored.named_parameters() if name in inside
    }
    assert structure.tied_embeddings(made)


def test_a_resident_layer_is_changed_alone_and_leaves_nothing(folder: Path) -> None:
    stored = load(folder, "stream")
    made = streamed_weights.computing(stored, torch.float32)
    before = made(IDS).logits
    layer = structure.decoder_layers(made)["model.layers.1"]
    with streamed_weights.resident(made, layer):
        weight = made.get_parameter(f"{UP}.weight")
        assert weight.dtype == torch.float32
        assert torch.equal(weight, stored.get_parameter(f"{UP}.weight").float())
        with swapped(made, {UP: weight * 0.5}):
            assert not torch.equal(made(IDS).logits, before)
        assert torch.equal(made(IDS).logits, before)
    assert made.get_parameter(f"{UP}.weight").dtype == torch.bfloat16
    assert torch.equal(made(IDS).logits, before)


def test_a_weight_that_is_swapped_stays_so_while_its_layer_comes_and_goes(folder: Path) -> None:
    made = streamed_weights.computing(load(folder, "stream"), torch.float32)
    before = made(IDS).logits
    with swapped(made, {UP: made.get_parameter(f"{UP}.weight").detach() * 0.5}):
        first = made(IDS).logits
        assert not torch.equal(first, before)
        assert torch.equal(made(IDS).logits, first)
    assert torch.equal(made(IDS).logits, before)


def test_of_a_model_in_memory_every_layer_is_resident(folder: Path) -> None:
    model = load(folder, "memory")
    weight = model.get_parameter(f"{UP}.weight")
    with streamed_weights.resident(model, structure.decoder_layers(model)["model.layers.1"]):
        assert model.get_parameter(f"{UP}.weight") is weight


def test_whether_to_stream_is_a_matter_of_free_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = offload.whole_bytes(load(folder, "memory"), ["qint8"], 3.0)
    lines: list[str] = []
    for free, streams in ((needed, False), (needed - 1, True)):
        monkeypatch.setattr(devices, "free_bytes", lambda device, free=free: free)
        found = loading.load(settings(folder, "auto"), CPU, lines.append, ["qint8"])
        assert streamed_weights.is_streamed(found.model) is streams
        assert found.info(torch.float32).placement == ({"0-2": "files"} if streams else {})
        assert len(lines) == streams
    assert f"they need {needed / 1e9:.1f} GB" in lines[0]
    assert not streamed_weights.is_streamed(load(folder, "memory"))


def test_weights_in_another_dtype_are_not_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_models.save(tmp_path, tiny_models.llama(torch.float32))
    with pytest.raises(ModelError, match=r"its files hold F32 where model\.dtype is bfloat16"):
        load(source, "stream")
    assert streamed_weights.is_streamed(load(source, "stream", dtype="float32"))
    monkeypatch.setattr(devices, "free_bytes", lambda device: 0)
    assert not streamed_weights.is_streamed(load(source, "auto"))  # it is in memory by now, and stays there


@pytest.mark.parametrize("kind", ["gguf", "random"])
def test_what_is_no_safetensors_is_not_streamed(kind: str, folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "m.gguf" if kind == "gguf" else f"random:{folder}/config.json"
    if kind == "gguf":
        tiny_gguf.save(tmp_path / "m.gguf")
    with pytest.raises(ModelError, match=r"model.placement = stream maps safetensors, and these weights are not in any"):
        loading.load(Model(source=str(source), placement="stream"), CPU)


def test_layers_that_are_renamed_or_put_together_when_they_are_read_are_refused(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    model = MixtralForCausalLM(MixtralConfig(vocab_size=257, num_local_experts=2, **sizes))
    torch.nn.Module.to(model, torch.bfloat16)
    with pytest.raises(ModelError, match=r"its layers cannot be streamed: model.layers.0.mlp.gate.weight is \(2, 64\)"):
        load(tiny_models.save(tmp_path, model), "stream")


def test_what_needs_a_whole_model_is_refused_in_a_line(folder: Path) -> None:
    streamed_weights.refuse(load(folder, "memory"), "anything")
    with pytest.raises(NotMeasuredError, match=r"^a thing needs the whole model in memory, and its layers are streamed from their files"):
        streamed_weights.refuse(load(folder, "stream"), "a thing")


def test_a_profile_that_names_no_placement_is_written_as_before() -> None:
    assert "placement" not in Model(source="embedded:tiny").model_dump()
    assert Model(source="embedded:tiny", placement="stream").model_dump()["placement"] == "stream"
