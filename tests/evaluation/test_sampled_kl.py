"""The sampled head on models of several architectures, held against the whole one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from tiny_sweep import CPU
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
)

from bitzones.data import sequences as sequence_sets
from bitzones.data.sequences import Batch, SequenceSet, TokenSequence
from bitzones.evaluation import head_rows
from bitzones.evaluation.kl import kl_nats, log_probabilities, logits_of, token_nats
from bitzones.evaluation.sampled_kl import KlMeter, entering_head, meter
from bitzones.evaluation.swapping import swapped
from bitzones.models import structure
from bitzones.sensitivity.sweep import Candidate, Sweep, exact

VOCABULARY = 2 * head_rows.ROWS
LENGTHS = (24, 17, 9)
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.3,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
MADE: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, head_dim=16)),  # a tied head
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=1.5)),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.5)),
    "phi": lambda: PhiForCausalLM(PhiConfig(**SIZES)),  # a head with a bias
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=16)),  # capped logits
}


@cache
def made(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = MADE[name]().eval().requires_grad_(False)
    if name == "phi":
        model.lm_head.bias.copy_(torch.randn(VOCABULARY))
    return model


def sequences() -> SequenceSet:
    generator = torch.Generator().manual_seed(5)
    rows = [tuple(torch.randint(1, VOCABULARY, (n,), generator=generator).tolist()) for n in LENGTHS]
    return SequenceSet(tuple(TokenSequence(row, len(row) - 1, ()) for row in rows))


def batches(size: int = 3) -> Iterator[Batch]:
    return sequence_sets.batches(sequences(), size, CPU)


def noisy(model: PreTrainedModel, name: str, share: float) -> dict[str, torch.Tensor]:
    weight = model.get_parameter(f"{name}.weight")
    return {name: weight + share * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))}


def layer(model: PreTrainedModel, number: int, share: float = 0.1) -> Candidate:
    name = next(name for name in structure.quantizable_modules(model) if f".layers.{number}." in name and "mlp" in name)
    return Candidate(number, noisy(model, name, share))


def swept(
    model: PreTrainedModel, candidates: Sequence[Candidate], *, head: str = "sampled", base: Candidate | None = None, size: int = 3
) -> Sweep:
    layers = list(structure.decoder_layers(model).values())
    return exact(model, layers, candidates, batches(size), len(LENGTHS), base=None if base is None else base.weights, head=head)  # type: ignore[arg-type]


def a_meter(model: PreTrainedModel) -> KlMeter:
    (batch,) = batches()
    with entering_head(model) as entered:
        log_q = log_probabilities(model, batch)
    return meter(model, batch, log_q, log_q, entered)


@pytest.mark.parametrize("name", ["llama", "gemma3", "granite", "cohere", "phi"])
def test_the_sampled_kl_is_the_whole_one_within_its_spread(name: str) -> None:
    model = made(name)
    candidates = [layer(model, 0), layer(model, 1)]
    sampled, whole = swept(model, candidates), swept(model, candidates, head="whole")
    for kl, variance, expected in zip(sampled.candidates, sampled.variances, whole.candidates, strict=True):
        assert kl is not None
        assert expected is not None
        assert any(variance)
        for one, spread, other in zip(kl, variance, expected, strict=True):
            assert one == pytest.approx(other, abs=5 * math.sqrt(spread) + 1e-5)
        assert sum(kl) == pytest.approx(sum(expected), rel=0.02)
        assert kl != expected


def test_the_factor_of_the_logits_is_found_on_the_model() -> None:
    anchor = a_meter(made("granite")).anchor
    assert anchor is not None
    assert anchor.head.scale == pytest.approx(1 / 1.5, rel=1e-4)


def test_capped_logits_are_computed_whole() -> None:
    model = made("gemma2")
    assert a_meter(model).anchor is None
    candidates = [layer(model, 1)]
    assert swept(model, candidates).candidates == swept(model, candidates, head="whole").candidates


def test_logits_that_are_no_product_are_computed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("llama")
    forward = model.lm_head.forward
    monkeypatch.setattr(model.lm_head, "forward", lambda hidden: 30 * torch.tanh(forward(hidden) / 30))
    assert a_meter(model).anchor is None
    monkeypatch.undo()
    assert a_meter(model).anchor is not None


def test_a_small_vocabulary_is_computed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitzones.evaluation.sampled_kl.WORTH", 2.1)
    model, candidates = made("llama"), [layer(made("llama"), 0)]
    found = swept(model, candidates)
    assert found.candidates == swept(model, candidates, head="whole").candidates
    assert found.variances == [[0.0] * 3]


def test_a_changed_head_is_computed_whole() -> None:
    model = made("llama")
    candidates = [Candidate(None, noisy(model, "lm_head", 0.1)), layer(model, 1)]
    found, whole = swept(model, candidates), swept(model, candidates, head="whole")
    assert found.candidates[0] == whole.candidates[0]
    assert found.variances[0] == [0.0] * 3
    assert found.candidates[1] != whole.candidates[1]


def test_large_changes_are_computed_whole_token_by_token() -> None:
    model = made("llama")
    candidates = [layer(model, 0, share=3.0)]
    found, whole = swept(model, candidates), swept(model, candidates, head="whole")
    assert whole.candidates[0] is not None
    assert sum(whole.candidates[0]) / sum(LENGTHS) > 2 * head_rows.MOST_NATS
    assert found.candidates[0] == pytest.approx(whole.candidates[0], rel=0.01)


def test_around_a_base_however_far_it_is() -> None:
    model = made("llama")
    base, candidates = layer(model, 0, share=3.0), [layer(model, 1), layer(model, 0, share=2.9)]
    found, whole = swept(model, candidates, base=base), swept(model, candidates, base=base, head="whole")
    assert found.base == whole.base
    assert sum(whole.base) / sum(LENGTHS) > 2 * head_rows.MOST_NATS
    assert found.candidates[0] == pytest.approx(whole.candidates[0], rel=0.01)
    assert found.candidates[1] == pytest.approx(whole.candidates[1], rel=0.01)
    assert any(found.variances[0])


def test_a_candidate_does_not_depend_on_others_or_on_batches_before() -> None:
    """Bit for bit: what a shard measures is what the whole sweep measures."""
    model = made("llama")
    candidates = [layer(model, 0), layer(model, 1, share=3.0), layer(model, 1)]
    together = swept(model, candidates, size=1)
    for number, candidate in enumerate(candidates):
        alone = swept(model, [candidate], size=1)
        assert (alone.candidates[0], alone.variances[0]) == (together.candidates[number], together.variances[number])
    layers = list(structure.decoder_layers(model).values())
    for batch in batches(1):
        (kl,) = exact(model, layers, candidates[:1], [batch], len(LENGTHS), head="sampled").candidates
        (place,) = batch.index
        assert kl is not None
        assert together.candidates[0] is not None
        assert kl[place] == together.candidates[0][place]


def test_a_candidate_that_gives_nan_is_none_and_the_others_are_measured() -> None:
    model = made("llama")
    good = layer(model, 1)
    bad = Candidate(
        1, {name: torch.full_like(weight, math.nan) for name, weight in good.weights.items() if isinstance(weight, torch.Tensor)}
    )
    found = swept(model, [good, bad])
    assert found.candidates[1] is None
    assert found.candidates[0] == swept(model, [good]).candidates[0]


def test_unchanged_weights_give_zero() -> None:
    model = made("llama")
    same = {name: weight.clone() for name, weight in layer(model, 1, share=0.0).weights.items() if isinstance(weight, torch.Tensor)}
    assert swept(model, [Candidate(1, same)]).candidates == [[0.0] * 3]


def test_nothing_is_left_on_the_model() -> None:
    model = made("llama")
    swept(model, [layer(model, 0)])
    assert not model.lm_head._forward_pre_hooks


def test_kl_of_some_tokens_is_that_of_all() -> None:
    model = made("llama")
    (batch,) = batches()
    log_p = log_probabilities(model, batch)
    with swapped(model, layer(model, 0).weights):
        logits = logits_of(model, batch)
    places = batch.mask.flatten().nonzero()[:, 0]
    found = token_nats(log_p.flatten(0, 1), logits.flatten(0, 1)[places], places)
    assert float(found.sum()) == pytest.approx(float(kl_nats(log_p, logits, batch.mask).sum()), rel=1e-5)
