"""A plan of portable formats becomes a checkpoint for AutoRound, GPTQModel or vLLM with the same integers, scales and zeros."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import make_plan
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file

from bitzones.backends import quantizing
from bitzones.deploy import engines, gptq_layout, manifest
from bitzones.deploy.export_request import ExportRequest
from bitzones.deploy.exported import Exported
from bitzones.deploy.plan_file import PlanFile, read_plan
from bitzones.deploy.targets import target
from bitzones.schema.errors import ArgumentError, PlanError

CPU = torch.device("cpu")
LAYER = "model.layers.0."
QKV = [f"{LAYER}self_attn.{kind}_proj" for kind in "qkv"]
OUT, DOWN = f"{LAYER}self_attn.o_proj", f"{LAYER}mlp.down_proj"
GATED = [f"{LAYER}mlp.gate_proj", f"{LAYER}mlp.up_proj"]
MIXED = {**dict.fromkeys(QKV, "int:4g64"), OUT: "int:3g32", **dict.fromkeys(GATED, "int:2g64"), DOWN: "int:8"}
TARGETS = ("auto-round", "gptq", "compressed-tensors")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tmp_path_factory.mktemp("source"))


def planned(place: Path, source: Path, assignment: dict[str, str]) -> PlanFile:
    groups = {name: int(format_.partition("g")[2]) if "g" in format_ else None for name, format_ in assignment.items()}
    sizes = {name: 96 if format_ == "qint4" else groups[name] for name, format_ in assignment.items()}
    sha256 = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    return read_plan(make_plan.write(place / "plan.json", make_plan.plan(assignment, sizes, source=str(source), sha256=sha256)))


def export(name: str, plan_file: PlanFile, output: Path, **options: Any) -> Exported:
    return target(name)(ExportRequest(plan_file, output, CPU, **options))


@pytest.fixture(scope="module")
def folders(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("exported")
    plan_file = planned(place, source, MIXED)
    return {name: export(name, plan_file, place / name).folder for name in TARGETS}


@pytest.fixture(scope="module")
def expected(source: Path) -> dict[str, torch.Tensor]:
    """What each weight stands for, quantized here once more."""
    weights = load_file(source / "model.safetensors")
    return {name: quantizing.quantized_alone(weights[f"{name}.weight"], format_).values(torch.float32) for name, format_ in MIXED.items()}


def bits_of(words: torch.Tensor, bits: int, count: int) -> list[int]:
    """The first integers along the last dimension, by shifting a number as long as all the words."""
    whole = sum((word & 0xFFFFFFFF) << (32 * at) for at, word in enumerate(words.tolist()))
    return [(whole >> (bits * at)) & (2**bits - 1) for at in range(count)]


def test_a_row_by_hand(folders: dict[str, Path], expected: dict[str, torch.Tensor]) -> None:
    """Three bits in groups of 32: integers across words along the columns, zeros along the rows."""
    tensors = load_file(folders["gptq"] / "model.safetensors")
    words, zeros, scales = (tensors[f"{OUT}.{kind}"] for kind in ("qweight", "qzeros", "scales"))
    rows, columns = expected[OUT].shape
    assert (words.shape, zeros.shape, scales.dtype) == ((columns * 3 // 32, rows), (columns // 32, rows * 3 // 32), torch.float16)
    assert tensors[f"{OUT}.g_idx"].tolist() == [column // 32 for column in range(columns)]
    row, group = 5, 2
    integers, zero = bits_of(words[:, row], 3, columns)[group * 32 : (group + 1) * 32], bits_of(zeros[group], 3, rows)[row]
    values = [(integer - zero) * float(scales[group, row]) for integer in integers]
    assert values == expected[OUT][row, group * 32 : (group + 1) * 32].tolist()


@pytest.mark.parametrize("name", TARGETS)
def test_every_weight_reads_back(folders: dict[str, Path], expected: dict[str, torch.Tensor], name: str) -> None:
    found = dict(engines.stored_values(folders[name], name))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[module], values) for module, values in expected.items())
    assert manifest.read(folders[name]).target == name


def test_stored_bytes_are_those_that_were_planned(folders: dict[str, Path], expected: dict[str, torch.Tensor]) -> None:
    tensors = load_file(folders["auto-round"] / "model.safetensors")
    for module, format_ in MIXED.items():
        stored = sum(tensor.nbytes for key, tensor in tensors.items() if key.startswith(f"{module}."))
        assert stored == quantizing.expected_bytes(*expected[module].shape, torch.bfloat16, format_)


def test_what_the_tools_are_told(folders: dict[str, Path]) -> None:
    found = json.loads((folders["auto-round"] / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    assert (found["quant_method"], found["packing_format"]) == ("auto-round", "auto_round:gptqmodel")
    assert found["extra_config"][DOWN] == {"bits": 8, "group_size": -1, "sym": False, "data_type": "int"}
    assert found["extra_config"]["model.layers.1.mlp.up_proj"]["bits"] == 16
    found = json.loads((folders["gptq"] / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    assert (found["checkpoint_format"], found["desc_act"]) == ("gptq_v2", False)
    assert found["dynamic"][r"+:^model\.layers\.0\.self_attn\.o_proj$"] == {"bits": 3, "group_size": 32, "sym": False}
    assert found["dynamic"][r"-:^model\.layers\.1\.mlp\.up_proj$"] == {}
    assert json.loads((folders["gptq"] / "quantize_config.json").read_text(encoding="utf-8")) == found


def test_eight_bits_of_quanto_are_held_too(source: Path, tmp_path: Path) -> None:
    made = export("auto-round", planned(tmp_path, source, {OUT: "int:4g64", DOWN: "qint8"}), tmp_path / "model")
    config = json.loads((made.folder / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    assert config["extra_config"][DOWN] == {"bits": 8, "group_size": -1, "sym": True, "data_type": "int"}
    weight = load_file(source / "model.safetensors")[f"{DOWN}.weight"]
    assert torch.equal(dict(gptq_layout.values(made.folder))[DOWN], quantizing.quantized_alone(weight, "qint8").parts().values())


@pytest.mark.parametrize("name", ["auto-round", "gptq"])
def test_weights_for_portable_plans_and_a_recipe_for_others(source: Path, tmp_path: Path, name: str) -> None:
    asked = export(name, planned(tmp_path, source, MIXED), tmp_path / "asked", recipe=True)
    other = export(name, planned(tmp_path, source, {DOWN: "qint8"}), tmp_path / "other")
    for made in (asked, other):
        assert made.bytes_after == 0
        assert not (made.folder / "model.safetensors").exists()
        with pytest.raises(PlanError, match="a recipe, which stores no weights"):
            engines.stored_values(made.folder, name)
    assert other.how.endswith("a plan of int formats is exported with its weights")
    assert not asked.how.endswith("weights")
    with pytest.raises(ArgumentError, match="an export to 'mlx' is no recipe; recipes: llama-quantize, auto-round"):
        target("mlx", recipe=True)


@pytest.mark.parametrize(
    ("name", "assignment", "says"),
    [
        ("auto-round", {OUT: "int:4g64", DOWN: "qint4"}, f"'{DOWN}' is to be qint4, .* the nearest that fits is int:4g128; --recipe"),
        ("gptq", {OUT: "int:4g64", DOWN: "mlx:6g64"}, f"'{DOWN}' is to be mlx:6g64, .* the nearest that fits is int:8g128; --recipe"),
        ("gptq", {OUT: "int:4g128"}, f"'{OUT}' .*192 input features make no whole groups of 128; .* int:4g64"),
        (
            "mlx",
            {OUT: "int:4g64"},
            f"'{OUT}' is to be int:4g64, which MLX does not hold: .* --to auto-round, gptq or compressed-tensors does",
        ),
        ("compressed-tensors", {QKV[0]: "int:4g64", QKV[1]: "int:4g64", QKV[2]: "int:4g32"}, f"vLLM fuses '{QKV[0]}' int:4g64"),
    ],
)
def test_what_it_cannot_hold_is_refused_and_nothing_is_written(
    source: Path, tmp_path: Path, name: str, assignment: dict[str, str], says: str
) -> None:
    with pytest.raises(PlanError, match=says):
        export(name, planned(tmp_path, source, assignment), tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_scale_that_float16_would_round_is_refused(source: Path, tmp_path: Path) -> None:
    """The 8 bits of quanto in a bfloat16 model may have such scales; int formats never do."""
    place = tmp_path / "small"
    place.mkdir()
    for path in source.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    weights = load_file(source / "model.safetensors")
    save_file({**weights, f"{DOWN}.weight": weights[f"{DOWN}.weight"] * 1e-6}, place / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PlanError, match=f"'{DOWN}' is qint8 with a scale of .*, which is no float16"):
        export("gptq", planned(tmp_path, place, {OUT: "int:4g64", DOWN: "qint8"}), tmp_path / "model")
    assert export("gptq", planned(tmp_path, place, {OUT: "int:4g64", DOWN: "int:8"}), tmp_path / "model").checked.endswith(
        "0 weights differ"
    )


# --- by the packages themselves


def test_compressed_tensors_decompresses_every_weight(folders: dict[str, Path], expected: dict[str, torch.Tensor]) -> None:
    compressors = pytest.importorskip("compressed_tensors.compressors")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    tensors = load_file(folders["compressed-tensors"] / "model.safetensors")
    config = json.loads((folders["compressed-tensors"] / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    schemes = quantization.QuantizationConfig.model_validate(config).config_groups.values()
    compressor = compressors.BaseCompressor.get_value_from_registry("pack-quantized")
    for name, scheme in [(name, found) for found in schemes for name in found.targets]:
        stored = {key.rpartition(".")[2]: value for key, value in tensors.items() if key.startswith(f"{name}.")}
        stored["weight_scale"] = stored["weight_scale"].float()
        assert torch.equal(compressor.decompress(stored, scheme)["weight"], expected[name]), name
    assert {found.weights.num_bits for found in schemes} == {2, 3, 4, 8}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.skipif(find_spec("auto_round") is None, reason="auto-round is not installed")
def test_auto_round_computes_with_every_weight(folders: dict[str, Path], expected: dict[str, torch.Tensor]) -> None:
    """In plain transformers: what comes out for unit vectors is each weight, which AutoRound computes in float16."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folders["auto-round"])
    for name, values in expected.items():
        computed = model.get_submodule(name)(torch.eye(values.shape[1])).T
        assert torch.equal(computed, values.half().float()), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.skipif(find_spec("gptqmodel") is None, reason="gptqmodel is not installed")
def test_gptqmodel_computes_with_every_weight(folders: dict[str, Path], expected: dict[str, torch.Tensor]) -> None:
    """GPTQModel multiplies in the dtype of the model."""
    from gptqmodel import BACKEND, GPTQModel

    model = GPTQModel.load(str(folders["gptq"]), device="cpu", backend=BACKEND.TORCH).model
    for name, values in expected.items():
        assert torch.equal(model.get_submodule(name).dequantize_weight().T, values.bfloat16()), name
