"""A folder that is not what it was when it was made is told from one that is, whatever was done to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import make_plan
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file

from bitzones.deploy import quanto_checkpoint as deploy
from bitzones.deploy import verify
from bitzones.deploy.export_request import ExportRequest
from bitzones.deploy.plan_file import read_plan
from bitzones.schema.errors import BitzonesError, ModelError, PlanError

CPU = torch.device("cpu")
UP = "model.layers.0.mlp.up_proj"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("check")
    source = tiny_models.save(place / "source")
    plan = make_plan.for_tiny_llama(source, verify.file_hashes(source)[WEIGHTS])
    return deploy.apply(ExportRequest(read_plan(make_plan.write(place / "plan.json", plan)), place / "model", CPU)).folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "model"))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def hash_again(folder: Path) -> None:
    """What somebody does who edits a folder and wants it to pass."""
    edit(folder / verify.CHECK_FILE, lambda data: data.update(files=verify.file_hashes(folder)))


def differs(folder: Path) -> str:
    said = verify.check(folder, CPU)
    assert said is not None
    assert said.startswith(f"{folder}: ")
    assert "\n" not in said
    return said.removeprefix(f"{folder}: ")


def cannot(folder: Path, error: type[BitzonesError] = PlanError) -> str:
    with pytest.raises(error) as caught:
        verify.check(folder, CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- as it was


def test_a_folder_as_it_was_made_passes_wherever_it_lies(folder: Path) -> None:
    said: list[str] = []
    assert verify.check(folder, CPU, said.append) is None
    steps = [step for step in said if not step.startswith("asking quanto's kernels")]  # where a machine's kernels are not known yet
    assert steps == ["comparing the files with their hashes", "loading", "computing"]  # not in float32: the bits are the same


def test_the_model_card_is_the_users(folder: Path) -> None:
    (folder / "README.md").write_text("mine", encoding="utf-8")
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    assert verify.check(folder, CPU) is None


# --- files that differ


def test_a_missing_file(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    assert differs(folder) == "'model.safetensors' is missing"


def shard(folder: Path) -> list[Path]:
    """The same checkpoint in two files and an index, as quanto saves a large one."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    files = {f"model-0000{n + 1}-of-00002.safetensors": names[n::2] for n in range(2)}
    for file, held in files.items():
        save_file({name: tensors[name] for name in held}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, held in files.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    hash_again(folder)
    return [folder / file for file in files]


def test_a_missing_shard(folder: Path) -> None:
    shards = shard(folder)
    assert verify.check(folder, CPU) is None
    shards[1].unlink()
    assert differs(folder) == f"{shards[1].name!r} is missing"
    hash_again(folder)
    assert "quanto cannot load this" in cannot(folder, ModelError)


def test_a_flipped_bit_and_a_file_that_did_not_arrive_whole(folder: Path) -> None:
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert differs(folder).startswith("'model.safetensors' is not as bitzones apply wrote it")
    (folder / WEIGHTS).write_bytes(weights[:-1000])
    assert differs(folder).startswith("'model.safetensors' is not as bitzones apply wrote it")
    hash_again(folder)
    assert "quanto cannot load this" in cannot(folder, ModelError)


@pytest.mark.parametrize("name", ["plan.json", "quanto_qmap.json", "config.json", "tokenizer.json"])
def test_a_changed_file(folder: Path, name: str) -> None:
    with (folder / name).open("a", encoding="utf-8") as file:
        file.write("\n")
    assert differs(folder).startswith(f"{name!r} is not as bitzones apply wrote it")


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "model-2.safetensors", "modeling_own.py"])
def test_an_added_file_that_would_be_loaded(folder: Path, name: str) -> None:
    (folder / name).write_text("{}", encoding="utf-8")
    assert differs(folder) == f"{name!r} was added, and would change what is loaded"


# --- files that differ, hashed again by whoever changed them


