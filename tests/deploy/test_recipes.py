"""A plan as the settings of tools that quantize by themselves: accepted by the real package where it is installed."""

from __future__ import annotations

import ctypes
import hashlib
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import make_plan
import pytest
import tiny_models
import torch
import yaml

from bitzones import embedded
from bitzones.deploy import manifest
from bitzones.deploy.export_request import ExportRequest
from bitzones.deploy.exported import Exported
from bitzones.deploy.llama_quantize_recipe import LlamaQuantize
from bitzones.deploy.plan_file import PlanFile, read_plan
from bitzones.deploy.recipe_export import Setting, settings
from bitzones.deploy.targets import target
from bitzones.schema.errors import PlanError

CPU = torch.device("cpu")
LAYERS = ["model.layers.0.", "model.layers.1.", "model.layers.2."]
ATTENTION = [f"self_attn.{kind}_proj" for kind in "qkvo"]
GATED, DOWN = ["mlp.gate_proj", "mlp.up_proj"], "mlp.down_proj"
FILES = {
    "llama-quantize": "tensor-types.txt",
    "auto-round": "layer_config.json",
    "gptq": "quantize_config.json",
    "modelopt": "quant_cfg.yaml",
    "llm-compressor": "recipe.yaml",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tmp_path_factory.mktemp("source"))


def planned(place: Path, source: Path, low: str = "qint2:hqq") -> PlanFile:
    """8 bits in attention, 4 in the gates, few in down_proj; the last layer is left alone."""
    formats = dict.fromkeys(ATTENTION, "qint8") | dict.fromkeys(GATED, "qint4") | {DOWN: low}
    assignment = {f"{layer}{name}": format_ for layer in LAYERS[:2] for name, format_ in formats.items()}
    sizes = {name: None if format_ == "qint8" else 128 if name.endswith(DOWN) else 96 for name, format_ in assignment.items()}
    assignment |= {f"{LAYERS[2]}{name}": "bf16" for name in formats}
    sha256 = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    return read_plan(make_plan.write(place / "plan.json", make_plan.plan(assignment, sizes, source=str(source), sha256=sha256)))


def export(name: str, plan_file: PlanFile, output: Path) -> Exported:
    return target(name)(ExportRequest(plan_file, output, CPU, notify=print))


