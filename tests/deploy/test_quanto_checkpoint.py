"""A plan becomes a folder that vanilla quanto loads, or nothing at all."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import make_plan
import processes
import pytest
import tiny_models
import torch
from calibrated_plans import CALIBRATED_ON, calibrated
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bitzones import embedded
from bitzones.analysis.plan import Plan
from bitzones.backends.quanto import packing, saving
from bitzones.backends.weights import kernels, packed_weights
from bitzones.data import sequences
from bitzones.deploy import prepared, verify
from bitzones.deploy import quanto_checkpoint as deploy
from bitzones.deploy.export_request import ExportRequest
from bitzones.deploy.exported import Exported
from bitzones.deploy.plan_file import PlanFile, read_plan
from bitzones.models import loading, structure
from bitzones.rounding import layerwise as rounding
from bitzones.schema.errors import BitzonesError, ModelError, OutputError, PlanError
from bitzones.schema.profile_sections import Model

CPU = torch.device("cpu")
UP, DOWN = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"


def model_folder(folder: Path, *, tied: bool = True) -> Path:
    return tiny_models.save(folder, tiny_models.llama(torch.bfloat16, tied=tied))


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def plan(source: Path) -> Plan:
    return make_plan.for_tiny_llama(source, sha256(source))


def plan_file(folder: Path, plan: Plan, **changes: Any) -> PlanFile:
    return read_plan(make_plan.write(folder / "plan.json", plan, **changes))


@pytest.fixture(scope="module")
def made(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    place = tmp_path_factory.mktemp("made")
    return deploy.apply(ExportRequest(plan_file(place, plan), place / "model", CPU))


# --- what is made


VANILLA = """
import hashlib, json, re, torch
from pathlib import Path
from optimum.quanto import QuantizedModelForCausalLM
model = QuantizedModelForCausalLM.from_pretrained(".")
ids = json.loads(Path("bitzones_check.json").read_text())["token_ids"]
with torch.no_grad():
    logits = model(torch.tensor(ids)).logits
