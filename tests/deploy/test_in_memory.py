"""A plan applied to a model in memory: the same integers as an export has, and nothing touched where it is refused."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import Any

import make_plan
import make_run
import pytest
import tiny_models
import torch
from calibrated_plans import CALIBRATED_ON, calibrated
from transformers import AutoModelForCausalLM, PreTrainedModel

import bitzones
from bitzones.analysis.plan import Plan
from bitzones.backends import quantizing
from bitzones.backends.quanto import packing, saving
from bitzones.backends.weights import packed_weights
from bitzones.data import sequences
from bitzones.deploy.targets import TARGETS, target
from bitzones.models import structure
from bitzones.rounding import layerwise

CPU = torch.device("cpu")
UP, DOWN = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tmp_path_factory.mktemp("source"), tiny_models.llama(torch.bfloat16))


@pytest.fixture(scope="module")
def plan(source: Path) -> Plan:
    """For the model of `source`, with the bytes that its weights have."""
    made = make_plan.for_tiny_llama(source, hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest())
    weights = tiny_models.llama(torch.bfloat16)
    size = sum(2 * weights.get_parameter(f"{name}.weight").numel() for name in made.assignment)
    return made.model_copy(update={"reference_bytes": size})


def load(source: Path, dtype: str = "bfloat16") -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    return model


def formats_of(model: PreTrainedModel) -> dict[str, str]:
    return {name: weight.qtype.name for name, weight in packing.packed_weights(model).items()}


def expected(plan: Plan) -> dict[str, str]:
    return {name: format_name.partition(":")[0] for name, format_name in plan.formats.items()}


def refused(model: Any, plan: Any, error: type[bitzones.BitzonesError]) -> str:
    """The one line, after which every weight of a model is what it was."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()} if isinstance(model, PreTrainedModel) else {}
    with pytest.raises(error) as caught:
        bitzones.apply(plan, model)
    if before:
        after = model.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- by a plan


def test_a_plan_quantizes_what_it_names_and_returns_the_model(plan: Plan, source: Path, tmp_path: Path) -> None:
    analysis = bitzones.analyze(make_run.write(tmp_path, make_run.run_dict(make_run.planned())))
    assert analysis.decision is not None
    same = analysis.model_copy(update={"decision": analysis.decision.model_copy(update={"plan": plan})})
    for given in (plan, same, plan.write(tmp_path / "plan.json"), str(tmp_path / "plan.json")):
        model = load(source)
        assert bitzones.apply(given, model) is model
        assert formats_of(model) == expected(plan)
        stays = next(name for name, format_name in plan.assignment.items() if format_name == "bf16")
        assert torch.equal(model.get_parameter(f"{stays}.weight"), load(source).get_parameter(f"{stays}.weight"))


def test_it_makes_the_integers_that_quanto_makes(plan: Plan, source: Path) -> None:
    model, other = bitzones.apply(plan, load(source)), load(source).requires_grad_(False)
    quantizing.quantize(other, plan.formats)
    mine, theirs = packing.packed_weights(model), packing.packed_weights(other)
    assert all(torch.equal(packing.dense(mine[name], torch.float32), packing.dense(theirs[name], torch.float32)) for name in mine)


def test_what_it_computes_is_near_the_reference_and_not_the_same(source: Path, plan: Plan) -> None:
    """At 8 bits in float32: logits move by less than a twentieth of their spread, and do move."""
    ids = torch.arange(1, 33)[None]
    with torch.no_grad():
        dense = load(source).float()(input_ids=ids).logits
        model = bitzones.apply(dict.fromkeys(plan.assignment, "qint8"), load(source))
        quantizing.set_compute_dtype(model, torch.float32)
        apart = (model(input_ids=ids).logits - dense).std() / dense.std()
    assert 0 < float(apart) < 0.05


