"""KL by hand, and the exact method against the plain way of doing it: change the weights, run everything, compare."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterator

import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_sweep import CPU, LENGTHS, sequences
from transformers import LlamaForCausalLM

from bitzones.data import sequences as sequence_sets
from bitzones.data.sequences import Batch, SequenceSet
from bitzones.evaluation import kl as divergence
from bitzones.evaluation import swapping
from bitzones.models import loading, structure
from bitzones.models.units import model_units
from bitzones.schema.errors import NonFiniteError
from bitzones.schema.progress import Progress, silent
from bitzones.schema.sensitivity_cells import SensitivityCell
from bitzones.sensitivity import sweep as sensitivity
from bitzones.sensitivity.sweep import Candidate
from bitzones.sensitivity.variants import Variants

FORMATS = {"bf16": "bf16", "w8": "qint8", "w4": "qint4", "w2": "qint2:hqq"}


CALIBRATION = sequences()


def batches(size: int = 3) -> Iterator[Batch]:
    return sequence_sets.batches(CALIBRATION, size, CPU)


def decoder(model: LlamaForCausalLM) -> list[torch.nn.Module]:
    return list(structure.decoder_layers(model).values())


def noisy(model: LlamaForCausalLM, *names: str, share: float = 0.3) -> dict[str, torch.Tensor]:
    """Other weights for some modules, far enough from theirs to be felt."""
    generator = torch.Generator().manual_seed(3)
    weights = {name: model.get_submodule(name).weight for name in names}
    return {name: w + share * w.std() * torch.randn(w.shape, generator=generator) for name, w in weights.items()}


def by_hand(model: LlamaForCausalLM, weights: dict[str, torch.Tensor]) -> list[float]:
    """KL of every sequence, each alone and unpadded, on a copy that has the weights, in float64."""
    changed = copy.deepcopy(model)
    for name, values in weights.items():
        changed.get_submodule(name).weight = torch.nn.Parameter(values.clone(), requires_grad=False)
    found = []
    for sequence in CALIBRATION.sequences:
        ids = torch.tensor([sequence.ids])
        log_p, log_q = (m(ids).logits.double().log_softmax(-1) for m in (model, changed))
        found.append(float((log_p.exp() * (log_p - log_q)).sum()))
    return found


def exact(
    model: LlamaForCausalLM,
    layers: list[torch.nn.Module],
    candidates: list[Candidate],
    found: Iterator[Batch],
    count: int,
    progress: Progress = silent,
) -> list[list[float] | None]:
    """The candidates of a sweep that stands on the model itself."""
    return sensitivity.exact(model, layers, candidates, found, count, progress).candidates


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_models.llama()


# --- the formula


def test_kl_known_answer_and_padding_is_excluded() -> None:
    log_p = torch.tensor([[[0.5, 0.5], [0.9, 0.1]]]).log()
    log_q = torch.tensor([[[0.25, 0.75], [0.1, 0.9]]]).log()
    first = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    second = 0.9 * math.log(9) + 0.1 * math.log(1 / 9)
    assert divergence.kl_nats(log_p, log_q, torch.tensor([[1, 0]])).tolist() == pytest.approx([first], rel=1e-5)
    assert divergence.kl_nats(log_p, log_q, torch.tensor([[1, 1]])).tolist() == pytest.approx([first + second], rel=1e-5)
    assert divergence.kl_nats(log_p, log_q + 5.0, torch.tensor([[1, 1]])).tolist() == pytest.approx([first + second], rel=1e-4)


def test_kl_is_per_sequence_and_nan_in_padding_does_not_spread() -> None:
    log_p = torch.tensor([[[0.5, 0.5]], [[0.5, 0.5]]]).log()
    log_q = torch.tensor([[[0.25, 0.75]], [[math.nan, math.nan]]]).log()
    assert divergence.kl_nats(log_p, log_q, torch.tensor([[1], [0]])).tolist() == pytest.approx([0.143841, 0.0], rel=1e-4)
    assert math.isnan(divergence.kl_nats(log_p, log_q, torch.tensor([[1], [1]]))[1])


@given(st.lists(st.lists(st.floats(-20, 20, width=32), min_size=4, max_size=4), min_size=2, max_size=6))
def test_kl_is_never_negative_and_zero_for_equals(rows: list[list[float]]) -> None:
    logits = torch.tensor([rows])
    mask = torch.ones(1, len(rows), dtype=torch.long)
    log_p = logits.log_softmax(-1)
    assert float(divergence.kl_nats(log_p, logits, mask)) == pytest.approx(0.0, abs=1e-5)
    assert float(divergence.kl_nats(log_p, logits.flip(1), mask)) >= 0.0
    assert float(divergence.kl_nats(log_p, logits.flip(-1), mask)) >= 0.0


# --- the exact method


@pytest.mark.parametrize("layer", range(tiny_models.LAYERS))
def test_exact_equals_a_full_forward_with_the_same_weights(model: LlamaForCausalLM, layer: int) -> None:
    weights = noisy(model, f"model.layers.{layer}.mlp.down_proj", f"model.layers.{layer}.self_attn.k_proj")
    (found,) = exact(model, decoder(model), [Candidate(layer, weights)], batches(), len(LENGTHS))
    expected = by_hand(model, weights)
    assert min(expected) > 1e-3
    assert found == pytest.approx(expected, rel=1e-3)


def test_candidates_are_each_measured_alone_and_may_span_layers(model: LlamaForCausalLM) -> None:
    changes = [
        (2, noisy(model, "model.layers.2.self_attn.v_proj")),
        (0, noisy(model, "model.layers.0.mlp.up_proj", "model.layers.2.mlp.gate_proj")),
        (1, noisy(model, "model.layers.1.self_attn.o_proj")),
        (0, noisy(model, "model.layers.1.self_attn.o_proj")),  # entering too early costs time and changes nothing
    ]
    found = exact(model, decoder(model), [Candidate(*change) for change in changes], batches(), len(LENGTHS))
    for (_, weights), values in zip(changes, found, strict=True):
        assert values == pytest.approx(by_hand(model, weights), rel=1e-3)
    assert found[2] == pytest.approx(found[3], rel=1e-4)


def test_unchanged_weights_give_zero(model: LlamaForCausalLM) -> None:
    name = "model.layers.1.mlp.up_proj"
    (found,) = exact(model, decoder(model), [Candidate(1, {name: model.get_submodule(name).weight.clone()})], batches(), 4)
    assert found == pytest.approx([0.0] * 4, abs=1e-5)


def test_layers_before_the_change_are_not_run_again(model: LlamaForCausalLM) -> None:
    runs: Counter[int] = Counter()
    handles = [
        layer.get_submodule("self_attn").register_forward_hook(lambda *_, n=n: runs.update([n])) for n, layer in enumerate(decoder(model))
    ]
    candidates = [Candidate(n, noisy(model, f"model.layers.{n}.mlp.up_proj")) for n in (0, 2, 2)]
    try:
        exact(model, decoder(model), candidates, batches(size=2), len(LENGTHS))
    finally:
        for handle in handles:
            handle.remove()
    per_batch = {0: 1 + 1, 1: 1 + 1, 2: 1 + 3}  # the reference, and each candidate from its layer on
    assert dict(runs) == {layer: 2 * times for layer, times in per_batch.items()}


def state(model: LlamaForCausalLM) -> dict[str, tuple[int, torch.Tensor]]:
    return {name: (parameter.data_ptr(), parameter.detach().clone()) for name, parameter in model.named_parameters()}


def assert_untouched(model: LlamaForCausalLM, before: dict[str, tuple[int, torch.Tensor]]) -> None:
    for name, parameter in model.named_parameters():
        assert parameter.data_ptr() == before[name][0], name
        assert torch.equal(parameter, before[name][1]), name
    for layer in decoder(model):
        assert "forward" not in layer.__dict__
        assert not layer._forward_pre_hooks
        assert not layer._forward_hooks


def test_the_model_is_the_same_afterwards_bit_for_bit() -> None:
    model = tiny_models.llama()
    before, logits = state(model), model(torch.tensor([[1, 2, 3]])).logits
    exact(model, decoder(model), [Candidate(n, noisy(model, f"model.layers.{n}.mlp.up_proj")) for n in range(3)], batches(), 4)
    assert_untouched(model, before)
    assert torch.equal(model(torch.tensor([[1, 2, 3]])).logits, logits)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("forward", [1, 2, 3])
def test_the_model_is_the_same_after_an_interruption(error: type[BaseException], forward: int) -> None:
    model = tiny_models.llama()
    calls = 0

    def interrupt(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == forward:
            raise error

    before, layers = state(model), decoder(model)
    handle = model.lm_head.register_forward_pre_hook(interrupt)
    candidates = [Candidate(n, noisy(model, f"model.layers.{n}.mlp.up_proj")) for n in (1, 2)]
    with pytest.raises(error):
        exact(model, layers, candidates, batches(), len(LENGTHS))
    handle.remove()
    assert calls == forward
    assert_untouched(model, before)


def test_a_swap_of_the_wrong_shape_is_refused_and_undone() -> None:
    model = tiny_models.llama()
    before = state(model)
    good = noisy(model, "model.layers.0.mlp.up_proj")
    wrong = {"model.layers.0.mlp.down_proj": torch.zeros(3, 3)}
    with (
        pytest.raises(ValueError, match=r"down_proj: weight of shape \(192, 384\) cannot become \(3, 3\)"),
        swapping.swapped(model, {**good, **wrong}),
    ):
        pass
    assert_untouched(model, before)


def test_a_candidate_that_gives_nan_is_none_and_the_others_are_measured(model: LlamaForCausalLM) -> None:
    good = noisy(model, "model.layers.1.mlp.up_proj")
    bad = {name: torch.full_like(values, math.nan) for name, values in good.items()}
    layers = decoder(model)
    found = exact(model, layers, [Candidate(1, good), Candidate(1, bad), Candidate(1, good)], batches(), len(LENGTHS))
    assert found[1] is None
    assert found[0] == found[2] == pytest.approx(by_hand(model, good), rel=1e-3)


def test_a_reference_that_gives_nan_is_an_error() -> None:
    model, quiet = tiny_models.llama(), tiny_models.llama()
    model.model.norm.weight[0] = math.inf
    with pytest.raises(NonFiniteError, match="reference's own logits"):
        exact(model, decoder(model), [], batches(), len(LENGTHS))
    with pytest.raises(NonFiniteError, match="reference's own logits"):
        divergence.whole(model, quiet, batches(), len(LENGTHS))
    with pytest.raises(NonFiniteError, match="quantized model's logits"):
        divergence.whole(quiet, model, batches(), len(LENGTHS))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_batches_and_padding_change_nothing(model: LlamaForCausalLM, size: int) -> None:
    weights = noisy(model, "model.layers.0.self_attn.q_proj")
    (found,) = exact(model, decoder(model), [Candidate(0, weights)], batches(size), len(LENGTHS))
    assert found == pytest.approx(by_hand(model, weights), rel=1e-3)


def test_progress_rises_to_one(model: LlamaForCausalLM) -> None:
    said: list[float] = []
    candidates = [Candidate(n, noisy(model, f"model.layers.{n}.mlp.up_proj")) for n in (0, 1)]
    ordered = SequenceSet(tuple(sorted(CALIBRATION.sequences, key=lambda s: len(s.ids))))
    exact(model, decoder(model), candidates, sequence_sets.batches(ordered, 2, CPU), len(LENGTHS), said.append)
    assert said == pytest.approx([0.25, 0.5, 0.75, 1.0])


# --- the records


# --- around a base


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_sweep_on_a_base_equals_a_full_forward_with_both_changes(model: LlamaForCausalLM, layer: int) -> None:
    base = noisy(model, "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj")
    change = noisy(model, f"model.layers.{layer}.mlp.down_proj")
    sweep = sensitivity.exact(model, decoder(model), [Candidate(layer, change)], batches(), len(LENGTHS), base=base)
    assert sweep.base == pytest.approx(by_hand(model, base), rel=1e-4)
    assert sweep.candidates[0] == pytest.approx(by_hand(model, {**base, **change}), rel=1e-4)


def test_a_candidate_replaces_what_the_base_has(model: LlamaForCausalLM) -> None:
    name = "model.layers.1.mlp.up_proj"
    back = {name: model.get_submodule(name).weight.clone()}
    sweep = sensitivity.exact(model, decoder(model), [Candidate(1, back)], batches(), len(LENGTHS), base=noisy(model, name))
    assert min(sweep.base) > 0
    assert sweep.candidates[0] == pytest.approx([0.0] * len(LENGTHS), abs=1e-5)


def test_a_base_is_taken_back_when_a_candidate_cannot_be_swapped(model: LlamaForCausalLM) -> None:
    before = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    wrong = Candidate(1, {"model.layers.1.mlp.up_proj": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match="cannot become"):
        sensitivity.exact(model, decoder(model), [wrong], batches(), len(LENGTHS), base=noisy(model, "model.layers.0.mlp.up_proj"))
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == before


@pytest.fixture(scope="module")
def variants() -> Variants:
    loaded = loading.Loaded(tiny_models.llama(torch.bfloat16), tiny_models.tokenizer(), "memory", "0" * 64)
    return Variants(loaded, FORMATS, CPU, torch.float32)


@pytest.fixture(scope="module")
def cell(variants: Variants) -> SensitivityCell:
    units = model_units(variants.loaded.model, "layer")
    return sensitivity.exact_cell(variants, units, "layer", CALIBRATION, batches(4), lambda done: None)


@pytest.mark.parametrize("variant", ["w8", "w4", "w2"])
def test_a_candidate_of_all_layers_is_the_quantized_model(variants: Variants, variant: str) -> None:
    reference = variants.reference
    assert isinstance(reference, LlamaForCausalLM)
    weights = {name: weight.values(torch.float32) for name, weight in variants.packed(variant).items()}
    (swapped,) = exact(reference, decoder(reference), [Candidate(0, weights)], batches(), len(LENGTHS))
    whole = divergence.divergence_cell(variant, reference, variants.model(variant), CALIBRATION, batches())
    assert swapped == pytest.approx(whole.kl_nats, rel=2e-3, abs=1e-5)
    assert min(whole.kl_nats) > 0
    assert whole.sequence_tokens == LENGTHS
    assert whole.sequences_sha256 == CALIBRATION.sha256


def test_the_cell_holds_every_layer_at_every_format(cell: SensitivityCell) -> None:
    names = [f"model.layers.{n}" for n in range(tiny_models.LAYERS)]
    assert [unit.name for unit in cell.units] == names
    assert {(m.unit, m.format) for m in cell.measurements} == {(n, f) for n in names for f in ("qint8", "qint4", "qint2:hqq")}
    assert cell.sequence_tokens == LENGTHS
    assert cell.sequences_sha256 == CALIBRATION.sha256
    assert (cell.variant, cell.method) == ("bf16", "exact")
    assert all(m.failure is None for m in cell.measurements)


def test_the_cell_s_stored_bytes_by_hand(cell: SensitivityCell) -> None:
    wide, inner, key_value = tiny_models.WIDTH, tiny_models.INNER, tiny_models.WIDTH // 3
    shapes = [
        (wide, wide),
        (key_value, wide),
        (key_value, wide),
        (wide, wide),
        (inner, wide),
        (inner, wide),
        (wide, inner),
    ]  # q k v o gate up down
    parameters = sum(rows * columns for rows, columns in shapes)
    rows = sum(rows for rows, _ in shapes)
    groups = sum(rows * columns // (96 if columns == wide else 128) for rows, columns in shapes)
    expected = {"qint8": parameters + 2 * rows, "qint4": parameters // 2 + 4 * groups, "qint2:hqq": parameters // 4 + 4 * groups}
    for measured in cell.measurements:
        assert measured.stored_bytes == expected[measured.format]
        assert measured.group_sizes == ((None,) * 7 if measured.format == "qint8" else (96,) * 6 + (128,))
    assert {unit.reference_bytes for unit in cell.units} == {2 * parameters}


def test_fewer_bits_cost_more_in_every_layer(cell: SensitivityCell) -> None:
    kl = {(m.unit, m.format): sum(m.kl_nats or ()) for m in cell.measurements}
    for unit in cell.units:
        assert 0 < kl[unit.name, "qint8"] < kl[unit.name, "qint4"] / 10 < kl[unit.name, "qint2:hqq"] / 10


def test_the_cell_is_measured_on_the_quantized_values(variants: Variants, cell: SensitivityCell) -> None:
    assert isinstance(variants.reference, LlamaForCausalLM)
    measured = next(m for m in cell.measurements if (m.unit, m.format) == ("model.layers.1", "qint2:hqq"))
    packed = {name: weight for name, weight in variants.packed("w2").items() if name.startswith("model.layers.1.")}
    expected = by_hand(variants.reference, {name: weight.values(torch.float32) for name, weight in packed.items()})
    assert measured.kl_nats == pytest.approx(expected, rel=1e-3)


def test_the_error_of_the_weights_alone(variants: Variants, cell: SensitivityCell) -> None:
    measured = next(m for m in cell.measurements if (m.unit, m.format) == ("model.layers.1", "qint4"))
    names = next(unit.modules for unit in cell.units if unit.name == "model.layers.1")
    weights = torch.cat([variants.reference.get_parameter(f"{name}.weight").flatten() for name in names]).double()
    values = torch.cat([variants.packed("w4")[name].values(torch.float32).flatten() for name in names]).double()
    assert measured.weight_error == pytest.approx(float((weights - values).norm() / weights.norm()), rel=1e-5)
    by_format = {m.format: m.weight_error or 0.0 for m in cell.measurements if m.unit == "model.layers.1"}
    assert 0 < by_format["qint8"] < by_format["qint4"] < by_format["qint2:hqq"] < 1


def test_units_can_be_groups(variants: Variants) -> None:
    units = model_units(variants.loaded.model, "group", [1])
    found = sensitivity.exact_cell(variants, units, "group", CALIBRATION, batches(4), lambda done: None)
    assert found.granularity == "group"
    assert {unit.group for unit in found.units} == {"attn.qkv", "attn.o", "mlp.gate_up", "mlp.down"}
    measured = next(m for m in found.measurements if (m.unit, m.format) == ("model.layers.1.mlp.gate_up", "qint2:hqq"))
    names = [f"model.layers.1.mlp.{name}_proj" for name in ("gate", "up")]
    weights = {name: variants.packed("w2")[name].values(torch.float32) for name in names}
    assert isinstance(variants.reference, LlamaForCausalLM)
    assert measured.kl_nats == pytest.approx(by_hand(variants.reference, weights), rel=1e-3)


def test_a_head_is_a_unit_of_its_own_and_only_it_is_run_again() -> None:
    model = tiny_models.llama(torch.bfloat16, tied=False)
    loaded = loading.Loaded(model, tiny_models.tokenizer(), "memory", "0" * 64)
    formats = {"bf16": "bf16", "w4": "qint4", "w2": "qint2:hqq"}
    variants = Variants(loaded, formats, CPU, torch.float32, include=["lm_head"])
    units = model_units(model, "layer", [0], ["lm_head"])
    assert [(unit.name, unit.layer, unit.modules) for unit in units[1:]] == [("lm_head", None, ("lm_head",))]
    assert units[1].reference_bytes == 257 * tiny_models.WIDTH * 2
    reference, packed = variants.reference, {name: variants.packed(name)["lm_head"] for name in ("w4", "w2")}
    layers = list(structure.decoder_layers(reference).values())
    run: list[torch.nn.Module] = []
    handles = [layer.self_attn.register_forward_hook(lambda module, *_: run.append(module)) for layer in layers]
    (batch,) = sequence_sets.batches(sequences(), 4, CPU)
    candidates = [sensitivity.Candidate(None, {"lm_head": weight}) for weight in packed.values()]
    found = sensitivity.exact(reference, layers, candidates, [batch], 4).candidates
    assert len(run) == len(layers)  # of the reference's one pass
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        log_p = divergence.log_probabilities(reference, batch)
        for kl, weight in zip(found, packed.values(), strict=True):
            with swapping.swapped(reference, {"lm_head": weight}):
                expected = divergence.kl_nats(log_p, divergence.logits_of(reference, batch), batch.mask)
            order = [batch.index.index(n) for n in range(4)]
            assert kl == pytest.approx(expected[order].tolist(), rel=1e-5)
    assert sum(found[0] or ()) < sum(found[1] or ())
