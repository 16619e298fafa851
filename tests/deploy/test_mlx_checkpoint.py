"""A plan becomes a folder that mlx-lm loads, every weight the same: read here bit by bit, and by mlx-lm where it is installed."""

from __future__ import annotations

import hashlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import make_plan
import pytest
import tiny_models
import torch
from calibrated_plans import calibrated
from safetensors.torch import load_file

from bitzones.analysis.plan import Plan
from bitzones.backends.quantizing import quantized_alone
from bitzones.backends.quanto import affine, packing, saving
from bitzones.deploy import gguf_file, manifest, mlx_checkpoint, quanto_checkpoint
from bitzones.deploy.export_request import ExportRequest
from bitzones.deploy.exported import Exported
from bitzones.deploy.plan_file import PlanFile, read_plan
from bitzones.schema.errors import BitzonesError, ModelError, OutputError, PlanError

CPU = torch.device("cpu")
UP, DOWN = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def plan(source: Path) -> Plan:
    return make_plan.for_tiny_llama(source, hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest())


def plan_file(folder: Path, plan: Plan, **changes: Any) -> PlanFile:
    return read_plan(make_plan.write(folder / "plan.json", plan, **changes))


@pytest.fixture(scope="module")
def made(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    place = tmp_path_factory.mktemp("made")
    return mlx_checkpoint.export(ExportRequest(plan_file(place, plan), place / "mlx", CPU))


def quantized(plan: Plan, folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    """What quanto's own checkpoint of the plan stands for."""
    done = quanto_checkpoint.apply(ExportRequest(plan_file(folder, plan, **changes), folder / "quanto", CPU))
    return {name: affine.parts(w).values() for name, w in packing.packed_weights(saving.reload(done.folder)).items()}


def decoded(tensors: dict[str, torch.Tensor], name: str, bits: int, group: int) -> torch.Tensor:
    """MLX's affine format, one integer at a time."""
    words, scales, biases = tensors[f"{name}.weight"].tolist(), tensors[f"{name}.scales"].float(), tensors[f"{name}.biases"].float()
    columns = len(words[0]) * 32 // bits
    integers = [[row[place * bits // 32] >> place * bits % 32 & 2**bits - 1 for place in range(columns)] for row in words]
    spread = (tensor.repeat_interleave(group, dim=1) for tensor in (scales, biases))
    return torch.tensor(integers, dtype=torch.float32) * next(spread) + next(spread)


def test_every_weight_is_quantos(made: Exported, plan: Plan, tmp_path: Path) -> None:
    tensors = load_file(made.folder / "model.safetensors")
    settings = json.loads((made.folder / "config.json").read_text(encoding="utf-8"))["quantization"]
    expected = quantized(plan, tmp_path)
    assert {name: value["bits"] for name, value in settings.items() if name in expected} == {
        name: int(format_[4]) for name, format_ in plan.formats.items()
    }
    assert settings[DOWN]["group_size"] == 128
    for name, values in expected.items():
        assert torch.equal(decoded(tensors, name, settings[name]["bits"], settings[name]["group_size"]), values), name


def test_what_is_dense_stays_as_it_is(made: Exported, plan: Plan, source: Path) -> None:
    tensors, before = load_file(made.folder / "model.safetensors"), load_file(source / "model.safetensors")
    kept = {name for name in before if name.removesuffix(".weight") not in plan.formats}
    assert {name for name in tensors if not name.endswith((".scales", ".biases"))} == set(before)
    assert all(torch.equal(tensors[name], before[name]) for name in kept)


def test_what_lies_beside_the_weights(made: Exported, plan: Plan) -> None:
    assert read_plan(made.folder / "plan.json").plan == plan
    config = json.loads((made.folder / "config.json").read_text(encoding="utf-8"))
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10000.0
    record = manifest.read(made.folder)
    assert (record.target, manifest.damage(made.folder, record)) == ("mlx", None)
    card = (made.folder / "README.md").read_text(encoding="utf-8")
    assert "mlx_lm.generate --model . " in card
    assert "- qint2:hqq as MLX affine, 2 bits in groups of 32: 3 bits a weight" in card


def test_the_last_lines_on_the_screen(made: Exported, plan: Plan) -> None:
    size = (made.folder / "model.safetensors").stat().st_size
    assert made.bytes_after == size < made.bytes_before
    assert made.carried == (
        "qint2:hqq as MLX affine, 2 bits in groups of 32: 3 bits a weight",
        "qint2:hqq as MLX affine, 2 bits in groups of 128: 2.25 bits a weight",
        "qint4 as MLX affine, 4 bits in groups of 32: 5 bits a weight",
        "qint4 as MLX affine, 4 bits in groups of 128: 4.25 bits a weight",
        "qint8 as MLX affine, 8 bits in groups of 64: 8.5 bits a weight",
    )
    assert sum(made.modules.values()) == len(plan.assignment)


def test_an_export_that_was_damaged_is_recognized(made: Exported, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in made.folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    with (copy / "model.safetensors").open("r+b") as handle:
        handle.seek(-1, 2)
        handle.write(b"\x55")
    assert "'model.safetensors' is not as bitzones wrote it" in str(manifest.damage(copy, manifest.read(copy)))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_other_dtypes_and_calibrated_formats(tmp_path: Path, dtype: str) -> None:
    folder = tiny_models.save(tmp_path / "source", tiny_models.llama(getattr(torch, dtype), tied=False))
    sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    reference = {"float32": "f32", "float16": "f16"}[dtype]
    plan = make_plan.for_tiny_llama(folder, sha256, dtype=dtype)
    changes = calibrated(plan)
    changes["assignment"] = {name: reference if chosen == "bf16" else chosen for name, chosen in changes["assignment"].items()}
    changes["reference"] = reference
    done = mlx_checkpoint.export(ExportRequest(plan_file(tmp_path, plan, **changes), tmp_path / "mlx", CPU))
    tensors = load_file(done.folder / "model.safetensors")
    settings = json.loads((done.folder / "config.json").read_text(encoding="utf-8"))["quantization"]
    assert "lm_head.weight" in tensors
    for name, values in quantized(plan, tmp_path, **changes).items():
        found = decoded(tensors, name, settings[name]["bits"], settings[name]["group_size"])
        assert torch.allclose(found, values, rtol=0, atol=0 if dtype == "float16" else 1e-6), name


# --- what is refused


def refused(tmp_path: Path, plan: Plan, kind: type[BitzonesError], **changes: Any) -> str:
    with pytest.raises(kind) as error:
        mlx_checkpoint.export(ExportRequest(plan_file(tmp_path, plan, **changes), tmp_path / "mlx", CPU))
    assert [path.name for path in tmp_path.iterdir() if path.name != "source"] == ["plan.json"]
    return str(error.value)


def test_columns_that_no_group_divides_are_refused_with_what_fits(tmp_path: Path) -> None:
    model = tiny_models.llama(torch.bfloat16)
    model.model.layers[0].mlp.up_proj = torch.nn.Linear(200, 384, bias=False, dtype=torch.bfloat16)
    plan = make_plan.plan({UP: "qint8"}, {UP: None})
    given = plan_file(tmp_path, plan)
    with pytest.raises(PlanError, match=f"'{UP}' is to be qint8 and has 200 input features.*the nearest that fits is bf16"):
        mlx_checkpoint.MLX().check(model, given)


def test_another_model_is_refused_and_nothing_is_written(tmp_path: Path, plan: Plan) -> None:
    model = plan.model
    assert model is not None
    changed = {**model.model_dump(), "sha256": "0" * 64}
    assert refused(tmp_path, plan, PlanError, model=changed).startswith("the plan is for other weights")


def test_an_architecture_whose_tensors_are_renamed_is_refused(tmp_path: Path, plan: Plan) -> None:
    model = tiny_models.llama(torch.bfloat16)
    model.config.model_type = "mixtral"
    with pytest.raises(ModelError, match="transformers renames the tensors of 'mixtral'"):
        mlx_checkpoint.MLX().check(model, plan_file(tmp_path, plan))


def test_a_folder_of_somebody_elses_stays(tmp_path: Path, plan: Plan) -> None:
    (tmp_path / "mlx").mkdir()
    (tmp_path / "mlx" / "plan.json").write_text("{}", encoding="utf-8")
    with pytest.raises(OutputError, match="no export of bitzones"):
        mlx_checkpoint.export(ExportRequest(plan_file(tmp_path, plan), tmp_path / "mlx", CPU, force=True))


def test_without_mlx_the_file_is_read_back_and_that_is_said(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    monkeypatch.delitem(sys.modules, "bitzones.deploy.mlx_engine", raising=False)
    done = mlx_checkpoint.export(ExportRequest(plan_file(tmp_path, plan), tmp_path / "mlx", CPU))
    assert done.checked.startswith("read back: 0 weights differ; mlx-lm cannot be imported here")


# --- by mlx-lm itself


@pytest.mark.skipif(find_spec("mlx_lm") is None, reason="mlx-lm is not installed")
def test_mlx_lm_generates_from_it(made: Exported) -> None:
    import mlx.core as mx
    from mlx_lm import generate, load

    model, tokenizer = load(str(made.folder))[:2]
    assert isinstance(generate(model, tokenizer, "12 legs", max_tokens=4), str)
    assert model.model.layers[0].mlp.down_proj.scales.dtype == mx.bfloat16
    assert "loaded by mlx-lm: 0 weights differ" in made.checked


@pytest.mark.skipif(find_spec("mlx_lm") is None, reason="mlx-lm is not installed")
def test_mlx_lm_that_computes_something_else_is_noticed(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rotary base: every weight is right, and the answers are not."""
    real = mlx_checkpoint._configure

    def wrong(path: Path, settings: dict[str, tuple[int, int]]) -> None:
        real(path, settings)
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**config, "rope_theta": 10.0}), encoding="utf-8")

    monkeypatch.setattr(mlx_checkpoint, "_configure", wrong)
    assert refused(tmp_path, plan, ModelError).startswith("mlx-lm computes something else than was quantized")


def test_formats_of_mlx_are_written_as_they_were_measured(tmp_path: Path, source: Path, plan: Plan) -> None:
    """Every width, mixed; the values are those of one weight rounded alone, which a sweep measures."""
    names = [f"model.layers.0.{kind}_proj" for kind in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.up")]
    formats = dict(zip(names, ("mlx:2g32", "mlx:3g64", "mlx:4g64", "mlx:6g32", "mlx:8g64"), strict=True))
    assert plan.model is not None
    sizes = {name: int(format_.partition("g")[2]) for name, format_ in formats.items()}
    of_mlx = make_plan.plan(formats, sizes, source=str(source), sha256=plan.model.sha256)
    done = mlx_checkpoint.export(ExportRequest(plan_file(tmp_path, of_mlx), tmp_path / "mlx", CPU))
    found, dense = dict(mlx_checkpoint.values(done.folder)), load_file(source / "model.safetensors")
    for name, format_ in formats.items():
        expected = quantized_alone(dense[f"{name}.weight"], format_).values(torch.float32)
        assert torch.equal(found[name], expected), name
    for export, what in ((quanto_checkpoint.apply, "a checkpoint of quanto"), (gguf_file.export, "GGUF")):
        with pytest.raises(PlanError, match=rf"'{names[0]}' is to be mlx:2g32, which {what} does not hold.*--to mlx does"):
            export(ExportRequest(plan_file(tmp_path, of_mlx), tmp_path / "other", CPU))