def test_another_plan(folder: Path) -> None:
    edit(folder / "plan.json", lambda plan: plan["assignment"].update({UP: "qint8"}))
    hash_again(folder)
    assert differs(folder) == f"not what its plan says: module {UP!r} should be qint8 and is qint4"


def test_another_group_size(folder: Path) -> None:
    edit(folder / "plan.json", lambda plan: plan["group_sizes"].update({UP: 32}))
    hash_again(folder)
    assert (
        differs(folder)
        == f"not what its plan says: module {UP!r} should have a scale for every 32 weights and has one for every 96 weights"
    )


def test_a_plan_that_names_less(folder: Path) -> None:
    def forget(plan: dict[str, Any]) -> None:
        del plan["assignment"][UP], plan["group_sizes"][UP]

    edit(folder / "plan.json", forget)
    hash_again(folder)
    assert differs(folder) == f"not what its plan says: module {UP!r} is quantized and was not requested"


def test_another_map(folder: Path) -> None:
    """The map decides what the loaded tensors are taken for."""
    edit(folder / "quanto_qmap.json", lambda qmap: qmap.pop(UP))
    hash_again(folder)
    with pytest.raises(ModelError, match=f"no file holds the model's tensor '{UP}.weight'"):
        differs(folder)


def test_a_missing_tensor_which_quanto_does_not_miss(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.pop(f"{UP}.weight._scale"))
    hash_again(folder)
    with pytest.raises(ModelError, match=f"no file holds the model's tensor '{UP}.weight'"):
        differs(folder)


def test_another_scale(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors[f"{UP}.weight._scale"].mul_(2))
    hash_again(folder)
    said = differs(folder)
    assert said.startswith("it computes something else than it did: log-probabilities are ")
    assert said.endswith("nats off on average, and 0.001 is allowed")


def test_one_scale_of_one_row(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors[f"{UP}.weight._scale"][7].mul_(2))
    hash_again(folder)
    assert differs(folder).startswith("it computes something else than it did: log-probabilities are ")


def test_versions_are_named_where_they_may_be_why(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors[f"{UP}.weight._scale"].mul_(2))
    hash_again(folder)
    edit(folder / verify.CHECK_FILE, lambda data: data["versions"].update(torch="1.0", gone="2.0"))
    said = differs(folder)
    assert f"(made with torch 1.0 there and {torch.__version__} here, gone 2.0 there and absent here)" in said


def test_another_configuration(folder: Path) -> None:
    edit(folder / "config.json", lambda config: config.update(rms_norm_eps=0.1))
    hash_again(folder)
    assert differs(folder).startswith("it computes something else than it did: ")
    edit(folder / "config.json", lambda config: config.update(dtype="float32"))
    hash_again(folder)
    assert "the model does not run: RuntimeError: expected m1 and m2 to have the same dtype" in cannot(folder, ModelError)


