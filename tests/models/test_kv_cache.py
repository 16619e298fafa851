"""A model's cache under whichever name its transformers gives it: what comes out of one pass goes into the next."""

from __future__ import annotations

import odd_models
import tiny_models
import torch
from transformers import BertConfig, BertModel

from bitzones.models import kv_cache


@torch.no_grad()
def test_a_cache_goes_round_and_is_used() -> None:
    model = tiny_models.llama()
    ids = torch.tensor([[0, 5, 6, 7]])
    whole = model(input_ids=ids, use_cache=False)
    assert kv_cache.of_output(whole) is None
    first = model(input_ids=ids[:, :3], use_cache=True)
    kept = kv_cache.of_output(first)
    assert kept.get_seq_length() == 3
    named = kv_cache.as_argument(model, kept)
    assert list(named) == [kv_cache.name_of(model)]
    then = model(input_ids=ids[:, 3:], use_cache=True, **named)
    assert kept.get_seq_length() == 4
    assert torch.allclose(then.logits[:, -1], whole.logits[:, -1], atol=1e-5)


def test_a_model_without_a_cache_is_given_none() -> None:
    class Plain(BertModel):
        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return input_ids

    model = Plain(BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
    assert kv_cache.name_of(model) is None
    assert kv_cache.as_argument(model, object()) == {}


@torch.no_grad()
def test_a_step_after_another_batch_was_generated_is_that_of_a_fresh_model() -> None:
    """Qwen-VL keeps offsets of positions, one for each row of the last generation."""
    model = odd_models.model("qwen-vl")
    ids = torch.tensor([[5, 6, 7]])
    expected = model(input_ids=ids, use_cache=False).logits[:, -1]
    model.generate(ids.expand(4, 3), max_new_tokens=2, do_sample=False)
    first = model(input_ids=ids[:, :2], use_cache=True)
    kept = kv_cache.as_argument(model, kv_cache.of_output(first))
    kv_cache.forget(model)
    assert torch.allclose(model(input_ids=ids[:, 2:], use_cache=True, **kept).logits[:, -1], expected, atol=1e-5)
