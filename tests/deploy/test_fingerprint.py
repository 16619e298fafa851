"""What a model answers is the same for the same model, and tells another one apart."""

from __future__ import annotations

import hashlib

import pytest
import tiny_models
import torch

from bitzones.deploy import fingerprint
from bitzones.schema.errors import ModelError, NonFiniteError


def test_tokens_are_fixed_and_lie_in_the_vocabulary() -> None:
    model = tiny_models.llama()
    first, again = fingerprint.fixed_tokens(model), fingerprint.fixed_tokens(model)
    assert torch.equal(first, again)
    assert first.shape == (fingerprint.SEQUENCES, fingerprint.TOKENS)
    assert 0 <= int(first.min()) < int(first.max()) < model.config.vocab_size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_answers_are_the_logits_and_their_bits(dtype: torch.dtype) -> None:
    model = tiny_models.llama(dtype)
    ids = fingerprint.fixed_tokens(model)
    answer = fingerprint.answer(model, ids)
    logits = model(ids).logits
    assert torch.equal(answer.logits, logits)
    assert answer.dtype == str(dtype).removeprefix("torch.")
    assert answer.sha256 == hashlib.sha256(logits.view(torch.int8).numpy().tobytes()).hexdigest()
    torch.testing.assert_close(answer.log_probabilities.exp().sum(-1), torch.ones(ids.shape))


def test_another_model_answers_otherwise() -> None:
    model = tiny_models.llama()
    ids = fingerprint.fixed_tokens(model)
    before = fingerprint.answer(model, ids).sha256
    model.model.layers[0].mlp.down_proj.weight.data[0, 0] += 0.1
    assert fingerprint.answer(model, ids).sha256 != before


def test_nan_and_foreign_tokens_are_errors() -> None:
    model = tiny_models.llama()
    with pytest.raises(ModelError, match="token id 257 is not one"):
        fingerprint.answer(model, torch.tensor([[1, 257]]))
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(NonFiniteError, match="computes NaN"):
        fingerprint.answer(model, fingerprint.fixed_tokens(model))


def test_logits_that_a_model_widens_are_of_the_arithmetic_before_that() -> None:
    model = tiny_models.llama(torch.bfloat16)
    model.lm_head.register_forward_hook(lambda module, args, output: output.float())
    found = fingerprint.answer(model, fingerprint.fixed_tokens(model))
    assert found.logits.dtype == torch.float32
    assert found.dtype == "bfloat16"
