"""The invariants hold of every architecture here, and each is broken on purpose once, by a model that misbehaves in just that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import odd_models
import pytest
import tiny_models
import torch
from transformers import BertConfig, BertLMHeadModel, BlenderbotConfig, BlenderbotForCausalLM, DynamicCache, LlamaForCausalLM

from bitzones.models.units import model_units
from bitzones.schema.errors import ModelError
from bitzones.sensitivity import invariants


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", odd_models.CONFIGS)
def test_they_hold_of_architectures_unlike_llama(name: str, dtype: torch.dtype) -> None:
    model = odd_models.model(name)
    torch.nn.Module.to(model, dtype)
    invariants.check(model, model, model_units(model, "group"))


def refused(check: Callable[..., None], *given: object) -> str:
    with pytest.raises(ModelError) as caught:
        check(*given)
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.fixture
def model() -> LlamaForCausalLM:
    return tiny_models.llama()


def test_every_invariant_is_asked(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    names = [name for name in invariants.__all__ if name.startswith("check_")]
    for name in names:
        monkeypatch.setattr(invariants, name, lambda *_, name=name: asked.append(name))
    invariants.check(model, model, model_units(model))
    assert sorted(asked) == sorted(names)


# --- bytes


def test_a_weight_in_two_units_is_refused(model: LlamaForCausalLM) -> None:
    units = model_units(model)
    said = refused(invariants.check_bytes, model, [*units, units[0]])
    assert said.startswith("LlamaForCausalLM cannot be measured: invariant 'bytes' does not hold: units of ")
    whole = sum(p.numel() * p.element_size() for p in model.parameters())
    assert f"are not the {whole:,} bytes of the model" in said


def test_a_unit_of_part_of_the_layers_and_a_head_add_up(model: LlamaForCausalLM) -> None:
    invariants.check_bytes(model, model_units(model, "module", layers=[1]))
    untied = tiny_models.llama(tied=False)
    invariants.check_bytes(untied, model_units(untied, "layer", include=["lm_head"]))


# --- causal


def test_a_model_that_reads_both_ways_is_refused() -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 257, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    both, one = (BertLMHeadModel(BertConfig(**sizes, is_decoder=way, initializer_range=0.2)).eval() for way in (False, True))
    invariants.check_causal(one)
    said = refused(invariants.check_causal, both)
    assert "invariant 'causal' does not hold: another last token moves the logits before it by up to " in said
    assert said.endswith("where its config.json has is_decoder, set it to true")


# --- cache


def test_a_cache_of_too_few_layers_is_refused() -> None:
    """Blenderbot's has as many layers as its encoder."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 257, "d_model": 64, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "decoder_layers": 4}
    model = BlenderbotForCausalLM(BlenderbotConfig(**sizes, decoder_ffn_dim=64, encoder_layers=2, max_position_embeddings=64)).eval()
    said = refused(invariants.check_cache, model)
    assert "invariant 'cache' does not hold: decoding on its key-value cache: IndexError: " in said


def test_a_step_that_forgets_what_came_before_is_refused(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invariants.kv_cache, "of_output", lambda out: DynamicCache(config=model.config))
    said = refused(invariants.check_cache, model)
    assert "decoding on its key-value cache: logits differ by up to " in said


# --- replay


def test_a_model_that_draws_random_numbers_is_refused(model: LlamaForCausalLM) -> None:
    model.model.norm.register_forward_hook(lambda _module, _args, out: out + torch.randn_like(out))
    assert "'replay' does not hold: run twice on the same tokens, it gives logits that are off by up to " in refused(
        invariants.check_replay, model
    )


def test_a_model_that_remembers_what_it_read_is_refused(model: LlamaForCausalLM) -> None:
    kept = [0.0]

    def drift(_module: object, _args: object, out: torch.Tensor) -> torch.Tensor:
        kept[0] += 1
        return out * kept[0]

    model.lm_head.register_forward_hook(drift)
    assert "run twice on the same tokens" in refused(invariants.check_replay, model)


