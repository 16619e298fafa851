"""A plan becomes a compressed-tensors checkpoint: 8 bits, and fewer where zero points are whole; decompressed by the package itself."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import make_plan
import pytest
import tiny_models
import torch
from safetensors.torch import load_file

from bitzones.analysis.plan import Plan
from bitzones.backends.integers import Rounded
from bitzones.backends.quanto import affine, packing
from bitzones.deploy import compressed_tensors_checkpoint as target
from bitzones.deploy import manifest, prepared
from bitzones.deploy.export_request import ExportRequest
from bitzones.deploy.plan_file import PlanFile, read_plan
from bitzones.schema.errors import PlanError

CPU = torch.device("cpu")
LAYER = "model.layers.0."
QKV = [f"{LAYER}self_attn.{kind}_proj" for kind in "qkv"]
DOWN = f"{LAYER}mlp.down_proj"
ZERO = 5


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tmp_path_factory.mktemp("source"))


def planned(source: Path, assignment: dict[str, str]) -> Plan:
    sizes = {name: None if format_ == "qint8" else 128 if name == DOWN else 96 for name, format_ in assignment.items()}
    sha256 = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    return make_plan.plan(assignment, sizes, source=str(source), sha256=sha256)


def plan_file(folder: Path, plan: Plan, **changes: Any) -> PlanFile:
    return read_plan(make_plan.write(folder / "plan.json", plan, **changes))


def whole(rows: int, columns: int, bits: int, group: int) -> packing.Packed:
    """A weight whose shift is `ZERO` (or the largest integer) scales."""
    drawn = torch.Generator().manual_seed(bits)
    integers = torch.randint(0, 2**bits, (rows, columns), generator=drawn, dtype=torch.uint8)
    scale = (0.01 + torch.rand(rows, columns // group, generator=drawn)).mul(32).ceil().div(32).to(torch.bfloat16)
    return packing.pack(Rounded(integers, scale, scale * min(ZERO, 2**bits - 1)), bits, group)


@pytest.fixture(scope="module")
def mixed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """8 bits as quanto makes them, 4 and 2 bits with whole zero points: the folder, and what each weight stands for."""
    place = tmp_path_factory.mktemp("mixed")
    assignment = {**dict.fromkeys(QKV, "qint8"), f"{LAYER}self_attn.o_proj": "qint4", DOWN: "qint2"}
    given = plan_file(place, planned(source, assignment))
    made = prepared.load(ExportRequest(given, place / "model", CPU, notify=print))
    for name, bits, group in ((f"{LAYER}self_attn.o_proj", 4, 96), (DOWN, 2, 128)):
        weight = whole(*made.model.get_parameter(f"{name}.weight").shape, bits, group)
        made.model.get_submodule(name).weight = torch.nn.Parameter(weight, requires_grad=False)
    target.CompressedTensors().write(made, place, print)
    return place, {name: affine.parts(weight).values() for name, weight in packing.packed_weights(made.model).items()}


def test_a_shift_that_is_a_whole_number_of_scales() -> None:
    integers, scale = torch.zeros(1, 4, dtype=torch.uint8), torch.tensor([[0.1, 0.0]])
    assert target.zeros(Rounded(integers, scale, scale * 3), 2).tolist() == [[3, 0]]  # type: ignore[union-attr]
    assert target.zeros(Rounded(integers, scale, scale * 4), 2) is None
    assert target.zeros(Rounded(integers, scale, scale * 2.5), 2) is None
    assert target.zeros(Rounded(integers, scale, -scale), 2) is None


def test_the_package_decompresses_every_weight_to_quantos(mixed: tuple[Path, dict[str, torch.Tensor]]) -> None:
    compressors = pytest.importorskip("compressed_tensors.compressors")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    folder, expected = mixed
    tensors = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    read = quantization.QuantizationConfig.model_validate(config)
    found = {name: scheme for scheme in read.config_groups.values() for name in scheme.targets}
    assert found.keys() == expected.keys()
    compressor = compressors.BaseCompressor.get_value_from_registry("pack-quantized")
    for name, scheme in found.items():
        stored = {key.rpartition(".")[2]: value for key, value in tensors.items() if key.startswith(f"{name}.")}
        stored["weight_scale"] = stored["weight_scale"].float()
        assert torch.equal(compressor.decompress(stored, scheme)["weight"], expected[name]), name


def test_what_is_left_alone_is_named(mixed: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, expected = mixed
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    dense = {name.removesuffix(".weight") for name in load_file(folder / "model.safetensors") if name.endswith("proj.weight")}
    assert set(config["ignore"]) == dense | {"lm_head"}
    schemes = {(g["weights"]["num_bits"], g["weights"]["symmetric"], g["weights"]["group_size"]) for g in config["config_groups"].values()}
    assert schemes == {(8, True, None), (4, False, 96), (2, False, 128)}
    assert sum(len(group["targets"]) for group in config["config_groups"].values()) == len(expected)


def test_the_whole_export(source: Path, tmp_path: Path) -> None:
    done = target.export(ExportRequest(plan_file(tmp_path, planned(source, dict.fromkeys([*QKV, DOWN], "qint8"))), tmp_path / "model", CPU))
    assert manifest.read(done.folder).target == "compressed-tensors"
    assert done.carried == ("qint8 as pack-quantized W8A16, a scale a row",)
    assert done.bytes_after == (done.folder / "model.safetensors").stat().st_size < done.bytes_before


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        (
            {DOWN: "qint4"},
            f"module '{DOWN}' is qint4 with a shift of [0-9.]+ scales, .* the nearest that fits is int:4g128 or qint8; --to mlx",
        ),
        ({QKV[0]: "qint8", QKV[1]: "qint8"}, f"vLLM fuses '{QKV[0]}' qint8, '{QKV[1]}' qint8, '{QKV[2]}' bf16 into one product"),
        ({f"{LAYER}mlp.up_proj": "qint8"}, f"vLLM fuses '{LAYER}mlp.gate_proj' bf16, '{LAYER}mlp.up_proj' qint8 into one product"),
    ],
)
def test_what_it_cannot_hold_is_refused_and_nothing_is_written(source: Path, tmp_path: Path, assignment: dict[str, str], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        target.export(ExportRequest(plan_file(tmp_path, planned(source, assignment)), tmp_path / "model", CPU))
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