print(hashlib.sha256(logits.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest())
exec(re.search("```python\\n(.*?)```", Path("README.md").read_text(), re.S)[1])
"""


def test_vanilla_quanto_in_a_new_process_loads_it_and_computes_the_same(made: Exported) -> None:
    """Without a line of bitzones; and the lines of the model card run as they stand."""
    done = subprocess.run([sys.executable, "-c", VANILLA], cwd=made.folder, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    first, *text = done.stdout.splitlines()
    assert first == json.loads((made.folder / verify.CHECK_FILE).read_text(encoding="utf-8"))["logits_sha256"]
    assert "How many legs do two dogs have?" in "\n".join(text)


def test_every_weight_is_as_planned(made: Exported, plan: Plan) -> None:
    packed = packing.packed_weights(saving.reload(made.folder))
    assert {name: packing.group_size(weight) for name, weight in packed.items()} == plan.group_sizes
    assert {name: weight.qtype.name for name, weight in packed.items()} == {
        name: plan.assignment[name].partition(":")[0] for name in plan.group_sizes
    }
    assert "TinyGemmWeightQBitsTensor" in kernels(saving.reload(made.folder).modules())


def test_what_lies_in_the_folder(made: Exported, plan: Plan) -> None:
    names = {path.name for path in made.folder.iterdir()}
    assert {
        "README.md",
        "plan.json",
        "bitzones_check.json",
        "quanto_qmap.json",
        "config.json",
        "tokenizer.json",
        "model.safetensors",
    } <= names
    assert [path.name for path in made.folder.parent.iterdir() if path.name.startswith(".")] == []
    assert read_plan(made.folder / "plan.json").plan == plan
    assert set(json.loads((made.folder / "quanto_qmap.json").read_text(encoding="utf-8"))) == set(plan.group_sizes)
    assert "LlamaForCausalLM, quantized by" in (made.folder / "README.md").read_text(encoding="utf-8")


def test_the_last_lines_on_the_screen(made: Exported, plan: Plan, source: Path) -> None:
    assert made.bytes_after == (made.folder / "model.safetensors").stat().st_size
    stored = sum(tensor.numel() * tensor.element_size() for tensor in load_file(source / "model.safetensors").values())
    assert made.bytes_before == stored
    assert made.modules == Counter(plan.assignment.values())
    assert made.unnamed == 0
    first, second, third, last = made.lines()
    assert first.startswith(f"Weights: {stored / 1e6:.3f} MB before, {made.bytes_after / 1e6:.3f} MB in this folder (")
    assert second == "Modules: 9 qint4, 4 qint2:hqq, 4 qint8, 4 bf16"
    assert str(made.folder) in third
    assert f"QuantizedModelForCausalLM.from_pretrained({str(made.folder)!r})" in last


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings_stay_tied_in_every_dtype(tmp_path: Path, tied: bool, dtype: str) -> None:
    folder = model_folder(tmp_path / "source", tied=tied)
    reference = {"float32": "f32", "float16": "f16"}[dtype]
    plan = make_plan.for_tiny_llama(folder, sha256(folder), dtype=dtype)
    assignment = {name: reference if chosen == "bf16" else chosen for name, chosen in plan.assignment.items()}
    made = deploy.apply(ExportRequest(plan_file(tmp_path, plan, assignment=assignment, reference=reference), tmp_path / "model", CPU))
    assert structure.tied_embeddings(saving.reload(made.folder)) is tied
    with safe_open(made.folder / "model.safetensors", framework="pt") as file:
        assert ("lm_head.weight" in file.keys()) is not tied  # noqa: SIM118  (a file is no mapping)
    assert verify.check(made.folder, CPU) is None


def test_a_quantized_head_is_untied_and_said_to_be(tmp_path: Path, source: Path, plan: Plan) -> None:
    """Only where a plan asks for it: then there are two tensors, and nothing that ties them."""
    changes = {"assignment": {**plan.assignment, "lm_head": "qint8"}, "group_sizes": {**plan.group_sizes, "lm_head": None}}
    made = deploy.apply(ExportRequest(plan_file(tmp_path, plan, **changes), tmp_path / "model", CPU))
    again = saving.reload(made.folder)
    assert not structure.tied_embeddings(again)
    assert torch.equal(again.get_input_embeddings().weight, tiny_models.llama(torch.bfloat16).get_input_embeddings().weight)
    assert "| others | qint8: lm_head |" in (made.folder / "README.md").read_text(encoding="utf-8")


def test_modules_that_the_plan_does_not_name_stay_and_are_counted(tmp_path: Path, plan: Plan) -> None:
    made = deploy.apply(ExportRequest(plan_file(tmp_path, plan, assignment={UP: "qint4"}, group_sizes={UP: 96}), tmp_path / "model", CPU))
    assert made.unnamed == len(plan.assignment) - 1
    assert "Modules: 1 qint4; 20 that the plan does not name stay as they are" in made.lines()
    assert list(packing.packed_weights(saving.reload(made.folder))) == [UP]


def test_a_model_that_moved_is_found_where_the_user_says(tmp_path: Path, source: Path, plan: Plan) -> None:
    assert plan.model is not None
    moved = plan.model.model_copy(update={"source": str(tmp_path / "gone")}).model_dump()
    with pytest.raises(ModelError):
        deploy.apply(ExportRequest(plan_file(tmp_path, plan, model=moved), tmp_path / "model", CPU))
    made = deploy.apply(ExportRequest(plan_file(tmp_path, plan, model=moved), tmp_path / "model", CPU, source=str(source)))
    assert verify.check(made.folder, CPU) is None


def test_the_embedded_model(tmp_path: Path) -> None:
    folder = embedded.TINY
    names = [f"model.layers.{layer}.mlp.{name}_proj" for layer in range(12) for name in ("gate", "down")]
    sizes: dict[str, int | None] = {name: 128 if "down" in name else 96 for name in names}
    plan = make_plan.plan(dict.fromkeys(names, "qint4"), sizes, source="embedded:tiny", sha256=sha256(folder))
    made = deploy.apply(ExportRequest(plan_file(tmp_path, plan), tmp_path / "model", CPU))
    assert verify.check(made.folder, CPU) is None
    assert made.bytes_after < 0.8 * made.bytes_before


# --- what is refused, and leaves nothing


def refused(tmp_path: Path, plan: Plan, error: type[BitzonesError], *, options: dict[str, Any] | None = None, **changes: Any) -> str:
    given = plan_file(tmp_path, plan, **changes)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error) as caught:
        deploy.apply(ExportRequest(given, tmp_path / "model", CPU, **(options or {})))
    assert sorted(tmp_path.rglob("*")) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_weights_are_refused(tmp_path: Path, plan: Plan) -> None:
    other = tiny_models.llama(torch.bfloat16)
    other.model.norm.weight[0] = 2.0
    tiny_models.save(tmp_path / "other", other)
    said = refused(tmp_path, plan, PlanError, options={"source": str(tmp_path / "other")})
    assert "the plan is for other weights: SHA-256" in said
    assert sha256(tmp_path / "other")[:12] in said


def test_what_the_model_does_not_have_is_refused(tmp_path: Path, plan: Plan) -> None:
    odd = f"{UP}\x1b[2J"
    said = refused(tmp_path, plan, PlanError, assignment={odd: "qint4"}, group_sizes={odd: 96})
    assert said == f"the plan names {odd!r}, and LlamaForCausalLM has no such module"
    stays = {**plan.assignment, "gone": "bf16", "gone.too": "bf16"}
    assert "the plan names 'gone' and 1 more" in refused(tmp_path, plan, PlanError, assignment=stays)
    norm = "model.norm"
    said = refused(tmp_path, plan, PlanError, assignment={norm: "qint4"}, group_sizes={norm: 96})
    assert said == "the plan quantizes 'model.norm', which cannot be: a LlamaRMSNorm"


def test_another_group_size_than_quanto_makes_is_refused(tmp_path: Path, plan: Plan) -> None:
    said = refused(tmp_path, plan, ModelError, group_sizes={**plan.group_sizes, DOWN: 64}, assignment={**plan.assignment, DOWN: "qint4"})
    assert said == f"module {DOWN!r} should have a scale for every 64 weights and has one for every 128 weights"
    eight = {"assignment": {DOWN: "qint4"}, "group_sizes": {DOWN: None}}
    assert "should have a scale for each row and has one for every 128" in refused(tmp_path, plan, ModelError, **eight)


def test_another_architecture_is_refused(tmp_path: Path, plan: Plan) -> None:
    assert plan.model is not None
    other = plan.model.model_copy(update={"architecture": "GemmaForCausalLM"}).model_dump()
    assert "the plan is for 'GemmaForCausalLM', and " in refused(tmp_path, plan, PlanError, model=other)


def test_code_runs_only_if_the_user_says_so_too(tmp_path: Path, plan: Plan) -> None:
    assert plan.model is not None
    asking = plan.model.model_copy(update={"trust_remote_code": True}).model_dump()
    assert "say so with --trust-remote-code" in refused(tmp_path, plan, PlanError, model=asking)
    made = deploy.apply(ExportRequest(plan_file(tmp_path, plan, model=asking), tmp_path / "model", CPU, trust_remote_code=True))
    assert verify.check(made.folder, CPU) is None


def test_a_plan_for_a_commit_of_the_hub_takes_that_commit(tmp_path: Path, plan: Plan) -> None:
    assert plan.model is not None
    commit = "0123456789abcdef0123456789abcdef01234567"
    named = plan_file(tmp_path, plan, model=plan.model.model_copy(update={"source": "owner/name", "revision": commit}).model_dump())
    assert prepared._settings(named, None, trust_remote_code=False).revision == commit
    assert prepared._settings(named, "other/name", trust_remote_code=False).revision is None


def foreign_code(folder: Path, touched: Path) -> None:
    """Make a model folder ask for code of its own, which leaves a trace when it runs."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}}
    config["architectures"] = ["OwnForCausalLM"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    code = f"""
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({str(touched)!r}).touch()
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""
    (folder / "own.py").write_text(code, encoding="utf-8")


def test_a_plan_that_does_not_ask_runs_no_code(tmp_path: Path, plan: Plan) -> None:
    """The flag alone does not either: both have to say so."""
    folder = model_folder(tmp_path / "source")
    foreign_code(folder, touched := tmp_path / "ran")
    for options in ({"source": str(folder)}, {"source": str(folder), "trust_remote_code": True}):
        refused(tmp_path, plan, ModelError, options=options)
        assert not touched.exists()


def test_a_model_of_its_own_code_is_refused_since_quanto_would_not_reload_it(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder = model_folder(tmp_path / "source")
    foreign_code(folder, touched := tmp_path / "ran")
    assert plan.model is not None
    asking = plan.model.model_copy(update={"trust_remote_code": True, "architecture": "OwnForCausalLM", "source": str(folder)}).model_dump()
    with pytest.raises(ModelError, match="made of code that comes with it, and quanto reloads only what transformers itself has"):
        deploy.apply(ExportRequest(plan_file(tmp_path, plan, model=asking), tmp_path / "model", CPU, trust_remote_code=True))
    assert touched.exists()
    assert not (tmp_path / "model").exists()


def test_a_file_that_is_damaged_on_its_way_to_the_disk_is_noticed(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """One scale of one row, doubled: every type and every shape is right, and only what it computes is not."""
    save = saving.save

    def save_and_damage(model: Any, folder: Path) -> None:
        save(model, folder)
        tensors = load_file(folder / "model.safetensors")
        tensors[f"{UP}.weight._scale"][7] *= 2
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(saving, "save", save_and_damage)
    assert plan.assignment[UP] != "bf16"
    assert "what quanto reloads computes something else: log-probabilities up to " in refused(tmp_path, plan, ModelError)


STEPS = 5


@pytest.mark.parametrize("step", range(STEPS))
def test_interrupted_at_any_step_it_leaves_nothing(tmp_path: Path, plan: Plan, step: int) -> None:
    said = []

    def interrupt(message: str) -> None:
        said.append(message)
        if len(said) == step + 1:
            raise KeyboardInterrupt

    given = plan_file(tmp_path, plan)
    with pytest.raises(KeyboardInterrupt):
        deploy.apply(ExportRequest(given, tmp_path / "a" / "model", CPU, notify=interrupt))
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_the_steps_are_told(tmp_path: Path, plan: Plan, source: Path) -> None:
    said: list[str] = []
    deploy.apply(ExportRequest(plan_file(tmp_path, plan), tmp_path / "model", CPU, notify=said.append))
    assert said == [
        f"loading {str(source)!r}",
        "quantizing 17 modules",
        "saving",
        "checking: what was quantized",
        "checking: what a user loads",
    ]
    assert len(said) == STEPS


def test_a_folder_that_is_taken_is_refused_before_anything_is_loaded(tmp_path: Path, plan: Plan) -> None:
    given = plan_file(tmp_path, plan)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / verify.CHECK_FILE).touch()
    said: list[str] = []
    with pytest.raises(OutputError, match="--force"):
        deploy.apply(ExportRequest(given, tmp_path / "model", CPU, notify=said.append))
    assert said == []
    made = deploy.apply(ExportRequest(given, tmp_path / "model", CPU, force=True))
    assert verify.check(made.folder, CPU) is None


# --- the command


def test_the_command_makes_checks_and_says_so_in_its_exit_code(tmp_path: Path, plan: Plan) -> None:
    make_plan.write(tmp_path / "plan.json", plan)
    done = processes.run("bitzones", ["apply", "plan.json", "-o", "model"], tmp_path)
    assert (done.code, done.err) == (0, "")
    assert [line.partition(":")[0] for line in done.out.splitlines()] == ["Weights", "Modules", "Folder", "Load it"]
    done = processes.run("bitzones", ["apply", "--check", "model"], tmp_path)
    assert (done.code, done.err) == (0, "")
    assert done.out == "model: verified: hashes, formats, group sizes and outputs match the export\n"
    (tmp_path / "model" / "quanto_qmap.json").write_text("{}", encoding="utf-8")
    done = processes.run("bitzones", ["apply", "--check", "model"], tmp_path)
    assert (done.code, done.out) == (1, "")
    assert done.err == "bitzones: model: 'quanto_qmap.json' is not as bitzones apply wrote it: it was changed, or did not arrive whole\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["apply", "nowhere.json", "-o", "model"], "bitzones: nowhere.json: cannot be read: No such file or directory\n"),
        (["apply", "--check", "nowhere"], "bitzones: nowhere/bitzones_check.json: cannot be read: No such file or directory; "),
        (["apply"], "Usage: "),
        (["apply", "plan.json"], "Usage: "),
        (["apply", "plan.json", "-o", "model", "--check", "model"], "Usage: "),
        (["apply", "plan.json", "-o", "model", "--device", "gpu"], "Usage: "),
    ],
)
def test_a_mistake_on_the_command_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = processes.run("bitzones", arguments, tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(said)
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


# --- calibrated formats


def test_a_calibrated_plan_is_rounded_as_it_was_measured(plan: Plan, tmp_path: Path) -> None:
    made = deploy.apply(ExportRequest(plan_file(tmp_path, plan, **calibrated(plan)), tmp_path / "model", CPU))
    assert made.modules["qint2:gptq"] == sum(name == "qint2:hqq" for name in plan.assignment.values())
    stored = packed_weights(saving.reload(made.folder))
    assert plan.model is not None
    reference = loading.load(Model(source=plan.model.source), CPU).model.float()
    formats = {name: format_ for name, format_ in calibrated(plan)["assignment"].items() if format_ != "bf16"}
    batches = list(sequences.batches(CALIBRATED_ON, 4, CPU))
    expected = rounding.in_sequence(reference, formats, batches, torch.bfloat16).weights
    two_bits = [name for name, format_ in formats.items() if format_ == "qint2:gptq"]
    assert two_bits
    assert all(torch.equal(stored[name].parts().integers, expected[name].parts().integers) for name in two_bits)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sequences_sha256": "f" * 64}, "calibration sequences are not whole, or not for this model's tokenizer"),
        ({"sequences": ["1 2 -3"]}, "key 'calibration.sequences.0': string should match pattern"),
        ({"sequences": []}, "key 'calibration.sequences': tuple should have at least 1 item"),
    ],
)
def test_calibration_sequences_that_were_edited_are_refused(plan: Plan, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError) as caught:
        deploy.apply(ExportRequest(plan_file(tmp_path, plan, **calibrated(plan, **changes)), tmp_path / "model", CPU))
    assert says in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_a_calibrated_plan_without_its_sequences_is_refused(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="is to be calibrated, and the plan holds no sequences to do it on"):
        plan_file(tmp_path, plan, assignment=calibrated(plan)["assignment"])