def test_embeddings_that_were_tied(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    edit(folder / "config.json", lambda config: config.update(tie_word_embeddings=False))
    hash_again(folder)
    assert differs(folder) == "its input and output embeddings were one tensor and are not any more"


def test_code_in_the_folder_is_not_run(folder: Path, tmp_path: Path) -> None:
    touched = tmp_path / "ran"
    (folder / "own.py").write_text(f"from pathlib import Path\nPath({str(touched)!r}).touch()\nclass C: pass\n", encoding="utf-8")
    maps = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.C"}
    edit(folder / "config.json", lambda config: config.update(auto_map=maps))
    hash_again(folder)
    assert verify.check(folder, CPU) is None  # transformers' own class of that type is taken
    edit(folder / "config.json", lambda config: config.update(model_type="own"))
    hash_again(folder)
    assert "quanto cannot load this" in cannot(folder, ModelError)
    assert not touched.exists()


# --- the tolerance


@pytest.mark.parametrize(("apart", "passes"), [(0.0, True), (0.9, True), (1.1, False)])
def test_another_machine_may_differ_by_so_much(folder: Path, apart: float, passes: bool) -> None:
    """Its logits have other bits; the log-probabilities decide."""

    def elsewhere(data: dict[str, Any]) -> None:
        data["logits_sha256"] = "0" * 64
        off = apart * verify.TOLERANCE_NATS
        data["log_probabilities"] = [[[value + off for value in position] for position in row] for row in data["log_probabilities"]]

    edit(folder / verify.CHECK_FILE, elsewhere)
    assert (verify.check(folder, CPU) is None) is passes


def test_kernels_that_compute_something_else_than_float32_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far off as bfloat16's rounding is, the only honest example: with a tolerance below it, that rounding is found."""
    edit(folder / verify.CHECK_FILE, lambda data: data.update(logits_sha256="0" * 64))
    monkeypatch.setitem(verify.KERNEL_TOLERANCE_NATS, "bfloat16", 1e-6)
    assert differs(folder).startswith("kernels for bfloat16 compute something else here: log-probabilities are 0.0")


def test_what_is_kept_are_the_most_likely_tokens(original: Path) -> None:
    data = json.loads((original / verify.CHECK_FILE).read_text(encoding="utf-8"))
    values = torch.tensor(data["log_probabilities"])
    assert values.shape == (2, 16, verify.TOP)
    assert bool((values.diff(dim=-1) <= 0).all())
    assert bool((values.exp().sum(-1) < 1).all())


# --- what cannot be told


def test_no_folder_and_no_record(tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere", tmp_path):
        assert cannot(place).startswith(f"{place / verify.CHECK_FILE}: cannot be read: No such file or directory; bitzones apply writes it")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON, or truncated"),
        ('{"format": "bitz', "not JSON, or truncated"),
        ("[" * 100_000, "not JSON, or truncated"),
        ("[]", "not what bitzones apply writes"),
        ('{"format": "bitzones-plan"}', "not what bitzones apply writes"),
        ('{"format": "bitzones-check", "schema": 9}', "its schema number is 9, this bitzones reads 1"),
        ('{"format": "bitzones-check", "schema": 1}', "key 'bitzones': Field required"),
    ],
)
def test_a_record_that_is_none(folder: Path, text: str, said: str) -> None:
    (folder / verify.CHECK_FILE).write_text(text, encoding="utf-8")
    assert cannot(folder) == f"{folder / verify.CHECK_FILE}: {said}" or said in cannot(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"files": {"../plan.json": "0"}}, "String should match pattern"),
        ({"files": {"/etc/passwd": "0"}}, "String should match pattern"),
        ({"token_ids": [[1, 2], [3]]}, "damaged: "),
        ({"token_ids": [[1, 2]]}, "damaged: tokens and log-probabilities differ in number"),
        ({"token_ids": []}, "key 'token_ids'"),
        ({"log_probabilities": [[["NaN"]]]}, "key 'log_probabilities.0.0.0'"),
        ({"top_tokens": [], "log_probabilities": []}, "damaged: tokens and log-probabilities differ in number"),
        ({"colour": 1}, "key 'colour': Extra inputs are not permitted"),
    ],
)
def test_a_record_that_is_wrong(folder: Path, change: dict[str, Any], said: str) -> None:
    edit(folder / verify.CHECK_FILE, lambda data: data.update(change))
    assert said in cannot(folder)


def test_tokens_of_another_model(folder: Path) -> None:
    edit(folder / verify.CHECK_FILE, lambda data: data["token_ids"][0].__setitem__(0, 100_000))
    assert "token id 100000 is not one of the model's" in cannot(folder, ModelError)


def test_a_plan_of_another_version(folder: Path) -> None:
    edit(folder / "plan.json", lambda plan: plan.update(schema=99))
    hash_again(folder)
    assert "its schema number is 99" in cannot(folder)
