"""What a round of each phase does: the right tokens, on a fresh cache, with only the phase itself timed. Never how long it takes."""

from __future__ import annotations

import re
from typing import Any

import odd_models
import pytest
import tiny_models
import torch
from transformers import LlamaForCausalLM, StaticCache

from bitzones.backends import quantizing
from bitzones.backends.quanto import packing
from bitzones.devices import nvml
from bitzones.models import kv_cache as cache
from bitzones.models import structure, units
from bitzones.profiling import latency
from bitzones.schema.errors import OutOfMemoryError
from bitzones.schema.latency_grid import Timing
from bitzones.schema.record import Figure

PREFILL, DECODE = Timing("prefill", 2, 5), Timing("decode", 2, 5, 3)
NO_GPU = nvml.open_gpu(None)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_models.llama()


def test_prefill_reads_the_prompt_and_gives_the_next_token_s_logits(model: LlamaForCausalLM) -> None:
    timed = latency.prepare(model, PREFILL, seed=3)
    (ids,) = timed.setup()
    out = timed.run(ids)
    assert ids.shape == (2, 5)
    assert out.logits.shape == (2, 1, 257)
    assert cache.of_output(out).get_seq_length() == 5
    torch.testing.assert_close(out.logits[:, 0], model(ids).logits[:, -1], rtol=1e-4, atol=1e-4)
    assert timed.tokens == 10


def test_decode_writes_greedily_after_the_prompt(model: LlamaForCausalLM) -> None:
    timed = latency.prepare(model, DECODE, seed=3)
    (ids,) = latency.prepare(model, PREFILL, seed=3).setup()
    cache, token = timed.setup()
    assert cache.get_seq_length() == 5
    last = timed.run(cache, token)
    assert cache.get_seq_length() == 5 + 3
    for _ in range(1 + 3):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(last, ids[:, -1:])
    assert timed.tokens == 2 * 3


def test_every_round_starts_from_the_prompt_again(model: LlamaForCausalLM) -> None:
    timed = latency.prepare(model, DECODE, seed=3)
    ends = [timed.run(*timed.setup()) for _ in range(2)]
    assert torch.equal(*ends)
    assert timed.setup()[0].get_seq_length() == 5


@pytest.mark.parametrize("name", ["gemma3-vl", "git", "bloom", "mamba2", "lfm2"])
def test_prompts_are_plain_tokens_of_the_text_model(name: str) -> None:
    made = odd_models.model(name)
    (ids,) = latency.prepare(made, Timing("prefill", 8, 100), seed=0).setup()
    assert not set(ids.flatten().tolist()) & {0, 250 if name == "gemma3-vl" else 0}
    assert int(ids.max()) == 256
    timed = latency.prepare(made, DECODE, seed=0)
    assert timed.run(*timed.setup()).shape == (2, 1)


def test_the_seed_chooses_the_prompt(model: LlamaForCausalLM) -> None:
    prompts = [latency.prepare(model, PREFILL, seed).setup()[0] for seed in (1, 1, 2)]
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

    timed = latency.prepare(model, DECODE, seed=3)
    prepared = timed.setup()
    model.register_forward_hook(count)
    assert int(timed.run(*prepared)[0]) == 0
    assert calls == 3


def test_kernels_are_counted_over_the_layers_only() -> None:
    model = tiny_models.llama()
    assert latency.kernels(model) == {"dense": 7 * tiny_models.LAYERS}
    quantizing.quantize(model, {"model.layers.0.mlp.up_proj": "qint4", "model.layers.1.mlp.up_proj": "qint8"})
    assert latency.kernels(model) == {"dense": 7 * tiny_models.LAYERS - 2, "WeightQBitsTensor": 1, "WeightQBytesTensor": 1}


@pytest.mark.parametrize("format_name", ["qint8", "qint4", "qint2:hqq"])
def test_quantized_models_decode_too(format_name: str) -> None:
    model = tiny_models.llama(layers=1)
    quantizing.quantize(model, dict.fromkeys(structure.quantizable_modules(model), format_name))
    timed = latency.prepare(model, DECODE, seed=3)
    assert timed.run(*timed.setup()).shape == (2, 1)
    assert sum(timed.kernels.values()) == 7
    assert "dense" not in timed.kernels


