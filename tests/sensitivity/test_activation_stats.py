"""Statistics of activations and attention, on maps made by hand and against what transformers itself returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import odd_models
import pytest
import tiny_models
import torch
from scipy import stats
from transformers import LlamaForCausalLM, PreTrainedModel

from bitzones.data import sequences as sequence_sets
from bitzones.data.sequences import Batch, SequenceSet, TokenSequence
from bitzones.evaluation import layer_replay
from bitzones.models import structure
from bitzones.schema.errors import NonFiniteError
from bitzones.schema.layer_statistics import LayerStatistics
from bitzones.sensitivity import activation_stats
from bitzones.sensitivity.activation_stats import ActivationMoments, AttentionTotals

CPU = torch.device("cpu")
LENGTHS = (6, 11, 8)


def sequences(lengths: tuple[int, ...] = LENGTHS) -> SequenceSet:
    generator = torch.Generator().manual_seed(5)
    made = [tuple(torch.randint(1, 257, (n,), generator=generator).tolist()) for n in lengths]
    return SequenceSet(tuple(TokenSequence(ids, len(ids) - 2, (1, 3)) for ids in made))


def batches(size: int, of: SequenceSet) -> Callable[[], Iterator[Batch]]:
    return lambda: sequence_sets.batches(of, size, CPU)


def one_batch(*lengths: int, content: tuple[int, ...] = ()) -> Batch:
    """A batch whose tokens do not matter."""
    rows = tuple(TokenSequence((1,) * n, n - 1, content) for n in lengths)
    return next(sequence_sets.batches(SequenceSet(rows), len(rows), CPU))


def causal_uniform(length: int, heads: int = 2) -> torch.Tensor:
    """Query q attends equally to keys 0..q."""
    return (torch.ones(length, length).tril() / torch.arange(1, length + 1)[:, None]).expand(1, heads, length, length)


# --- attention


def test_uniform_attention_has_the_entropy_of_its_keys_and_no_specialization() -> None:
    totals = AttentionTotals()
    totals.add(causal_uniform(5), one_batch(5))
    found = totals.statistics()
    expected = sum(math.log(k) for k in range(1, 6)) / 5
    assert found.entropy_nats == pytest.approx(expected, rel=1e-6)
    assert found.entropy_nats_by_head == pytest.approx((expected, expected), rel=1e-6)
    assert found.head_specialization == pytest.approx(0.0, abs=1e-6)


def test_one_key_attention_has_no_entropy_and_full_specialization() -> None:
    weights = torch.zeros(1, 2, 4, 4)
    weights[..., 0] = 1.0
    totals = AttentionTotals()
    totals.add(weights, one_batch(4))
    found = totals.statistics()
    assert found.entropy_nats == 0.0
    assert found.head_specialization == 1.0


def test_heads_are_told_apart() -> None:
    weights = causal_uniform(4).clone()
    weights[0, 1] = torch.tensor([1.0, 0, 0, 0])
    totals = AttentionTotals()
    totals.add(weights, one_batch(4))
    found = totals.statistics()
    uniform = math.log(24) / 4
    assert found.entropy_nats_by_head == pytest.approx((uniform, 0.0), rel=1e-6)
    assert found.entropy_nats == pytest.approx(uniform / 2, rel=1e-6)
    assert found.head_specialization == pytest.approx(0.5, rel=1e-6)


def test_attention_of_padding_never_counts() -> None:
    padded = torch.full((2, 2, 6, 6), 1 / 6)
    padded[0, :, :4, :] = torch.nn.functional.pad(causal_uniform(4)[0], (0, 2))
    padded[1] = causal_uniform(6)[0]
    together, apart = AttentionTotals(), AttentionTotals()
    together.add(padded, one_batch(4, 6))
    for length in (4, 6):
        apart.add(causal_uniform(length), one_batch(length))
    expected = (math.log(math.factorial(4)) + math.log(math.factorial(6))) / 10
    assert together.statistics().entropy_nats == pytest.approx(expected, rel=1e-6)
    assert together.statistics().entropy_nats == pytest.approx(apart.statistics().entropy_nats, rel=1e-9)
    assert together.statistics().head_specialization == pytest.approx(0.0, abs=1e-6)
    assert together.queries == 10


def test_reasoning_focus_of_a_known_row_leaves_the_sink_out() -> None:
    weights = torch.zeros(2, 5, 5)
    weights[0, 3] = torch.tensor([0.5, 0.1, 0.3, 0.1, 0.0])  # content 2: 0.3 of 0.5
    weights[1, 3] = torch.tensor([0.0, 0.2, 0.2, 0.6, 0.0])  # content 2: 0.2 of 1.0
    weights[:, 4] = 0.2  # the answer itself does not count
    sequence = TokenSequence((1, 2, 3, 4, 5), answer_position=3, content=(2,))
    assert float(activation_stats.reasoning_focus(weights, sequence)) == pytest.approx((0.6 + 0.2) / 2, rel=1e-6)


def test_reasoning_focus_is_averaged_over_the_sequences_that_have_content() -> None:
    weights = torch.zeros(3, 1, 3, 3)
    weights[0, 0, 2] = torch.tensor([0.5, 0.4, 0.1])
    weights[1, 0, 2] = torch.tensor([0.8, 0.1, 0.1])
    weights[2, 0, 2] = torch.tensor([0.0, 1.0, 0.0])
    rows = [TokenSequence((1, 1, 1), 2, content) for content in ((1,), (1,), ())]
    totals = AttentionTotals()
    totals.add(weights, next(sequence_sets.batches(SequenceSet(tuple(rows)), 3, CPU)))
    found = totals.statistics()
    assert found.reasoning_focus == pytest.approx((0.8 + 0.5) / 2, rel=1e-6)
    assert found.reasoning_focus_std == pytest.approx(0.3 / math.sqrt(2), rel=1e-6)
    assert found.reasoning_focus_sequences == 2


def test_no_content_is_null_and_not_zero() -> None:
    totals = AttentionTotals()
    totals.add(causal_uniform(3), one_batch(3))
    found = totals.statistics()
    assert (found.reasoning_focus, found.reasoning_focus_std, found.reasoning_focus_sequences) == (None, None, 0)


# --- activations


def test_moments_are_numpy_s_and_scipy_s() -> None:
    values = torch.randn(3, 400, generator=torch.Generator().manual_seed(0)) ** 3 + 0.7
    moments = ActivationMoments()
    for unit in values.split(1):
        moments.add(unit)
    flat = values.double().numpy().ravel()
    assert moments.count == 1200
    assert moments.mean == pytest.approx(flat.mean(), rel=1e-9)
    assert moments.std == pytest.approx(flat.std(), rel=1e-9)
    assert moments.kurtosis == pytest.approx(stats.kurtosis(flat, fisher=False), rel=1e-6)
    assert moments.magnitude / moments.count == pytest.approx(np.abs(flat).mean(), rel=1e-9)
    assert moments.peak == pytest.approx(np.abs(flat).max())


def test_kurtosis_of_two_values_is_one_and_of_a_constant_zero() -> None:
    coin, constant = ActivationMoments(), ActivationMoments()
    coin.add(torch.tensor([1.0, -1.0, 1.0, -1.0]))
    constant.add(torch.full((4,), 2.0))
    assert coin.kurtosis == pytest.approx(1.0)
    assert (constant.std, constant.kurtosis) == (0.0, 0.0)


def test_sparsity_by_hand() -> None:
    values = torch.tensor([0.0, 0.005, -0.005, 0.02, 1.0, -1.0, 1.0, -1.0])  # std 0.707: zero is below 0.00707
    moments = ActivationMoments()
    moments.add(values)
    moments.add_sparse(values)
    assert moments.sparse == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_activations_that_are_not_finite_are_an_error(bad: float) -> None:
    with pytest.raises(NonFiniteError, match="activation"):
        ActivationMoments().add(torch.tensor([1.0, bad]))


# --- a real model


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_models.llama()


def measured(model: LlamaForCausalLM, size: int, of: SequenceSet) -> tuple[LayerStatistics, ...]:
    return activation_stats.measure(model, list(structure.decoder_layers(model).values()), batches(size, of))


def test_measure_equals_what_transformers_returns() -> None:
    model, of = tiny_models.llama(), sequences((9,))
    plain = tiny_models.llama()
    plain.set_attn_implementation("eager")
    taken: list[torch.Tensor] = []
    for layer in plain.model.layers:
        layer.register_forward_hook(lambda _m, _a, out: taken.append(out[0] if isinstance(out, tuple) else out))
    out = plain(torch.tensor([of.sequences[0].ids]), output_attentions=True, output_hidden_states=True)
    assert torch.equal(taken[0], out.hidden_states[1])  # transformers' last hidden state is after the norm, so the last is taken by hook
    for found, hidden, weights in zip(measured(model, 1, of), taken, out.attentions, strict=True):
        flat = hidden.double().numpy().ravel()
        assert found.mean == pytest.approx(flat.mean(), abs=1e-7)
        assert found.std == pytest.approx(flat.std(), rel=1e-5)
        assert found.magnitude == pytest.approx(np.abs(flat).mean(), rel=1e-5)
        assert found.peak == pytest.approx(np.abs(flat).max(), rel=1e-5)
        assert found.kurtosis == pytest.approx(stats.kurtosis(flat, fisher=False), rel=1e-4)
        assert found.sparsity == pytest.approx((np.abs(flat) < 0.01 * flat.std()).mean(), abs=1e-3)
        assert found.sparsity > 0
        p = weights[0].double().numpy()
        entropy = -(p * np.log(np.where(p > 0, p, 1.0))).sum(-1)  # heads, queries
        assert found.attention is not None
        assert found.attention.entropy_nats_by_head == pytest.approx(tuple(entropy.mean(1)), rel=1e-5)
        assert found.attention.entropy_nats == pytest.approx(entropy.mean(), rel=1e-5)
        specialization = 1 - entropy[:, 1:] / np.log(np.arange(2, 10))
        assert found.attention.head_specialization == pytest.approx(specialization.mean(), rel=1e-5)
        row = p[:, 7, 1:8]
        assert found.attention.reasoning_focus == pytest.approx((row[:, [0, 2]].sum(1) / row.sum(1)).mean(), rel=1e-5)


def flat(values: tuple[LayerStatistics, ...]) -> list[float]:
    numbers: list[float] = []
    for layer in values:
        assert layer.attention is not None
        numbers += [layer.mean, layer.std, layer.magnitude, layer.peak, layer.sparsity, layer.kurtosis]
        attention = layer.attention
        assert attention.reasoning_focus is not None
        assert attention.reasoning_focus_std is not None
        numbers += [attention.entropy_nats, *attention.entropy_nats_by_head, attention.head_specialization]
        numbers += [attention.reasoning_focus, attention.reasoning_focus_std, attention.reasoning_focus_sequences]
    return numbers


def test_batches_and_padding_change_nothing(model: LlamaForCausalLM) -> None:
    of = sequences()
    alone = flat(measured(model, 1, of))
    assert flat(measured(model, 3, of)) == pytest.approx(alone, rel=1e-4, abs=1e-5)
    assert len(alone) == tiny_models.LAYERS * 17


def test_a_state_of_linear_attention_is_no_attention(model: LlamaForCausalLM) -> None:
    attention = model.model.layers[0].self_attn
    state = torch.rand(len(LENGTHS), 6, 32, 32)
    handle = attention.register_forward_hook(lambda module, args, output: (output[0], state))
    try:
        found = measured(model, len(LENGTHS), sequences())
    finally:
        handle.remove()
    assert found[0].attention is None
    assert found[1].attention is not None


def test_every_layer_is_there_and_the_layers_differ(model: LlamaForCausalLM) -> None:
    of = sequences()
    cell = activation_stats.cell("bf16", model, list(structure.decoder_layers(model).values()), batches(3, of), of)
    assert [layer.layer for layer in cell.layers] == list(range(tiny_models.LAYERS))
    assert (cell.variant, cell.sequences, cell.tokens) == ("bf16", 3, sum(LENGTHS))
    assert len({layer.std for layer in cell.layers}) == tiny_models.LAYERS


def test_the_model_is_left_as_it_was(model: LlamaForCausalLM) -> None:
    implementation = model.config._attn_implementation
    assert implementation != "eager"
    measured(model, 3, sequences())
    assert model.config._attn_implementation == implementation
    assert not any(module._forward_hooks for module in model.modules())


def test_a_part_without_an_attention_implementation_is_left_alone() -> None:
    mpt = odd_models.model("mpt")
    assert "attn_config" in mpt.config.sub_configs
    found = activation_stats.measure(mpt, list(structure.decoder_layers(mpt).values()), batches(3, sequences()))
    assert [layer.layer for layer in found] == [0, 1]


def test_a_layer_that_gives_nan_is_an_error_and_the_model_is_left_as_it_was() -> None:
    model = tiny_models.llama()
    implementation = model.config._attn_implementation
    model.get_submodule("model.layers.1.mlp.down_proj").weight[0, 0] = math.nan
    with pytest.raises(NonFiniteError, match="activation"):
        measured(model, 3, sequences())
    assert model.config._attn_implementation == implementation
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["mpt", "gemma3-vl", "gemma3n", "bloom"])
def test_models_unlike_llama_are_described_and_keep_their_attention(name: str) -> None:
    """MPT has a part without attention of its own; Gemma 3 has a vision tower; Gemma 3n has four streams of hidden states."""
    of, model = sequences(), odd_models.model(name)
    own = {id(module): module.config._attn_implementation for module in model.modules() if isinstance(module, PreTrainedModel)}
    layers = list(structure.decoder_layers(model).values())
    found = activation_stats.measure(model, layers, batches(3, of))
    assert len(found) == len(layers)
    assert all(item.attention is not None for item in found)
    assert own == {id(module): module.config._attn_implementation for module in model.modules() if isinstance(module, PreTrainedModel)}
    with torch.no_grad():
        hidden = [layer_replay.passed(model, layers, batch)[0].calls[-1].step.hidden for batch in batches(1, of)()]
    assert found[-1].peak == pytest.approx(max(float(one.abs().max()) for one in hidden), rel=1e-3)
