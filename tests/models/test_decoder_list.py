"""The list of decoder layers is what a pass runs through: not the deepest list, not one inside a layer, and no list at all where unsure."""

from __future__ import annotations

import copy
from typing import Any

import odd_models
import pytest
import torch

from bitzones.models import decoder_list, structure
from bitzones.schema.errors import ModelError


@pytest.mark.parametrize(("name", "prefix", "count", "classes"), [
    ("bloom", "transformer.h", 2, {"BloomBlock"}),
    ("mpt", "transformer.blocks", 2, {"MptBlock"}),
    ("gemma3n", "model.layers", 4, {"Gemma3nTextDecoderLayer"}),
    ("gemma4", "model.layers", 4, {"Gemma4TextDecoderLayer"}),
    ("git", "git.encoder.layer", 2, {"GitLayer"}),
    ("zamba2", "model.layers", 4, {"Zamba2MambaDecoderLayer", "Zamba2HybridLayer"}),
    ("jamba", "model.layers", 4, {"JambaMambaDecoderLayer", "JambaAttentionDecoderLayer"}),
    ("lfm2", "model.layers", 4, {"Lfm2DecoderLayer"}),
    ("bamba", "model.layers", 2, {"BambaDecoderLayer"}),
    ("falcon-h1", "model.layers", 2, {"FalconH1DecoderLayer"}),
    ("mamba2", "backbone.layers", 2, {"Mamba2Block"}),
])  # fmt: skip
def test_the_layers_of_architectures_unlike_llama(name: str, prefix: str, count: int, classes: set[str]) -> None:
    found = structure.decoder_layers(odd_models.model(name))
    assert list(found) == [f"{prefix}.{number}" for number in range(count)]
    assert {type(layer).__name__ for layer in found.values()} == classes


@pytest.mark.parametrize("vision_layers", [1, 2, 5])
def test_a_vision_tower_is_not_taken_however_deep(vision_layers: int) -> None:
    model = odd_models.built(odd_models.gemma3_vl(2, vision_layers))
    assert list(structure.decoder_layers(model)) == ["model.language_model.layers.0", "model.language_model.layers.1"]


@pytest.mark.parametrize("name", ["bloom", "gemma3-vl", "jamba", "zamba2"])
def test_layers_are_told_of_a_model_without_storage(name: str) -> None:
    with torch.device("meta"):
        model = odd_models.hf.AutoModelForCausalLM.from_config(odd_models.CONFIGS[name]())
    assert list(structure.decoder_layers(model)) == list(structure.decoder_layers(odd_models.model(name)))


class Adapted(torch.nn.Module):
    """A layer with adapters of its own, more than the model has layers, that hand hidden states on as layers do."""

    def __init__(self, adapters: int = 5) -> None:
        super().__init__()
        self.adapters = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(adapters))

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, None]:
        for adapter in self.adapters:
            hidden_states = adapter(hidden_states)
        return hidden_states, None


class Toy(torch.nn.Module):
    """A model of two lists; ``plan`` names the layers that a pass runs, ``between`` is done to hidden states after each."""

    def __init__(self, plan: list[tuple[str, int]], between: Any = lambda hidden: hidden, layer: Any = Adapted) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(16, 8)
        self.layers = torch.nn.ModuleList(layer() for _ in range(3))
        self.others = torch.nn.ModuleList(layer() for _ in range(3))
        self.plan, self.between = plan, between

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool = False) -> torch.Tensor:
        hidden: torch.Tensor = self.embed(input_ids)
        for name, number in self.plan:
            hidden = self.between(getattr(self, name)[number](hidden)[0])
        return hidden


IN_ORDER = [("layers", 0), ("layers", 1), ("layers", 2)]


def test_adapters_inside_a_layer_are_not_taken() -> None:
    assert decoder_list.names(Toy(IN_ORDER)) == ("layers.0", "layers.1", "layers.2")


def test_layers_at_the_end_that_a_pass_leaves_out_are_no_decoder_layers() -> None:
    assert decoder_list.names(Toy(IN_ORDER[:2])) == ("layers.0", "layers.1")


@pytest.mark.parametrize(("model", "said"), [
    (Toy(IN_ORDER * 2), "layers is run more than once in a pass"),
    (Toy([("layers", 1), ("layers", 0)]), "layers runs layers 1, 0"),
    (Toy(IN_ORDER, lambda hidden: hidden + 1), "in layers a layer is given something else than the hidden states"),
    (Toy([*IN_ORDER, ("others", 0), ("others", 1)]), r"several lists of layers: layers \(3\), others \(2\)"),
    (Toy([]), r"none of layers, others was run"),
    (Toy(IN_ORDER, layer=lambda: torch.nn.Linear(9, 8)), "ends in RuntimeError: mat1 and mat2"),
    (torch.nn.Linear(2, 2), "Linear has no list of decoder layers"),
])  # fmt: skip
def test_what_cannot_be_told_is_refused_in_one_line(model: torch.nn.Module, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        structure.decoder_layers(model)
    assert "\n" not in str(caught.value)


def test_a_watched_model_is_left_as_it_was_and_a_copy_knows_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = odd_models.model("bloom").train()
    model.lm_head.eval()
    found = structure.decoder_layers(model)
    assert model.training
    assert not model.lm_head.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    monkeypatch.setattr(decoder_list, "names", lambda _: pytest.fail("the pass was run again"))
    assert list(structure.decoder_layers(copy.deepcopy(model))) == list(found)


def test_tokens_with_a_meaning_of_their_own_are_not_among_the_few() -> None:
    model = odd_models.built(odd_models.hf.LlamaConfig(
        vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, bos_token_id=2, eos_token_id=[3, 5]
    ))  # fmt: skip
    given = decoder_list.few_tokens(model, 2, 3)
    assert given["input_ids"].tolist() == [[1, 4, 6], [7, 8, 9]]
    assert given["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 1]]