def test_a_round_again_writes_the_same_after_the_same_prompt(model: LlamaForCausalLM) -> None:
    timed = latency.prepare(model, DECODE, seed=3)
    kept, token = timed.setup()
    timed.run(kept, token)
    keys = kept.layers[0].keys.clone()
    assert timed.again is not None
    timed.again()
    assert kept.get_seq_length() == 8
    assert torch.equal(kept.layers[0].keys, keys)


def test_a_prompt_is_read_once(model: LlamaForCausalLM) -> None:
    timed, read = latency.prepare(model, DECODE, seed=3), []
    hook = model.register_forward_pre_hook(lambda _model, _args, given: read.append(given["input_ids"].shape[1]), with_kwargs=True)
    for _ in range(2):
        timed.run(*timed.setup())
    hook.remove()
    assert read == [5, *[1] * 3, *[1] * 3]


def test_a_model_without_a_static_cache_decodes_on_a_growing_one(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    static = latency.prepare(model, DECODE, seed=3)
    expected = static.run(*static.setup())
    monkeypatch.setattr(type(model), "_can_compile_fullgraph", False)
    timed = latency.prepare(model, DECODE, seed=3)
    assert (static.cache, timed.cache, timed.again) == ("static", "dynamic", None)
    assert torch.equal(timed.run(*timed.setup()), expected)


def test_a_model_whose_static_cache_does_not_work_decodes_on_a_growing_one_and_says_why() -> None:
    """Falcon with alibi says that it can be compiled, and fails on a cache that is longer than what is filled."""
    alibi = odd_models.model("falcon-alibi")
    made = latency.ready(alibi, DECODE, 0, 1, NO_GPU, units.fused_groups(alibi))
    with made.watch:
        written = made.timed.run(*made.timed.setup())
    cell = latency.cell("bf16", made, [0.1])
    assert cell.cache == "dynamic"
    assert (cell.static_cache_refused or "").startswith("RuntimeError: The size of tensor a")
    (ids,) = latency.prepare(alibi, PREFILL, seed=0).setup()
    for _ in range(1 + 3):
        ids = torch.cat([ids, alibi(ids).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(written, ids[:, -1:])


def test_a_static_cache_on_which_a_model_computes_something_else_is_not_used(model: LlamaForCausalLM) -> None:
    def lost(_module: object, _args: object, kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        static = isinstance(kwargs.get(cache.name_of(model) or ""), StaticCache)
        return (), kwargs | ({"position_ids": torch.zeros_like(kwargs["input_ids"])} if static else {})

    assert cache.static(model, 8).refused is None
    handle = model.register_forward_pre_hook(lost, with_kwargs=True)
    try:
        found = cache.static(model, 8)
    finally:
        handle.remove()
    assert found.cache is None
    assert re.fullmatch(r"logits differ by up to [\d.]+ from those on a growing cache", found.refused or "")


def test_what_a_step_reads(model: LlamaForCausalLM) -> None:
    timed = latency.prepare(model, DECODE, seed=3)
    assert timed.cache_bytes() is None, "nothing was read yet"
    timed.setup()
    per_position = 2 * tiny_models.LAYERS * 2 * 2 * 32 * 4  # keys and values, layers, sequences, heads of 32 float32
    assert timed.cache_bytes() == per_position * 7
    assert timed.held_cache_bytes() == per_position * 8
    every = sum(p.nbytes for p in model.parameters()) + sum(b.nbytes for b in model.buffers())
    assert timed.weight_bytes == every
    untied = tiny_models.llama(tied=False)
    table = untied.get_input_embeddings().weight.nbytes
    assert latency.weight_bytes(untied) == every, "the table that is only looked up in is not read"
    assert table > 0


def test_packed_weights_are_read_packed(model: LlamaForCausalLM) -> None:
    packed = tiny_models.llama()
    quantizing.quantize(packed, dict.fromkeys(structure.quantizable_modules(packed), "qint4"))
    inside = sum(packing.stored_bytes(weight) for weight in packing.packed_weights(packed).values())
    dense = sum(model.get_parameter(f"{name}.weight").nbytes for name in structure.quantizable_modules(model))
    scales = 2 * 4 * 7 * tiny_models.LAYERS  # of activations, which quanto keeps beside every weight
    assert latency.weight_bytes(packed) == latency.weight_bytes(model) - dense + inside + scales


@pytest.mark.parametrize(
    ("rounds", "least", "expected"),
    [
        ([9, 1, 1.0, 1.04], 1, latency.WarmUp(4, stable=True)),
        ([1, 1, 1, 1, 1], 5, latency.WarmUp(5, stable=True)),
        ([0.1, 0.2] * 20, 3, latency.WarmUp(latency.MAX_WARMUP_ROUNDS, stable=False)),
        ([50.0, 5.0], 1, latency.WarmUp(2, stable=False)),
    ],
)
def test_warming_up_ends_when_rounds_agree_or_at_its_bound(rounds: list[float], least: int, expected: latency.WarmUp) -> None:
    left = iter(rounds)
    assert latency.warm_up(lambda: next(left), least) == expected


def test_the_cell_keeps_the_raw_rounds_and_what_they_are_compared_with(model: LlamaForCausalLM) -> None:
    made = latency.ready(model, DECODE, 0, 2, NO_GPU, units.fused_groups(model))
    with made.watch:
        made.timed.run(*made.timed.setup())
    bandwidth = Figure(value=1e9, unit="bytes/s", status="ok")
    cell = latency.cell("w4", made, [0.3, 0.1, 0.2, 0.4], bandwidth)
    assert cell.rounds_s == (0.3, 0.1, 0.2, 0.4)
    assert (cell.variant, cell.phase, cell.batch, cell.prompt_tokens, cell.tokens) == ("w4", "decode", 2, 5, 6)
    assert cell.warmup_rounds >= 2
    assert cell.kernels == {"dense": 7 * tiny_models.LAYERS}
    assert cell.kernels_by_group["attn.qkv"] == {"dense": 3 * tiny_models.LAYERS}
    assert (cell.device_rounds_s, cell.bandwidth, cell.cache, cell.compiled) == (None, bandwidth, "static", False)
    assert cell.static_cache_refused is None
    assert cell.gpu is not None
    assert cell.gpu.device_used_peak.status == nvml.NO_DEVICE


def test_the_kernel_of_every_group_is_told(model: LlamaForCausalLM) -> None:
    groups = units.fused_groups(model)
    changed = tiny_models.llama()
    quantizing.quantize(changed, {f"model.layers.{n}.mlp.down_proj": "qint2" for n in range(tiny_models.LAYERS)})
    found = latency.kernels_by_group(changed, groups)
    assert found["mlp.down"] == {"WeightQBitsTensor": tiny_models.LAYERS}
    assert found["attn.o"] == {"dense": tiny_models.LAYERS}


def greedy(allowed: int) -> LlamaForCausalLM:
    """A model for which memory really runs out above a batch."""
    made = tiny_models.llama(layers=1)

    def take(_module: torch.nn.Module, _args: object, given: dict[str, torch.Tensor]) -> None:
        if given["input_ids"].shape[0] > allowed:
            torch.empty(1 << 50, dtype=torch.uint8)

    made.register_forward_pre_hook(take, with_kwargs=True)
    return made


def test_memory_that_runs_out_halves_the_batch_and_is_recorded() -> None:
    model = greedy(3)
    made = latency.ready(model, Timing("decode", 8, 5, 3), 0, 1, NO_GPU, {})
    assert (made.timing.batch, made.timed.tokens) == (2, 6)
    assert [(item.batch, item.asked_bytes) for item in made.shortages] == [(8, 1 << 50), (4, 1 << 50)]
    assert all(item.free_bytes for item in made.shortages)
    with made.watch:
        made.timed.run(*made.timed.setup())
    cell = latency.cell("w4", made, [1.0])
    assert (cell.batch, cell.asked_batch, cell.shortages) == (2, 8, made.shortages)


def test_memory_that_is_never_enough_fails_with_what_was_asked_and_what_was_free() -> None:
    said = rf"^out of memory: asked for {1 << 50:,} bytes at batch 1, and [\d,]+ were free$"
    with pytest.raises(OutOfMemoryError, match=said) as caught:
        latency.ready(greedy(0), Timing("prefill", 2, 5), 0, 1, NO_GPU, {})
    assert [item.batch for item in caught.value.shortages] == [2, 1]