@pytest.fixture
def written(source: Path, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The text of the recipe for the target that a test asks for."""
    done = export(request.param, planned(tmp_path, source, "qint4"), tmp_path / "recipe")
    assert manifest.read(done.folder).target == request.param
    assert (done.folder / "README.md").read_text(encoding="utf-8").count("```") == 2
    assert done.modules == {"qint8": 8, "bf16": 7, "qint4": 6}
    return (done.folder / FILES[request.param]).read_text(encoding="utf-8")


def asked(name: str, written: str) -> Any:
    return pytest.param(written, marks=pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed"))


@pytest.mark.parametrize("written", ["llama-quantize"], indirect=True)
def test_llama_quantize_has_a_line_for_each_module(written: str) -> None:
    lines = dict(line.split("=") for line in written.split())
    assert len(lines) == 21
    assert [kind for pattern, kind in lines.items() if re.fullmatch(pattern, "blk.1.attn_q.weight")] == ["q8_0"]
    assert [kind for pattern, kind in lines.items() if re.fullmatch(pattern, "blk.0.ffn_up.weight")] == ["q4_1"]
    assert [kind for pattern, kind in lines.items() if re.fullmatch(pattern, "blk.2.ffn_up.weight")] == ["bf16"]


def test_llama_quantize_takes_k_types_only_where_they_fit(tmp_path: Path, source: Path) -> None:
    with pytest.raises(
        PlanError, match=r"'model.layers.0.mlp.down_proj' is to be qint2:hqq and has 384 input .*q2_K.* fits is qint4 \(q4_1\)"
    ):
        export("llama-quantize", planned(tmp_path, source), tmp_path / "recipe")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    wide = tiny_models.llama(torch.bfloat16)
    for layer in wide.model.layers:
        layer.mlp.down_proj = torch.nn.Linear(512, 192, bias=False, dtype=torch.bfloat16)
        layer.mlp.up_proj = torch.nn.Linear(256, 384, bias=False, dtype=torch.bfloat16)
    lines = LlamaQuantize().files(wide, planned(tmp_path, source))["tensor-types.txt"].split()
    assert r"^blk\.0\.ffn_down\.weight$=q2_K" in lines
    assert r"^blk\.1\.ffn_up\.weight$=q4_K" in lines
    assert r"^blk\.1\.ffn_gate\.weight$=q4_1" in lines


def test_groups_are_those_that_kernels_have(tmp_path: Path, source: Path) -> None:
    found = settings(tiny_models.llama(torch.bfloat16), planned(tmp_path, source))
    assert found[f"{LAYERS[0]}self_attn.q_proj"] == Setting(8, -1)
    assert found[f"{LAYERS[0]}mlp.up_proj"] == Setting(4, 32)
    assert found[f"{LAYERS[1]}{DOWN}"] == Setting(2, 128)
    assert not any(name.startswith(LAYERS[2]) for name in found)


def test_a_plan_that_splits_what_vllm_fuses_is_refused(tmp_path: Path, source: Path) -> None:
    plan_file = planned(tmp_path, source)
    plan_file.plan.assignment[f"{LAYERS[0]}mlp.gate_proj"] = "qint8"
    plan_file.plan.group_sizes[f"{LAYERS[0]}mlp.gate_proj"] = None
    with pytest.raises(PlanError, match=r"vLLM fuses 'model.layers.0.mlp.gate_proj' qint8, 'model.layers.0.mlp.up_proj' qint4"):
        export("llm-compressor", plan_file, tmp_path / "recipe")


# --- by the packages themselves


@pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
def test_llama_cpp_quantizes_by_it(tmp_path: Path) -> None:
    """By ``tt_overrides`` of its C interface, into which llama-quantize reads the file; the embedded model, since it takes no tokenizer
    without merges."""
    import llama_cpp

    Override = llama_cpp.llama_model_tensor_override  # noqa: N806  # a class
    names = [f"{LAYERS[0]}self_attn.q_proj", f"{LAYERS[0]}mlp.up_proj", f"{LAYERS[1]}{DOWN}"]
    formats = dict(zip(names, ("qint8", "qint4", "bf16"), strict=True))
    sha256 = hashlib.sha256((embedded.TINY / "model.safetensors").read_bytes()).hexdigest()
    plan = make_plan.plan(formats, {names[0]: None, names[1]: 96}, source="embedded:tiny", sha256=sha256)
    plan_file = read_plan(make_plan.write(tmp_path / "plan.json", plan))
    base = export("gguf", plan_file, tmp_path / "base").folder / "model.gguf"
    lines = (export("llama-quantize", plan_file, tmp_path / "recipe").folder / "tensor-types.txt").read_text(encoding="utf-8").split()
    kinds = {name.lower(): number for name, number in gguf.GGMLQuantizationType.__members__.items()}
    pairs = [line.split("=") for line in lines]
    overrides = (Override * (len(pairs) + 1))(*(Override(pattern.encode(), kinds[kind.lower()]) for pattern, kind in pairs))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = 7, True, 1  # Q8_0 for what no line names
    params.tt_overrides = overrides
    assert llama_cpp.llama_model_quantize(str(base).encode(), str(tmp_path / "out.gguf").encode(), ctypes.byref(params)) == 0
    found = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    assert (found["blk.0.attn_q.weight"], found["blk.0.ffn_up.weight"], found["blk.1.ffn_down.weight"]) == ("Q8_0", "Q4_1", "BF16")
    assert found["blk.1.ffn_up.weight"] == "Q8_0"


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("written", [asked("gptqmodel", "gptq")], indirect=True)
def test_gptqmodel_accepts_it(written: str) -> None:
    from gptqmodel import QuantizeConfig

    config = QuantizeConfig(**json.loads(written))
    assert config.dynamic_get(f"{LAYERS[0]}self_attn.q_proj", "bits") == 8
    assert config.dynamic_get(f"{LAYERS[2]}{DOWN}") is False


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("written", [asked("auto_round", "auto-round")], indirect=True)
def test_auto_round_accepts_it(written: str, source: Path) -> None:
    from auto_round import AutoRound
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    made = AutoRound(
        model, AutoTokenizer.from_pretrained(source), scheme="W4A16", layer_config=json.loads(written), iters=0, device_map="cpu"
    )
    made.post_init()
    found = made.layer_config
    assert (found[f"{LAYERS[0]}self_attn.q_proj"]["bits"], found[f"{LAYERS[0]}self_attn.q_proj"]["group_size"]) == (8, -1)
    assert (found[f"{LAYERS[0]}{DOWN}"]["bits"], found[f"{LAYERS[0]}{DOWN}"]["sym"]) == (4, False)
    assert found[f"{LAYERS[2]}{DOWN}"]["bits"] == 16


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("written", [asked("modelopt", "modelopt")], indirect=True)
def test_modelopt_quantizes_by_it(written: str) -> None:
    import modelopt.torch.quantization as mtq

    model = mtq.quantize(tiny_models.llama(), yaml.safe_load(written), forward_loop=None)
    quantizers = dict(model.named_modules())
    assert quantizers[f"{LAYERS[0]}self_attn.q_proj.weight_quantizer"].num_bits == 8
    assert quantizers[f"{LAYERS[1]}{DOWN}.weight_quantizer"].block_sizes == {-1: 128}
    assert not quantizers[f"{LAYERS[2]}{DOWN}.weight_quantizer"].is_enabled


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("written", [asked("llmcompressor", "llm-compressor")], indirect=True)
def test_llm_compressor_accepts_it(written: str, tmp_path: Path) -> None:
    from llmcompressor.recipe import Recipe

    (tmp_path / "recipe.yaml").write_text(written, encoding="utf-8")
    (modifier,) = Recipe.create_instance(str(tmp_path / "recipe.yaml")).modifiers
    groups = modifier.resolve_quantization_config().config_groups
    weights = {name: scheme.weights for scheme in groups.values() for name in scheme.targets}
    assert (weights[f"{LAYERS[0]}self_attn.q_proj"].num_bits, weights[f"{LAYERS[0]}{DOWN}"].group_size) == (8, 128)
    assert len(weights) == 14
