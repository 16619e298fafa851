"""The scores against finite differences and against the KL that they estimate."""

from __future__ import annotations

from collections.abc import Iterator

import odd_models
import pytest
import tiny_models
import torch
from tiny_sweep import CPU, LENGTHS, sequences
from transformers import LlamaForCausalLM, PreTrainedModel

from bitzones.data import sequences as sequence_sets
from bitzones.data.sequences import Batch, SequenceSet
from bitzones.evaluation import kl as divergence
from bitzones.evaluation import swapping
from bitzones.models import loading, structure
from bitzones.models.units import model_units
from bitzones.schema.errors import NonFiniteError, NotMeasuredError
from bitzones.sensitivity import fisher, sweep
from bitzones.sensitivity.variants import Variants

MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj", "model.layers.2.mlp.down_proj")


def batches(size: int = 3, made: SequenceSet | None = None) -> Iterator[Batch]:
    return sequence_sets.batches(made or sequences(), size, CPU)


def moved(model: PreTrainedModel, name: str, share: float) -> torch.Tensor:
    weight = model.get_submodule(name).weight
    return weight + share * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3), dtype=weight.dtype)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_models.llama()


def test_a_projection_is_the_derivative_along_the_change() -> None:
    model = tiny_models.llama(torch.float64, tied=False)
    names = (*MODULES, "lm_head")  # behind the last layer gradients are made in steps of sequences
    changes = [{name: moved(model, name, 0.5)} for name in names] + [{name: moved(model, name, 0.5) for name in names}]
    (batch,) = batches(4)
    cotangent = torch.randn(*batch.ids.shape, 257, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * batch.mask[..., None]
    layers = list(structure.decoder_layers(model).values())
    (found,) = fisher.projections(model, layers, changes, batch, lambda _logits, rows: [cotangent[rows]])
    step = 3e-3  # norms compute in float32: a smaller step would drown in rounding
    for change, values in zip(changes, found, strict=True):
        sums = []
        for sign in (1, -1):
            weights = {name: torch.lerp(model.get_submodule(name).weight, weight, sign * step) for name, weight in change.items()}
            with swapping.swapped(model, weights), torch.no_grad():
                sums.append((cotangent * divergence.logits_of(model, batch)).sum((1, 2)))
        assert values.tolist() == pytest.approx(((sums[0] - sums[1]) / (2 * step)).tolist(), rel=1e-2)


@pytest.mark.parametrize("name", ["bloom", "falcon-alibi", "mpt", "gpt-neo", "gemma3n", "gemma4", "zamba2", "bamba", "falcon-h1"])
def test_gradients_flow_through_whatever_layers_hand_on(name: str) -> None:
    """Against the gradient of the whole graph: through shared keys and values, tuples, streams, and modules that run twice in a layer."""
    model = odd_models.model(name).double()
    names, layers = list(structure.quantizable_modules(model)), list(structure.decoder_layers(model).values())
    (batch,) = batches(4)
    changes = [{name: moved(model, name, 0.1)} for name in names]
    cotangent = torch.randn(*batch.ids.shape, 257, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * batch.mask[..., None]
    (found,) = fisher.projections(model, layers, changes, batch, lambda _logits, rows: [cotangent[rows]])
    weights = [model.get_parameter(f"{name}.weight") for name in names]
    with torch.enable_grad():
        model.requires_grad_(True)
        per_sequence = (cotangent * divergence.logits_of(model, batch)).sum((1, 2))
        gradients = [torch.autograd.grad(one, weights, retain_graph=True, materialize_grads=True) for one in per_sequence]
    for number, (name, weight) in enumerate(zip(names, weights, strict=True)):
        moves = changes[number][name].detach() - weight.detach()
        expected = [float((gradient[number] * moves).sum()) for gradient in gradients]
        assert found[number].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-7), name


def test_a_weight_that_its_layer_reads_without_running_the_module_is_refused() -> None:
    model = odd_models.model("jamba")
    name = "model.layers.0.mamba.dt_proj"
    with pytest.raises(NotMeasuredError, match=f"^fisher: {name} does not run: its layer reads the weight itself"):
        fisher.scores(model, [{name: moved(model, name, 0.3)}], batches(), len(LENGTHS), 1, seed=0)


def test_hidden_states_that_change_between_layers_are_refused(model: LlamaForCausalLM) -> None:
    layers = list(structure.decoder_layers(model).values())
    (batch,) = batches(4)
    handle = layers[1].register_forward_pre_hook(lambda _module, args, kwargs: ((args[0] * 2, *args[1:]), kwargs), with_kwargs=True)
    try:
        with pytest.raises(NotMeasuredError, match="changes hidden states between layers 0 and 1"):
            fisher.projections(model, layers, [{MODULES[0]: moved(model, MODULES[0], 0.3)}], batch, lambda logits, _rows: [logits])
    finally:
        handle.remove()


def test_several_units_together_score_the_sum_of_theirs(model: LlamaForCausalLM) -> None:
    changes = [{name: moved(model, name, 0.3)} for name in MODULES]
    together = {name: weight for change in changes for name, weight in change.items()}
    found = fisher.scores(model, [*changes, together], batches(), len(LENGTHS), 3, seed=5)
    assert found.shape == (4, 3, len(LENGTHS))
    assert torch.allclose(found[:3].sum(0), found[3], rtol=1e-4, atol=1e-6)


def test_the_mean_square_is_twice_the_kl_of_a_small_change(model: LlamaForCausalLM) -> None:
    made = sequences((12,) * 16)
    changes = [{name: moved(model, name, 0.05)} for name in MODULES]
    samples = 64
    found = fisher.scores(model, changes, batches(8, made), 16, samples, seed=0)
    layers = list(structure.decoder_layers(model).values())
    candidates = [sweep.Candidate(number, change) for number, change in enumerate(changes)]
    exact = sweep.exact(model, layers, candidates, batches(8, made), 16).candidates
    for values, kl in zip(found, exact, strict=True):
        estimates = values.square() / 2
        spread = float(estimates.std() / estimates.numel() ** 0.5)
        assert float(estimates.mean()) == pytest.approx(sum(kl or ()) / 16, abs=4 * spread)
        assert spread < float(estimates.mean()) / 10  # else the line above could not fail


def test_the_drawn_cotangent_has_mean_zero_and_the_fisher_s_variance() -> None:
    logits = torch.tensor([[[0.0, 1.0, 2.0], [9.0, 0.0, 0.0]]]).expand(4000, 2, 3)
    mask = torch.tensor([[1, 0]]).expand(4000, 2)
    drawn = fisher.sampled_cotangent(logits, mask, torch.Generator().manual_seed(0))
    assert not drawn[:, 1].any()
    p = logits[0, 0].softmax(-1)
    assert drawn[:, 0].sum(-1).abs().max() < 1e-5
    assert drawn[:, 0].mean(0).tolist() == pytest.approx([0.0] * 3, abs=0.03)
    covariance = drawn[:, 0].T @ drawn[:, 0] / 4000
    assert torch.allclose(covariance, torch.diag(p) - p[:, None] * p, atol=0.03)


def test_the_same_seed_gives_the_same_scores_and_nothing_stays(model: LlamaForCausalLM) -> None:
    changes = [{MODULES[0]: moved(model, MODULES[0], 0.3)}]
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    first, again, other = (fisher.scores(model, changes, batches(), len(LENGTHS), 2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert all(torch.equal(parameter, before[name]) and parameter.grad is None for name, parameter in model.named_parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_one_layer_s_graph_is_alive_at_a_time(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """What autograd saves for a layer is freed before the next one is run: the most at once is far below that of a whole graph."""
    alive = {"now": 0, "most": 0}

    class Saved:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor
            alive["now"] += tensor.nbytes
            alive["most"] = max(alive.values())

        def __del__(self) -> None:
            alive["now"] -= self.tensor.nbytes

    hooks = torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor)
    changes = [{name: moved(model, name, 0.3)} for name in MODULES]
    (batch,) = batches(4)
    with hooks:
        fisher.scores(model, changes, [batch], len(LENGTHS), 2, seed=0)
        in_layers = alive["most"]
        with torch.enable_grad():
            embedded = model.get_input_embeddings()(batch.ids).requires_grad_()
            kept = model(inputs_embeds=embedded, attention_mask=batch.mask, use_cache=False).logits
    assert kept.requires_grad
    assert in_layers < 0.5 * alive["most"], alive


def test_what_does_not_see_every_token_is_refused(model: LlamaForCausalLM) -> None:
    layer = model.model.layers[1].mlp
    plain = layer.forward
    layer.forward = lambda hidden: plain(hidden[:, :-1])[:, [*range(hidden.shape[1] - 1), -1]]
    try:
        with pytest.raises(NotMeasuredError, match="up_proj does not see every token"):
            fisher.scores(model, [{MODULES[1]: moved(model, MODULES[1], 0.3)}], batches(), len(LENGTHS), 1, seed=0)
    finally:
        del layer.forward


def test_nan_is_said() -> None:
    model = tiny_models.llama()
    model.model.norm.weight[0] = float("nan")
    with pytest.raises(NonFiniteError, match="reference's own logits"):
        fisher.scores(model, [{MODULES[0]: moved(model, MODULES[0], 0.3)}], batches(), len(LENGTHS), 1, seed=0)


def test_the_cell_ranks_formats_as_they_are() -> None:
    loaded = loading.Loaded(tiny_models.llama(torch.bfloat16), tiny_models.tokenizer(), "memory", "0" * 64)
    variants = Variants(loaded, {"bf16": "bf16", "w4": "qint4", "w2": "qint2:hqq"}, CPU, torch.float32)
    units = model_units(loaded.model, "group")
    said: list[float] = []
    cell = fisher.fisher_cell(variants, units, sequences(), batches(), 2, 0, said.append)
    assert said[-1] == 1.0
    assert len(cell.scores) == 3 * 4 * 2
    square = {(item.unit, item.format): sum(a * a for a in item.nats) for item in cell.scores}
    assert all(square[unit.name, "qint4"] < square[unit.name, "qint2:hqq"] for unit in units)
