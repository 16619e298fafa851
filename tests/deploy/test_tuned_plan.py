"""A tuned plan: its weights travel in a file beside it, and every way to use a plan uses them, or says in one line why not."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import make_plan
import pytest
import tiny_models
import torch
from calibrated_plans import CALIBRATED_ON, calibrated
from optimum.quanto import QuantizedModelForCausalLM
from transformers import AutoModelForCausalLM, PreTrainedModel

import bitzones
from bitzones.analysis.plan import Plan
from bitzones.backends.quanto import affine, packing, saving

NORM = "model.norm.weight"
TOKENS = 480


def words(count: int = 60) -> list[str]:
    """Words of five letters in random order: short contexts recur, so that what is learned on some words holds for others."""
    letters = random.Random(3)
    return ["".join(letters.choices("abcde", k=14)) for _ in range(count)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tmp_path_factory.mktemp("source"), tiny_models.llama(torch.bfloat16))


@pytest.fixture(scope="module")
def plan(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibrated, stock, 8-bit and dense modules."""
    made = make_plan.for_tiny_llama(source, hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest())
    weights = tiny_models.llama(torch.bfloat16)
    size = sum(2 * weights.get_parameter(f"{name}.weight").numel() for name in made.assignment)
    return make_plan.write(tmp_path_factory.mktemp("plan") / "plan.json", made, reference_bytes=size, **calibrated(made))


def tune(plan: Path | Plan, output: Path, **options: Any) -> Plan:
    return bitzones.tune(plan, output, **{"passes": 2, "learning_rate": 0.02, "norms": True, **options})


@pytest.fixture(scope="module")
def tuned(plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tuned") / "tuned.json"
    tune(plan, place, text=[words()], tokens=TOKENS)
    return place


def load(source: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(source, dtype="bfloat16")
    return model


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.tensor([CALIBRATED_ON.sequences[0].ids]), use_cache=False).logits
    return found


def test_the_plan_says_what_was_tuned_and_keeps_everything_else(plan, tuned):
    before, after = bitzones.read_plan(plan), bitzones.read_plan(tuned)
    assert (after.name, after.origin) == ("tuned", "tuned")
    assert after.assignment == before.assignment
    assert after.achieved == before.achieved
    found = after.tuning
    assert found is not None
    assert found.file == "tuned.safetensors"
    assert found.after < found.before
    assert found.tokens + found.validation_tokens >= TOKENS
    assert not list(tuned.parent.glob(".*"))


def test_integers_and_bytes_are_those_of_the_plan_and_the_rest_is_not(source, plan, tuned):
    before, after = bitzones.apply(plan, load(source)), bitzones.apply(tuned, load(source))
    was, now = packing.packed_weights(before), packing.packed_weights(after)
    for name, weight in now.items():
        ours, theirs = affine.parts(weight), affine.parts(was[name])
        assert torch.equal(ours.integers, theirs.integers)
        assert packing.stored_bytes(weight) == packing.stored_bytes(was[name])
        assert torch.equal(ours.scale, theirs.scale) is (weight.qtype.name == "qint8")
    assert not torch.equal(before.get_parameter(NORM), after.get_parameter(NORM))


def test_vanilla_quanto_loads_the_folder_with_the_tuned_weights(source, tuned, tmp_path):
    bitzones.export(tuned, tmp_path / "model")
    vanilla = QuantizedModelForCausalLM.from_pretrained(tmp_path / "model")
    applied = bitzones.apply(tuned, load(source))
    saving.repack_as_reloaded(applied)  # a kernel's packing loses bits of a shift each time
    assert torch.equal(logits(vanilla._wrapped), logits(applied))
    assert torch.equal(vanilla._wrapped.get_parameter(NORM), applied.get_parameter(NORM))
    assert bitzones.verify_export(tmp_path / "model") is None


@pytest.mark.parametrize("what", ["missing", "changed", "of another model"])
def test_weights_that_are_not_the_plans_are_refused_in_one_line(source, tuned, tmp_path, what):
    plan = json.loads(tuned.read_text(encoding="utf-8"))
    data = tuned.with_suffix(".safetensors").read_bytes()
    if what == "of another model":
        from safetensors.torch import load as tensors_of
        from safetensors.torch import save

        data = save({name: tensor for name, tensor in tensors_of(data).items() if ".layers.2." not in name})
        plan["tuning"]["sha256"] = hashlib.sha256(data).hexdigest()
    if what != "missing":
        (tmp_path / "tuned.safetensors").write_bytes(data[:-1] + b"\0\0" if what == "changed" else data)
    (tmp_path / "tuned.json").write_text(json.dumps(plan), encoding="utf-8")
    with pytest.raises(bitzones.PlanError) as caught:
        bitzones.export(tmp_path / "tuned.json", tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert "tuned.safetensors" in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_a_tuned_plan_in_memory_has_no_place_for_its_weights(source, tuned):
    with pytest.raises(bitzones.PlanError, match="give the path"):
        bitzones.apply(bitzones.read_plan(tuned), load(source))


def test_what_cannot_be_tuned_is_refused_before_anything_is_written(plan, tuned, tmp_path):
    known = bitzones.read_plan(plan)
    with pytest.raises(bitzones.PlanError, match="tuned already"):
        tune(tuned, tmp_path / "x.json")
    with pytest.raises(bitzones.OutputError, match="already"):
        tune(plan, tuned)
    with pytest.raises(bitzones.ArgumentError, match="passes"):
        tune(plan, tmp_path / "x.json", passes=0)
    stock = known.model_copy(
        update={"assignment": {name: form.replace(":gptq", "") for name, form in known.assignment.items()}, "calibration": None}
    )
    with pytest.raises(bitzones.PlanError, match="give text"):
        tune(stock, tmp_path / "x.json")
    wide = {name: "qint8" if name in known.formats else form for name, form in known.assignment.items()}
    with pytest.raises(bitzones.PlanError, match="no module in 4 or 2 bits of quanto"):
        tune(known.model_copy(update={"assignment": wide}), tmp_path / "x.json", text=["embedded:law"])
    assert not list(tmp_path.iterdir())


def test_a_tuning_that_does_not_help_writes_nothing(plan, tmp_path):
    with pytest.raises(bitzones.PlanError, match="did not lower"):
        tune(plan, tmp_path / "x.json", learning_rate=1.0, passes=1)
    assert not list(tmp_path.iterdir())