def test_layers_that_hand_something_on_behind_the_model_s_back_are_refused(model: LlamaForCausalLM) -> None:
    """The second layer leaves its hidden states in a place of its own, and the last one adds them: skipped, it leaves another pass's."""
    found: dict[str, torch.Tensor] = {}
    first, last = model.model.layers[0], model.model.layers[-1]
    first.mlp.register_forward_hook(lambda _module, _args, out: found.__setitem__("mean", out.mean(1, keepdim=True)))
    last.mlp.register_forward_hook(lambda _module, _args, out: out + found["mean"])
    said = refused(invariants.check_replay, model)
    assert "'replay' does not hold: entered at model.layers.1, it gives logits that are off by up to " in said
    assert said.endswith("hand on something besides what they are given and return: please report the architecture")


def test_a_layer_that_fails_without_the_ones_before_it_is_refused(model: LlamaForCausalLM) -> None:
    left: list[int] = []
    model.model.layers[0].mlp.register_forward_hook(lambda *_: left.append(1))
    model.model.layers[1].mlp.register_forward_hook(lambda *_: left.pop() and None)
    assert "entered at model.layers.1, it ends in IndexError: pop from empty list" in refused(invariants.check_replay, model)


def test_keys_and_values_that_are_not_recorded_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the replay of Gemma 4 was before: hidden states alone."""
    monkeypatch.setattr("bitzones.evaluation.layer_calls._entries", lambda *_: {})
    said = refused(invariants.check_replay, odd_models.model("gemma4"))
    assert "entered at model.layers.1, it ends in KeyError: 'sliding_attention'" in said


def test_nan_in_the_reference_is_left_to_the_cells(model: LlamaForCausalLM) -> None:
    model.model.embed_tokens.weight[256, 0] = float("nan")  # the head is tied: one logit is NaN everywhere
    invariants.check(model, model, model_units(model))
    model.model.norm.weight[0] = float("nan")
    invariants.check(model, model, model_units(model))


def test_nan_that_comes_and_goes_is_refused(model: LlamaForCausalLM) -> None:
    calls: list[int] = []

    def spoil(_module: object, _args: object, out: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return out * (float("nan") if len(calls) == 4 else 1)  # after the layers were found, a pass, and one over other tokens

    model.lm_head.register_forward_hook(spoil)
    said = refused(invariants.check_replay, model)
    assert "run twice on the same tokens, it gives logits that are off by NaN or infinity in other places" in said


# --- sweep


def test_a_weight_that_an_earlier_layer_reads_too_is_refused(model: LlamaForCausalLM) -> None:
    """The first layer's projection is computed with the last layer's weight, under no name that says so."""
    first, last = model.model.layers[0].mlp.up_proj, model.model.layers[-1].mlp.up_proj
    first.forward = lambda given: torch.nn.functional.linear(given, last.weight)
    said = refused(invariants.check_sweep, model, model_units(model))
    assert "'sweep' does not hold: model.layers.2 with its weights times 0.9 measures a KL that is " in said
    assert "nats per token off; its weights are read by another layer than theirs" in said


def test_a_weight_that_cannot_be_swapped_is_refused(model: LlamaForCausalLM) -> None:
    """A layer that keeps its weight in another form, and computes with that only while the weight is the one that it knows."""
    module = model.model.layers[1].mlp.up_proj
    known = module.weight.data_ptr()
    plain: Any = module.forward
    module.forward = lambda given: plain(given) * (1 if module.weight.data_ptr() == known else 2)
    said = refused(invariants.check_sweep, model, model_units(model))
    assert "'sweep' does not hold: model.layers.1 with its weights times 1 measures a KL that is " in said


def test_nan_on_a_change_is_refused(model: LlamaForCausalLM) -> None:
    module = model.model.layers[0].mlp.up_proj
    known = module.weight.data_ptr()
    plain: Any = module.forward
    module.forward = lambda given: plain(given) * (1 if module.weight.data_ptr() == known else float("nan"))
    assert "measures a KL that is inf nats per token off" in refused(invariants.check_sweep, model, model_units(model))


def test_a_unit_in_the_wrong_layer_is_refused(model: LlamaForCausalLM) -> None:
    invariants.check_sweep(model, model_units(model, "module"))
    units = [unit.model_copy(update={"layer": 2}) for unit in model_units(model)]  # all of them entered at the last layer
    assert "'sweep' does not hold: model.layers.0 with its weights times 0.9" in refused(invariants.check_sweep, model, units)