def test_calibrated_formats_are_rounded_on_the_sequences_of_the_plan(plan: Plan, source: Path) -> None:
    made = Plan.model_validate({**plan.model_dump(by_alias=True), **calibrated(plan)})
    model = bitzones.apply(made, load(source))
    batches = list(sequences.batches(CALIBRATED_ON, 4, CPU))
    wanted = layerwise.in_sequence(load(source).float(), made.formats, batches, torch.bfloat16).weights
    packed = packed_weights(model)
    two_bits = [name for name, format_name in made.formats.items() if format_name == "qint2:gptq"]
    assert two_bits
    stock = packed_weights(bitzones.apply(dict.fromkeys(two_bits, "qint2"), load(source)))
    for name in two_bits:
        assert torch.equal(packed[name].parts().integers, wanted[name].parts().integers)
    assert any(not torch.equal(packed[name].parts().integers, stock[name].parts().integers) for name in two_bits)


def test_another_model_is_refused(plan: Plan, source: Path, tmp_path: Path) -> None:
    other = tiny_models.llama(torch.bfloat16)
    other.model.layers[0].mlp.up_proj.weight.data += 0.1
    changed = load(tiny_models.save(tmp_path / "changed", other))
    assert "the plan is for other weights: SHA-256 of" in refused(changed, plan, bitzones.PlanError)
    shallow = tiny_models.llama(torch.bfloat16, layers=2)
    assert "the plan names 'model.layers.2." in refused(shallow, plan, bitzones.PlanError)
    narrow = load(source)
    narrow.model.layers[0].mlp.down_proj = torch.nn.Linear(192, 192, bias=False, dtype=torch.bfloat16)
    assert "another model" in refused(narrow, plan, bitzones.PlanError)
    swapped = load(source)
    layer = swapped.model.layers[0].mlp
    layer.up_proj, layer.down_proj = layer.down_proj, layer.up_proj  # the same bytes, the other way round
    assert "group size 96 for 'model.layers.0.mlp.up_proj', and with its 384 input features it would be 128" in refused(
        swapped,
        plan.model_copy(update={"assignment": plan.assignment | {UP: "qint4"}, "group_sizes": plan.group_sizes | {UP: 96}}),
        bitzones.PlanError,
    )
    wide = load(source, "float32")
    assert refused(wide, plan, bitzones.PlanError).startswith("the plan is for weights in bfloat16, and ")
    assert plan.model is not None
    gpt = plan.model_copy(update={"model": plan.model.model_copy(update={"architecture": "GPT2LMHeadModel"})})
    assert "the plan is for 'GPT2LMHeadModel'" in refused(load(source), gpt, bitzones.PlanError)


def test_weights_whose_files_are_not_known_are_taken_by_their_shape(plan: Plan) -> None:
    assert formats_of(bitzones.apply(plan, tiny_models.llama(torch.bfloat16))) == expected(plan)


def test_a_plan_measured_from_a_gguf_is_not_held_against_safetensors(plan: Plan, source: Path) -> None:
    assert plan.model is not None
    gguf = plan.model_copy(update={"model": plan.model.model_copy(update={"source": "pypi:a==1#b.gguf", "sha256": "f" * 64})})
    assert formats_of(bitzones.apply(gguf, load(source))) == expected(plan)


def test_a_model_measured_in_memory_is_known_by_its_weights(plan: Plan) -> None:
    assert plan.model is not None
    sha256 = structure.weights_sha256(tiny_models.llama(torch.bfloat16))
    here = plan.model_copy(update={"model": plan.model.model_copy(update={"source": "memory:LlamaForCausalLM", "sha256": sha256})})
    changed = tiny_models.llama(torch.bfloat16)
    changed.model.norm.weight.data[0] += 1
    assert "the plan is for other weights" in refused(changed, here, bitzones.PlanError)
    assert formats_of(bitzones.apply(here, tiny_models.llama(torch.bfloat16))) == expected(plan)


def test_a_model_that_is_quantized_already_is_refused(plan: Plan, source: Path) -> None:
    done = bitzones.apply(plan, load(source))
    for again in (plan, {UP: "qint4"}):
        with pytest.raises(bitzones.ModelError, match="the model is quantized already: load a fresh copy"):
            bitzones.apply(again, done)
    foreign = load(source)
    foreign.config.quantization_config = {"quant_method": "awq"}
    assert "the model was loaded quantized" in refused(foreign, plan, bitzones.ModelError)


