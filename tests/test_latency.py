"""What a round of each phase does: the right tokens, on a fresh cache, with only the phase itself timed. Never how long it takes."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from transformers import LlamaForCausalLM

from bitzones import profile
from bitzones.measure import cache, latency, quantizers, structure

SHAPE = profile.Latency(batch=2, prompt_tokens=5, new_tokens=3, rounds=4, warmup_rounds=2)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_models.llama()


def test_prefill_reads_the_prompt_and_gives_the_next_token_s_logits(model: LlamaForCausalLM) -> None:
    timed = latency.prepare("prefill", model, SHAPE, seed=3)
    (ids,) = timed.setup()
    out = timed.run(ids)
    assert ids.shape == (2, 5)
    assert out.logits.shape == (2, 1, 257)
    assert cache.of_output(out).get_seq_length() == 5
    torch.testing.assert_close(out.logits[:, 0], model(ids).logits[:, -1], rtol=1e-4, atol=1e-4)
    assert timed.tokens == 10


def test_decode_writes_greedily_after_the_prompt(model: LlamaForCausalLM) -> None:
    timed = latency.prepare("decode", model, SHAPE, seed=3)
    (ids,) = latency.prepare("prefill", model, SHAPE, seed=3).setup()
    cache, token = timed.setup()
    assert cache.get_seq_length() == 5
    last = timed.run(cache, token)
    assert cache.get_seq_length() == 5 + 3
    for _ in range(1 + 3):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(last, ids[:, -1:])
    assert timed.tokens == 2 * 3


def test_every_round_starts_from_the_prompt_again(model: LlamaForCausalLM) -> None:
    timed = latency.prepare("decode", model, SHAPE, seed=3)
    ends = [timed.run(*timed.setup()) for _ in range(2)]
    assert torch.equal(*ends)
    assert timed.setup()[0] is not timed.setup()[0]


def test_the_seed_chooses_the_prompt(model: LlamaForCausalLM) -> None:
    prompts = [latency.prepare("prefill", model, SHAPE, seed).setup()[0] for seed in (1, 1, 2)]
    assert torch.equal(prompts[0], prompts[1])
    assert not torch.equal(prompts[0], prompts[2])


def test_an_end_token_does_not_end_a_round_early() -> None:
    model = tiny_models.llama()
    for parameter in model.parameters():
        parameter.zero_()  # every logit equal: greedy writes token 0, the end token
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    timed = latency.prepare("decode", model, SHAPE, seed=3)
    prepared = timed.setup()
    model.register_forward_hook(count)
    assert int(timed.run(*prepared)[0]) == 0
    assert calls == 3


def test_kernels_are_counted_over_the_layers_only() -> None:
    model = tiny_models.llama()
    assert latency.kernels(model) == {"dense": 7 * tiny_models.LAYERS}
    quantizers.quantize(model, {"model.layers.0.mlp.up_proj": "qint4", "model.layers.1.mlp.up_proj": "qint8"})
    assert latency.kernels(model) == {"dense": 7 * tiny_models.LAYERS - 2, "WeightQBitsTensor": 1, "WeightQBytesTensor": 1}


@pytest.mark.parametrize("format_name", ["qint8", "qint4", "qint2:hqq"])
def test_quantized_models_decode_too(format_name: str) -> None:
    model = tiny_models.llama(layers=1)
    quantizers.quantize(model, dict.fromkeys(structure.quantizable_modules(model), format_name))
    timed = latency.prepare("decode", model, SHAPE, seed=3)
    assert timed.run(*timed.setup()).shape == (2, 1)
    assert sum(timed.kernels.values()) == 7
    assert "dense" not in timed.kernels


def test_the_cell_keeps_the_raw_rounds(model: LlamaForCausalLM) -> None:
    timed = latency.prepare("prefill", model, SHAPE, seed=0)
    cell = latency.cell("w4", "prefill", SHAPE, timed, [0.3, 0.1, 0.2, 0.4])
    assert cell.rounds_s == (0.3, 0.1, 0.2, 0.4)
    assert (cell.variant, cell.phase, cell.batch, cell.prompt_tokens, cell.tokens, cell.warmup_rounds) == ("w4", "prefill", 2, 5, 10, 2)
    assert cell.kernels == {"dense": 7 * tiny_models.LAYERS}
