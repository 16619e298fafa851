"""Calibrated formats on a tiny model: what is stored is what was computed, it loses less, and the model is as it was afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
import torch
from tiny_sweep import CPU, sequences, swept

from bitzones.allocation.knapsack import budget_bytes
from bitzones.backends import quantizing
from bitzones.backends.quanto import saving
from bitzones.backends.weights import parts_of
from bitzones.data import sequences as sequence_sets
from bitzones.data.sequences import Batch
from bitzones.data.sets import check_tokens
from bitzones.evaluation import kl, swapping
from bitzones.models import loading, structure
from bitzones.models.units import model_units
from bitzones.rounding import layerwise
from bitzones.rounding.hessian import Entering, moments_of
from bitzones.run import whole_plans
from bitzones.run.session import Session
from bitzones.run.session_record import run_record
from bitzones.schema import profile_files
from bitzones.schema.errors import ModelError, NonFiniteError, TaskError
from bitzones.schema.profile import PLAN
from bitzones.schema.profile_sections import Budget, Plans
from bitzones.search import goals, held_out, local_search
from bitzones.sensitivity import sweep
from bitzones.sensitivity.variants import Variants

LENGTHS = (40,) * 16  # 640 tokens, for modules of 192 and 384 input features
CALIBRATION, HELD_OUT = sequences(LENGTHS), sequences((30,) * 4)
BATCHES = list(sequence_sets.batches(CALIBRATION, 8, CPU))
DOWN, QUERY = "model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj"
DTYPE = torch.bfloat16


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return tiny_models.llama(torch.bfloat16).float()


@pytest.fixture(scope="module")
def alone(model) -> dict[str, layerwise.Calibrated]:
    return layerwise.separately(model, ["qint4:gptq", "qint2:gptq"], BATCHES, DTYPE)


def lost(model, weights) -> float:
    """KL on sequences that nothing was rounded on."""
    layers, batches = list(structure.decoder_layers(model).values()), list(sequence_sets.batches(HELD_OUT, 4, CPU))
    assert layers
    total = 0.0
    with torch.no_grad():
        for batch in batches:
            reference = kl.log_probabilities(model, batch)
            with swapping.swapped(model, weights):
                total += float(kl.kl_nats(reference, kl.logits_of(model, batch), batch.mask).sum())
    return total


def test_what_is_stored_is_what_was_computed(model, alone) -> None:
    layers = list(structure.decoder_layers(model).values())
    moments, _ = moments_of(model, layers, [DOWN], Entering.first(BATCHES), BATCHES)
    weight = model.get_parameter(f"{DOWN}.weight")
    computed = layerwise.round_rows(weight, moments[DOWN].total.double(), torch.full((len(weight),), 3.0), 128, DTYPE)
    stored = alone["qint2:gptq"].weights[DOWN]
    assert (stored.format, stored.group_size, stored.parts().scale.dtype) == ("qint2", 128, DTYPE)
    assert torch.equal(stored.values(torch.float32), computed.values())


def test_stored_bytes_are_those_of_the_stock_format(model, alone) -> None:
    for name, weight in alone["qint4:gptq"].weights.items():
        stock = quantizing.quantized_alone(model.get_parameter(f"{name}.weight").to(DTYPE), "qint4")
        assert weight.stored_bytes == stock.stored_bytes


@pytest.mark.parametrize("bits", [2, 4])
def test_a_whole_model_loses_less_than_in_the_stock_format(model, alone, bits: int) -> None:
    stock = {
        name: quantizing.quantized_alone(model.get_parameter(f"{name}.weight").to(DTYPE), f"qint{bits}:hqq")
        for name in structure.quantizable_modules(model)
    }
    assert lost(model, alone[f"qint{bits}:gptq"].weights) < 0.9 * lost(model, stock)


def test_rounding_in_sequence_repairs_and_leaves_the_model_as_it_was(model, alone) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assignment = dict.fromkeys(structure.quantizable_modules(model), "qint2:gptq")
    made = layerwise.in_sequence(model, assignment, BATCHES, DTYPE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert set(made.weights) == set(assignment)
    assert made.fallbacks == {}
    separate = alone["qint2:gptq"].weights
    first = [name for name in assignment if name.startswith("model.layers.0.")]
    assert all(torch.equal(made.weights[n].parts().integers, separate[n].parts().integers) for n in first)  # nothing has drifted yet
    assert not torch.equal(made.weights[QUERY].parts().integers, separate[QUERY].parts().integers)
    assert lost(model, made.weights) < lost(model, separate)


def test_stock_formats_and_gaps_in_a_plan(model) -> None:
    assignment = {DOWN: "qint2:hqq", QUERY: "qint4:gptq"}
    made = layerwise.in_sequence(model, assignment, BATCHES, DTYPE)
    assert set(made.weights) == set(assignment)
    stock = quantizing.quantized_alone(model.get_parameter(f"{DOWN}.weight").to(DTYPE), "qint2:hqq")
    assert torch.equal(made.weights[DOWN].parts().integers, stock.parts().integers)


def test_whole_zeros_stand_beside_real_shifts(model) -> None:
    """Q and k have the same inputs; each is rounded on a grid of its own kind, and packed as it was computed."""
    pair = {QUERY: "int:2g64:gptq", QUERY.replace("q_proj", "k_proj"): "qint2:gptq"}
    found = layerwise.in_sequence(model, pair, BATCHES, DTYPE)
    assert found.fallbacks == {}
    assert [weight.format for weight in found.weights.values()] == ["int:2g64", "qint2"]
    assert lost(model, found.weights) < lost(model, {name: quantizing.quantized_alone(
        model.get_parameter(f"{name}.weight").detach().to(DTYPE), format_.replace("gptq", "hqq") if "qint" in format_ else "int:2g64"
    ) for name, format_ in pair.items()})  # fmt: skip


def test_an_interrupted_walk_leaves_the_model_as_it_was(model) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def interrupt(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        layerwise.in_sequence(model, {DOWN: "qint2:gptq"}, BATCHES, DTYPE, progress=interrupt)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_same_sequences_give_the_same_integers(model, alone) -> None:
    again = layerwise.separately(model, ["qint4:gptq", "qint2:gptq"], BATCHES, DTYPE)
    for format_name, made in again.items():
        for name, weight in made.weights.items():
            assert torch.equal(weight.parts().integers, alone[format_name].weights[name].parts().integers)


def test_too_few_tokens_fall_back_to_the_stock_format_and_are_listed(model) -> None:
    few = list(sequence_sets.batches(sequences((200,)), 1, CPU))  # enough for 192 input features, not for 384
    made = layerwise.separately(model, ["qint2:gptq"], few, DTYPE)["qint2:gptq"]
    assert set(made.fallbacks) == {f"model.layers.{n}.mlp.down_proj" for n in range(tiny_models.LAYERS)}
    assert made.fallbacks[DOWN] == "200 tokens reached it, and 384 input features need at least as many"
    stock = quantizing.quantized_alone(model.get_parameter(f"{DOWN}.weight").to(DTYPE), "qint2:hqq")
    assert torch.equal(made.weights[DOWN].parts().integers, stock.parts().integers)


def test_too_few_tokens_for_a_module_that_sees_all_of_them_are_refused(model) -> None:
    check_tokens(model, 384)
    with pytest.raises(TaskError, match=r"calibration\.tokens: model\.layers\.2\.mlp\.down_proj has 384 input features.*at least 384"):
        check_tokens(model, 383)


def test_an_activation_that_is_not_finite_names_the_module() -> None:
    broken = tiny_models.llama()
    broken.model.layers[1].input_layernorm.weight.data[3] = torch.inf
    with pytest.raises(NonFiniteError, match=r"^model\.layers\.1\.self_attn\.q_proj: .*NaN or infinite"):
        layerwise.separately(broken, ["qint2:gptq"], BATCHES, DTYPE)


def test_a_calibrated_format_without_its_weights_is_refused() -> None:
    with pytest.raises(ModelError, match="must first be rounded on the calibration set"):
        quantizing.quantize(tiny_models.llama(), {DOWN: "qint2:gptq"})


def test_anybodys_quanto_loads_it_and_computes_the_same(model, alone, tmp_path: Path) -> None:
    quantized = tiny_models.llama(torch.bfloat16)
    assignment = dict.fromkeys(structure.quantizable_modules(model), "qint2:gptq")
    quantizing.quantize(quantized, assignment, alone["qint2:gptq"].weights)
    saving.save(quantized, tmp_path)
    again = saving.reload(tmp_path)
    quantizing.verify(again, assignment)
    quantizing.set_compute_dtype(again, torch.float32)
    again.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq  # which no file holds: the one here went through bfloat16
    ids = torch.tensor([[1, 2, 3, 4]])
    with swapping.swapped(model, alone["qint2:gptq"].weights):
        expected = model(ids).logits
    torch.testing.assert_close(again(ids).logits, expected)


def test_a_variant_is_rounded_in_sequence_and_its_units_alone() -> None:
    loaded = loading.Loaded(tiny_models.llama(torch.bfloat16), tiny_models.tokenizer(), "memory", "0" * 64)
    variants = Variants(loaded, {"bf16": "bf16", "w2": "qint2:gptq"}, CPU, torch.float32, lambda: BATCHES)
    whole, alone = variants.whole("w2"), variants.packed("w2")
    assert torch.equal(parts_of(variants.model("w2").get_submodule(QUERY)).integers, whole[QUERY].parts().integers)
    assert not torch.equal(whole[QUERY].parts().integers, alone[QUERY].parts().integers)
    assert lost(variants.reference, whole) < lost(variants.reference, alone)
    assert variants.fallbacks == {"w2": {}}


def test_a_variant_without_sequences_says_so() -> None:
    loaded = loading.Loaded(tiny_models.llama(torch.bfloat16), tiny_models.tokenizer(), "memory", "0" * 64)
    with pytest.raises(ModelError, match="needs a calibration set, and none was given"):
        Variants(loaded, {"bf16": "bf16", "w2": "qint2:gptq"}, CPU, torch.float32).model("w2")


def test_a_plan_is_searched_among_quantos_own_formats_too() -> None:
    loaded = loading.Loaded(tiny_models.llama(torch.bfloat16), tiny_models.tokenizer(), "memory", "0" * 64)
    formats = {"bf16": "bf16", "w4-gptq": "qint4:gptq", "w4-hqq": "qint4:hqq", "w2-gptq": "qint2:gptq", "w2-hqq": "qint2:hqq"}
    variants = Variants(loaded, formats, CPU, torch.float32, lambda: BATCHES)

    def held() -> Iterator[Batch]:
        return sequence_sets.batches(HELD_OUT, 4, CPU)

    units = model_units(loaded.model, "layer")
    cell = sweep.exact_cell(variants, units, "layer", HELD_OUT, held(), lambda done: None)
    bench = local_search.workbench(variants, cell, held, len(HELD_OUT.sequences))
    budget = budget_bytes(bench.menu, 3.2)
    stock = goals.without_calibration(bench, cell, budget, 1)
    assert stock is not None
    assert set(stock.units.values()) <= {"qint4:hqq", "qint2:hqq", "bf16"}
    assert stock.stored_bytes <= budget
    searched = goals.search_cell(bench, cell, Budget(average_bits=3.2), variants.uniform, 1)
    assert local_search.total(searched.found) < local_search.total(stock)
    whole = {PLAN: local_search.weights_of(bench, bench.choice(searched.found.units))}
    chosen = held_out.comparison_plans(bench, cell, searched, Plans(random=1), 0, stock)
    judged = held_out.plans_cell(bench, chosen, HELD_OUT, searched, whole)
    origins = [plan.origin for plan in judged.plans]
    assert (origins[0], origins[-1], "stock" in origins) == ("search", "separate", True)
    assert judged.plans[0].kl_nats == judged.plans[-1].kl_nats  # the same weights were given for both
    contiguous = next(plan for plan in judged.plans if plan.origin == "contiguous")
    assert set(contiguous.units.values()) <= {"qint4:gptq", "qint2:gptq"}  # a rule takes the better rounding too


def test_plans_that_somebody_would_apply_are_rounded_layer_after_layer(tmp_path: Path) -> None:
    text = tiny_models.profile_text(
        str(tiny_models.save(tmp_path / "model")),
        formats='formats = ["qint4:gptq", "qint4", "qint2:gptq", "qint2:hqq"]',
        held_out="[held_out]\ntokens = 200",
        plans="[plans]\nrounds = 0\nrandom = 1\nfrontier = [3.6]",
        sensitivity='[sensitivity]\ntokens = 200\nbatch = 16\ngranularity = "group"',
        calibration="[calibration]\ntokens = 800",
        budget="[budget]\naverage_bits = 3.2",
    )
    (tmp_path / "own.toml").write_text(text, encoding="utf-8")
    session = Session(profile_files.load(str(tmp_path / "own.toml")))
    plans = {plan.name: plan for plan in session.compare().plans}
    found = {name: plan.rounded for name, plan in plans.items()}
    assert found == {
        PLAN: "in sequence",  # that of least sum, for no round was asked for
        "uniform qint4:gptq": "in sequence",
        "uniform qint2:gptq": "in sequence",
        "uniform qint4": None,
        "uniform qint2:hqq": None,
        "without calibration": None,
        "contiguous": "alone",
        "random 1": "alone",
        "3.6 bits": "in sequence",
        held_out.SEPARATE: "alone",
    }
    units = plans["3.6 bits"].units
    modules = {module: units[unit.name] for unit in session.units for module in unit.modules}
    weights = session.variants.in_sequence("again", modules).weights
    bench = whole_plans.workbench(session, lambda: sequence_sets.batches(session.held_out, 16, CPU), session.held_out)
    (again,), (alone,) = local_search.as_made(bench, [(bench.choice(units), weights)]), local_search.trials(bench, [bench.choice(units)])
    assert plans["3.6 bits"].kl_nats == pytest.approx(again.kl_nats)
    assert plans["3.6 bits"].kl_nats != pytest.approx(alone.kl_nats)
    assert set(run_record(session).variants) == {"bf16", "w4-gptq", "w4-max", "w2-gptq", "w2-hqq", PLAN}


def test_nothing_is_compared_where_there_is_one_family_only() -> None:
    variants, cell, bench = swept()
    assert variants.uniform
    assert goals.without_calibration(bench, cell, bench.menu.most_bytes, 1) is None