@pytest.mark.parametrize("model", ["a name", None, torch.nn.Linear(2, 2)])
def test_what_is_no_model_is_refused(plan: Plan, model: Any) -> None:
    assert "expected a transformers PreTrainedModel in memory, got a" in refused(model, plan, bitzones.ArgumentError)


# --- by names


def test_names_and_patterns(source: Path) -> None:
    """An exact name goes before patterns, an earlier pattern before a later one; what nothing names, and the head, stay."""
    model = bitzones.apply({"*.layers.0.*": "qint8", "*.mlp.*": "qint4", DOWN: "qint2", "*.layers.2.mlp.*": "qint8"}, load(source))
    found = formats_of(model)
    assert found[DOWN] == "qint2"
    assert {found[name] for name in found if ".layers.0." in name and name != DOWN} == {"qint8"}
    assert {found[name] for name in found if ".layers.2." in name} == {"qint4"}
    assert set(found) == {name for name in structure.quantizable_modules(load(source)) if ".layers.0." in name or ".mlp." in name}


def test_the_name_of_a_dense_dtype_leaves_a_module_as_it_is(source: Path) -> None:
    found = formats_of(bitzones.apply({UP: "bf16", "*.mlp.*": "qint4"}, load(source)))
    assert UP not in found
    assert DOWN in found


@pytest.mark.parametrize(
    ("formats", "says"),
    [
        ({"*.nothing": "qint4"}, "'*.nothing' matches no module of LlamaForCausalLM that can be quantized, such as 'model.layers.0."),
        ({UP: "qint3"}, f"format 'qint3' of module '{UP}': "),
        ({UP: "qint4:gptq"}, f"module '{UP}' is to be qint4:gptq, which takes sensitivity sequences: give a plan, which holds them"),
        ({UP: "bf16"}, "it leaves every module as it is: there is nothing to apply"),
        ({}, "it leaves every module as it is: there is nothing to apply"),
        ({UP: 4}, f"format 4 of module '{UP}': "),
    ],
)
def test_wrong_names_and_formats_are_refused(source: Path, formats: Any, says: str) -> None:
    assert refused(load(source), formats, bitzones.PlanError).startswith(says)


def test_a_module_that_is_no_linear_layer_is_refused(source: Path) -> None:
    assert "LlamaRMSNorm: not quantizable" in refused(load(source), {"model.norm": "qint8"}, bitzones.ModelError)


# --- exports


def test_every_target_is_a_function_of_one_kind() -> None:
    signatures = {name: inspect.signature(target(name)) for name in TARGETS}
    assert {name: list(signature.parameters) for name, signature in signatures.items()} == {name: ["request"] for name in TARGETS}


def test_a_target_that_is_not_there(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(bitzones.ArgumentError, match="there is no export to 'vllm'; targets: quanto, mlx"):
        bitzones.export(plan, tmp_path / "model", to="vllm")
    assert not (tmp_path / "model").exists()


def test_an_export_is_what_is_quantized_in_memory(plan: Plan, source: Path, tmp_path: Path) -> None:
    """At 4 bits: the packed integers of the checkpoint are those of the model in memory."""
    four = dict.fromkeys(plan.formats, "qint4")
    sizes = {name: 128 if name.endswith("down_proj") else 96 for name in four}
    made = plan.model_copy(update={"assignment": four, "group_sizes": sizes})
    steps: list[str] = []
    exported = bitzones.export(made, tmp_path / "model", notify=steps.append)
    stored, mine = (packing.packed_weights(model) for model in (saving.reload(exported.folder), bitzones.apply(four, load(source))))
    assert stored.keys() == mine.keys() == four.keys()
    assert all(torch.equal(stored[name]._data.unpack(), mine[name]._data.unpack()) for name in four)
    assert exported.modules == {"qint4": len(four)}
    assert steps[0] == f"loading '{source}'"
    assert bitzones.verify_export(exported.folder) is None
    (exported.folder / "config.json").write_text("{}", encoding="utf-8")
    assert "'config.json' is not as bitzones apply wrote it" in str(bitzones.verify_export(exported.folder))
