"""What is decided together, on tiny random models of many architectures: groups are found by what reads one tensor, not by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny_models
import torch
import transformers as hf
from scipy.stats import kurtosis

from bitzones.models import structure, units
from bitzones.schema.errors import ModelError

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16}
OPT = {"vocab_size": 64, "hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "word_embed_proj_dim": 64}
NEOX = {name: SIZES[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")}

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
ATTENTION = {"attn.qkv": QKV, "attn.o": ("self_attn.o_proj",)}
GATED = {**ATTENTION, "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"), "mlp.down": ("mlp.down_proj",)}
FUSED = {"attn.qkv": ("self_attn.qkv_proj",), "attn.o": ("self_attn.o_proj",), "mlp.gate_up": ("mlp.gate_up_proj",)}
PLAIN = {"attn.qkv": QKV, "attn.o": ("self_attn.out_proj",), "mlp.up": ("fc1",), "mlp.down": ("fc2",)}
DENSE = {"attn.qkv": ("attention.query_key_value",), "attn.o": ("attention.dense",)}

MODELS: dict[str, tuple[Callable[[], Any], dict[str, tuple[str, ...]]]] = {
    "llama": (lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES)), GATED),
    "mistral": (lambda: hf.MistralForCausalLM(hf.MistralConfig(**SIZES)), GATED),
    "qwen3": (lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**SIZES, head_dim=16)), GATED),
    "gemma": (lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**SIZES, head_dim=16)), GATED),
    "phi3": (lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**SIZES)), {**FUSED, "mlp.down": ("mlp.down_proj",)}),
    "opt": (lambda: hf.OPTForCausalLM(hf.OPTConfig(**OPT)), PLAIN),
    "gpt_neox": (
        lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**NEOX)),
        {**DENSE, "mlp.up": ("mlp.dense_h_to_4h",), "mlp.down": ("mlp.dense_4h_to_h",)},
    ),
    "mixtral": (lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**SIZES, num_local_experts=4)), ATTENTION),
    "qwen3_moe": (lambda: hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(**SIZES, **EXPERTS)), ATTENTION),
}


@pytest.fixture(scope="module", params=list(MODELS))
def case(request: pytest.FixtureRequest) -> tuple[hf.PreTrainedModel, dict[str, tuple[str, ...]]]:
    torch.manual_seed(0)
    make, groups = MODELS[request.param]
    return make().eval().requires_grad_(False), groups


def test_groups_are_the_modules_that_read_one_tensor(case: tuple[hf.PreTrainedModel, dict[str, tuple[str, ...]]]) -> None:
    model, groups = case
    found = units.fused_groups(model)
    for number, name in enumerate(structure.decoder_layers(model)):
        mine = {
            group: {module.removeprefix(f"{name}.") for module in modules} for (layer, group), modules in found.items() if layer == number
        }
        assert mine == {group: set(modules) for group, modules in groups.items()}


@pytest.mark.parametrize("granularity", ["layer", "group", "module"])
def test_every_module_is_in_one_unit(case: tuple[hf.PreTrainedModel, dict[str, tuple[str, ...]]], granularity: units.Granularity) -> None:
    model, groups = case
    made = units.model_units(model, granularity)
    named = [module for unit in made for module in unit.modules]
    assert sorted(named) == sorted(structure.quantizable_modules(model))
    assert len({unit.name for unit in made}) == len(made) == {"layer": 2, "group": 2 * len(groups), "module": len(named)}[granularity]
    assert sum(unit.parameters for unit in made) == sum(model.get_parameter(f"{name}.weight").numel() for name in named)
    assert [unit.layer for unit in made] == sorted(unit.layer for unit in made)
    assert all(unit.name == f"{list(structure.decoder_layers(model))[unit.layer]}.{unit.group}" for unit in made if unit.group)


def test_the_experts_of_a_layer_are_one_group() -> None:
    class Experts(torch.nn.Module):
        """Uses the first expert only: a token visits a few."""

        def __init__(self) -> None:
            super().__init__()
            self.experts = torch.nn.ModuleList(
                torch.nn.ModuleDict({"up": torch.nn.Linear(64, 8), "down": torch.nn.Linear(8, 64)}) for _ in range(4)
            )
            self.shared = torch.nn.Linear(64, 64)

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return self.experts[0]["down"](self.experts[0]["up"](hidden)) + self.shared(hidden)

    model = hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES)).eval()
    for layer in model.model.layers:
        layer.mlp = Experts()
    found = {group: modules for (layer, group), modules in units.fused_groups(model).items() if layer == 1}
    assert set(found) == {"attn.qkv", "attn.o", "mlp.experts", "mlp.shared"}
    assert sorted(found["mlp.experts"]) == sorted(f"model.layers.1.mlp.experts.{n}.{end}" for n in range(4) for end in ("up", "down"))


def test_what_a_mixture_keeps_in_one_tensor_is_said_to_be_out_of_reach() -> None:
    make, _ = MODELS["mixtral"]
    model = make()
    assert set(structure.not_quantizable(model)) == {"MixtralExperts", "MixtralTopKRouter"}
    assert structure.not_quantizable(model)["MixtralExperts"] == 2 * 4 * (2 * 128 * 64 + 64 * 128)


def test_watching_leaves_no_hook() -> None:
    model = tiny_models.llama()
    units.fused_groups(model)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_only_the_named_layers() -> None:
    model = tiny_models.llama()
    assert {unit.layer for unit in units.model_units(model, "group", [0, 2])} == {0, 2}
    assert [unit.name for unit in units.model_units(model, "layer", [1])] == ["model.layers.1"]
    with pytest.raises(ModelError, match=r"sensitivity\.layers names layer 7, but the model has 3, numbered from 0"):
        units.model_units(model, "layer", [0, 7])


def test_units_by_hand() -> None:
    made = units.model_units(tiny_models.llama(torch.bfloat16))
    width, inner = tiny_models.WIDTH, tiny_models.INNER
    parameters = 2 * width * width + 2 * width * width // 3 + 3 * width * inner
    assert [(unit.name, unit.layer) for unit in made] == [(f"model.layers.{n}", n) for n in range(tiny_models.LAYERS)]
    assert {(len(unit.modules), unit.parameters, unit.reference_bytes) for unit in made} == {(7, parameters, 2 * parameters)}


def test_kurtosis_is_that_of_all_weights_together() -> None:
    model = tiny_models.llama()
    (unit,) = units.model_units(model, "layer", [1])
    values = torch.cat([model.get_parameter(f"{name}.weight").flatten() for name in unit.modules])
    assert unit.weight_kurtosis == pytest.approx(kurtosis(values.numpy(), fisher=False), rel=1e-5)


def test_kurtosis_of_weights_as_large_as_the_format_holds() -> None:
    model = tiny_models.llama(torch.bfloat16)
    before = units.model_units(model, "module")[0].weight_kurtosis
    model.get_submodule("model.layers.0.self_attn.q_proj").weight.mul_(1e38)
    assert units.model_units(model, "module")[0].weight_kurtosis == pytest.approx(before, rel=1e-2)
    model.get_submodule("model.layers.0.self_attn.q_proj").weight.zero_()
    assert units.model_units(model, "module")[0].weight_kurtosis is None


def test_a_single_module_knows_what_it_would_be_fused_into() -> None:
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES))
    found = {unit.name: unit.fused for unit in units.model_units(model, "module", (1,))}
    expected = {f"model.layers.1.{name}": group for group, names in GATED.items() for name in names}
    assert found == expected
    assert {unit.fused for unit in units.model_units(model, "group")} == {unit.fused for unit in units.model_units(model)} == {None}
