"""A bundle holds the base and what differs, computes what every plan alone does, and is refused where it is not as it was written."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import make_plan
import pytest
import tiny_bundle
import torch
from calibrated_plans import calibrated
from optimum.quanto import QuantizedModelForCausalLM
from safetensors.torch import load_file

from bitzones import serve
from bitzones.backends.weights import packed_weights
from bitzones.deploy import fingerprint
from bitzones.deploy.plan_file import PlanFile, read_plan
from bitzones.schema.errors import ArgumentError, BitzonesError, ModelError, OutputError, PlanError
from bitzones.serve import served_loader
from bitzones.serve.bundle_request import check_plans
from bitzones.serve.bundle_writer import Bundled
from bitzones.tuning import packed_weights as tuning
from bitzones.tuning import weights_file

Plans = tuple[PlanFile, dict[str, PlanFile]]
NORM, TUNED_NORM = "model.norm.weight", torch.full((192,), 1.25, dtype=torch.bfloat16)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(1, 33)[None], use_cache=False).logits
    return found


# --- what is written


def test_only_modules_that_differ_are_stored(bundled: Bundled) -> None:
    found = {task.name: task.modules for task in bundled.record.tasks}
    assert found == tiny_bundle.CHANGES
    for task in bundled.record.tasks:
        tensors = load_file(bundled.folder / task.weights)
        assert {name.partition(".weight")[0] for name in tensors if ".weight" in name} == set(task.modules)
        assert sum(tensor.nbytes for tensor in tensors.values()) == task.stored_bytes


def test_what_is_stored_is_what_the_plan_alone_stores(bundled: Bundled, alone: dict[str, Path]) -> None:
    whole = load_file(alone["short"] / "model.safetensors")
    for name, tensor in load_file(bundled.folder / "tasks" / "short.safetensors").items():
        assert torch.equal(tensor, whole[name]), name


def test_vanilla_quanto_loads_the_base(bundled: Bundled) -> None:
    vanilla = QuantizedModelForCausalLM.from_pretrained(bundled.folder / "base")
    served = serve.load(bundled.folder, compute_dtype="bfloat16")
    assert torch.equal(logits(vanilla._wrapped), logits(served.model))


@pytest.mark.parametrize("compute_dtype", ["bfloat16", "float32"])
def test_every_task_computes_what_its_plan_alone_computes(
    bundled: Bundled, alone: dict[str, Path], compute_dtype: served_loader.ComputeDtype
) -> None:
    served = serve.load(bundled.folder, compute_dtype=compute_dtype)
    seen = [logits(served.model)]
    for name, folder in alone.items():
        with served.precision(name):
            seen.append(logits(served.model))
        assert torch.equal(seen[-1], logits(serve.load(folder, compute_dtype=compute_dtype).model)), name
        assert torch.equal(logits(served.model), seen[0])
    assert not any(torch.equal(one, other) for one, other in combinations(seen, 2))


def test_a_plan_like_the_base_stores_nothing(plans: Plans, tmp_path: Path) -> None:
    base, _ = plans
    twin = read_plan(make_plan.write(tmp_path / "twin.json", base.plan.model_copy(update={"name": "twin"})))
    made = tiny_bundle.made(tmp_path / "bundle", base, {"twin": twin})
    assert (made.record.tasks[0].modules, made.record.tasks[0].stored_bytes) == ({}, 0)
    assert serve.load(made.folder).tasks == ("base", "twin")


# --- calibrated and tuned plans


def calibrated_pair(folder: Path, source: Path) -> Plans:
    """Two plans that differ in the first layer only, and are rounded in sequence."""
    base = tiny_bundle.base_plan(source)
    other = tiny_bundle.changed(base, "task", {f"{tiny_bundle.LAYER}.self_attn.q_proj": "qint8"})
    read = [read_plan(make_plan.write(folder / f"{plan.name}.json", plan, **calibrated(plan))) for plan in (base, other)]
    return read[0], {"task": read[1]}


def test_rounding_in_sequence_reaches_modules_of_equal_format_and_may_be_left(source: Path, tmp_path: Path) -> None:
    base, tasks = calibrated_pair(tmp_path, source)
    (own,) = tiny_bundle.made(tmp_path / "own", base, tasks).record.tasks
    (kept,) = tiny_bundle.made(tmp_path / "kept", base, tasks, keep_rounding=True).record.tasks
    calibrated_ones = {name for name, chosen in base.formats.items() if chosen.endswith("gptq")}
    first = f"{tiny_bundle.LAYER}.self_attn.q_proj"
    assert set(own.modules) - {first} <= calibrated_ones  # what is not calibrated rounds alike
    assert len(own.modules) > 1
    assert set(kept.modules) == {first}
    assert (own.logits_sha256 is None, kept.logits_sha256 is None) == (False, True)  # the mixed model is no plan's
    assert kept.stored_bytes < own.stored_bytes


@pytest.fixture(scope="module")
def tuned(plans: Plans, alone: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> PlanFile:
    """A plan as if tuned: its own weights in a file, and another norm."""
    planned, folder = plans[1]["long"], tmp_path_factory.mktemp("tuned")
    model = QuantizedModelForCausalLM.from_pretrained(alone["long"])._wrapped
    weights = {name: weight for name, weight in packed_weights(model).items() if tuning.tunable(planned.formats[name])}
    sha256 = weights_file.write(folder / "tuned.safetensors", weights, {NORM: TUNED_NORM})
    record = {"file": "tuned.safetensors", "sha256": sha256, "sequences_sha256": "c" * 64, "tokens": 10, "validation_tokens": 10}
    record |= {"steps": 1, "best_step": 1, "norms": True, "before": 0.2, "after": 0.1}
    return read_plan(make_plan.write(folder / "tuned.json", planned.plan, tuning=record))


def test_a_tuned_norm_is_swapped_too(plans: Plans, tuned: PlanFile, tmp_path: Path) -> None:
    (task,) = tiny_bundle.made(tmp_path / "bundle", plans[0], {"tuned": tuned}).record.tasks
    assert (task.dense, set(task.modules)) == ((NORM,), set(tiny_bundle.CHANGES["long"]))
    served = serve.load(tmp_path / "bundle", compute_dtype="bfloat16")
    before = served.model.get_parameter(NORM).clone()
    with served.precision("tuned"):
        assert torch.equal(served.model.get_parameter(NORM), TUNED_NORM)
    assert torch.equal(served.model.get_parameter(NORM), before)


def test_sharing_the_rounding_of_a_tuned_plan_is_refused(plans: Plans, tuned: PlanFile, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"'tuned' is tuned"):
        tiny_bundle.made(tmp_path / "bundle", plans[0], {"tuned": tuned}, keep_rounding=True)
    assert not (tmp_path / "bundle").exists()


# --- what is refused


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "a:b", "a\nb", "x" * 65, "Base", "ünder"])
def test_a_name_that_is_unsafe_as_a_file_is_refused(name: str, plans: Plans) -> None:
    with pytest.raises(ArgumentError, match="task name"):
        check_plans(plans[0], [(name, plans[1]["short"])])


def other(planned: PlanFile, folder: Path, **changes: Any) -> PlanFile:
    return read_plan(make_plan.write(folder / "other.json", planned.plan, **changes))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda short, _: [("a", short), ("A", short)], "two plans have that name"),
        (lambda short, _: [("a", short), ("b", short)], "the same plan as 'a'"),
        (lambda _, __: [], "at least one task"),
        (
            lambda short, place: [("a", other(short, place, model={**short.model.model_dump(), "sha256": "1" * 64}))],
            "sha256 is '111111111111'",
        ),
        (lambda short, place: [("a", other(short, place, model={**short.model.model_dump(), "dtype": "float16"}))], "dtype is 'float16'"),
        (
            lambda short, place: [("a", other(short, place, assignment={**short.plan.assignment, "lm_head": "bf16"}))],
            "only its plan decides about module 'lm_head'",
        ),
    ],
)
def test_plans_that_do_not_fit_together_are_refused(
    spoil: Callable[[PlanFile, Path], list[tuple[str, PlanFile]]], said: str, plans: Plans, tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match=said) as told:
        check_plans(plans[0], spoil(plans[1]["short"], tmp_path))
    assert "\n" not in str(told.value)


def test_a_tuned_plan_without_its_weights_is_refused_before_anything_is_made(plans: Plans, tuned: PlanFile, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"tuned\.safetensors.* is not there"):
        check_plans(plans[0], [("tuned", replace(tuned, folder=tmp_path))])


def test_a_taken_folder_stays_as_it_is(plans: Plans, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years", encoding="utf-8")
    with pytest.raises(OutputError, match="not empty"):
        tiny_bundle.made(tmp_path / "mine", *plans, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


# --- what is not as it was written


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def replace_base(folder: Path) -> None:
    """Other weights, and a record of the base that fits them."""
    flip(folder / "base" / "model.safetensors")
    check = json.loads((folder / "base" / "bitzones_check.json").read_text(encoding="utf-8"))
    check["files"]["model.safetensors"] = hashlib.sha256((folder / "base" / "model.safetensors").read_bytes()).hexdigest()
    (folder / "base" / "bitzones_check.json").write_text(json.dumps(check), encoding="utf-8")


FILES = ("tasks/short.safetensors", "base/model.safetensors", "base/config.json", "base/tokenizer.json", "base/plan.json")


@pytest.mark.parametrize("spoil", [flip, truncate, Path.unlink])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_changed_truncated_or_gone_is_refused(
    bundled: Bundled, tmp_path: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    shutil.copytree(bundled.folder, tmp_path / "b")
    spoil(tmp_path / "b" / name)
    with pytest.raises(PlanError, match=name.rpartition("/")[2]):
        serve.load(tmp_path / "b")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda b: (b / "bundle.json").write_text("{", encoding="utf-8"), "not JSON"),
        (lambda b: edit(b / "bundle.json", schema=2), "schema"),
        (lambda b: edit(b / "bundle.json", format="x"), "format"),
        (lambda b: edit(b / "bundle.json", files={"base/../../../etc/passwd": "0" * 64}), "files"),
        (lambda b: edit(b / "bundle.json", files={}), "not a file of this bundle"),
        (replace_base, r"base/model\.safetensors: not the file of this bundle"),
        (lambda b: (b / "base" / "evil.py").write_text("1", encoding="utf-8"), r"evil\.py.*added"),
        (lambda b: shutil.rmtree(b / "base"), "cannot be read"),
        (lambda b: shutil.copy(b / "tasks" / "long.safetensors", b / "tasks" / "short.safetensors"), "not the file of this bundle"),
    ],
)
def test_a_record_or_folder_that_is_wrong_is_one_line(bundled: Bundled, tmp_path: Path, spoil: Callable[[Path], object], said: str) -> None:
    shutil.copytree(bundled.folder, tmp_path / "b")
    spoil(tmp_path / "b")
    with pytest.raises(BitzonesError, match=said) as told:
        serve.load(tmp_path / "b")
    assert "\n" not in str(told.value)


def test_weights_that_are_not_the_records_are_refused_although_their_hash_fits(bundled: Bundled, tmp_path: Path) -> None:
    """A bundle that somebody put together by hand."""
    shutil.copytree(bundled.folder, tmp_path / "b")
    record = json.loads((tmp_path / "b" / "bundle.json").read_text(encoding="utf-8"))
    short = next(task for task in record["tasks"] if task["name"] == "short")
    short["modules"][f"{tiny_bundle.LAYER}.self_attn.q_proj"] = "qint4"  # the file holds 2 bits
    edit(tmp_path / "b" / "bundle.json", tasks=record["tasks"])
    with pytest.raises(PlanError, match=r"short\.safetensors: no weights of this model"):
        serve.load(tmp_path / "b")


def test_a_bundle_that_would_compute_something_else_is_not_written(plans: Plans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = fingerprint.answer
    calls: list[int] = []

    def odd(model: Any, tokens: torch.Tensor) -> fingerprint.Answers:
        """The last answer, that of the base after all tasks, is another."""
        found = answer(model, tokens)
        calls.append(1)
        return found if len(calls) < 7 + 3 else fingerprint.Answers(found.token_ids, found.logits + 1, found.dtype)

    monkeypatch.setattr(fingerprint, "answer", odd)
    with pytest.raises(ModelError, match="computes something else for 'base'"):
        tiny_bundle.made(tmp_path / "bundle", *plans)
    assert not list(tmp_path.iterdir())
