"""A plan becomes a GGUF, every weight the same: read by the gguf package, by transformers, and by llama.cpp where it is installed."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import make_plan
import numpy as np
import pytest
import tiny_gguf
import tiny_models
import torch
from calibrated_plans import CALIBRATED_ON, calibrated
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, GgufConfig, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from bitzones import embedded
from bitzones.analysis.plan import Plan
from bitzones.backends import quantizing
from bitzones.backends.integers import Rounded
from bitzones.backends.quanto import affine, packing, saving
from bitzones.backends.weights import packed_weights
from bitzones.data import sequences
from bitzones.deploy import (
    gguf_blocks,
    gguf_file,
    gguf_metadata,
    gguf_tokenizer,
    in_memory,
    llama_quantize_recipe,
    manifest,
    quanto_checkpoint,
)
from bitzones.deploy.export_request import ExportRequest
from bitzones.deploy.exported import Exported
from bitzones.deploy.plan_file import PlanFile, read_plan
from bitzones.rounding.importance import importance_of
from bitzones.schema.errors import BitzonesError, ModelError, PlanError

CPU = torch.device("cpu")
UP, Q = "model.layers.0.mlp.up_proj", "model.layers.0.self_attn.q_proj"


def hashed(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def plan(source: Path) -> Plan:
    return make_plan.for_tiny_llama(source, hashed(source / "model.safetensors"))


def plan_file(folder: Path, plan: Plan, **changes: Any) -> PlanFile:
    return read_plan(make_plan.write(folder / "plan.json", plan, **changes))


@pytest.fixture(scope="module")
def made(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    place = tmp_path_factory.mktemp("made")
    return gguf_file.export(ExportRequest(plan_file(place, plan), place / "gguf", CPU))


# --- blocks


def random_parts(bits: int, groups: int) -> Rounded:
    drawn = torch.Generator().manual_seed(bits)
    integers = torch.randint(0, 2**bits, (3, 64), generator=drawn, dtype=torch.uint8)
    scale = torch.rand(3, groups, generator=drawn).to(torch.bfloat16)
    return Rounded(integers, scale, scale * 128 if bits == 8 else torch.rand(3, groups, generator=drawn).to(torch.bfloat16))


@pytest.mark.parametrize(("bits", "groups"), [(8, 1), (4, 2), (4, 1), (2, 2)])
def test_blocks_stand_for_the_same_weights(bits: int, groups: int) -> None:
    parts = random_parts(bits, groups)
    kind = gguf_blocks.block_type(bits)
    blocks = (gguf_blocks.q8_0 if bits == 8 else gguf_blocks.q4_1)(parts)
    assert blocks.shape == (3, 64 // 32 * kind.bytes)
    assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.name]] == (32, kind.bytes)
    assert torch.equal(torch.from_numpy(gguf.dequantize(blocks, gguf.GGMLQuantizationType(kind.number))), parts.values())


def test_a_block_byte_by_byte() -> None:
    parts = Rounded(torch.arange(32, dtype=torch.uint8).reshape(1, 32) % 16, torch.tensor([[0.5]]), torch.tensor([[-1.0]]))
    assert gguf_blocks.q4_1(parts)[0].tolist() == [0, 0x38, 0, 0x3C, *(number * 17 for number in range(16))]


def test_what_float16_would_change() -> None:
    assert gguf_blocks.not_representable(torch.tensor([0.1, 2e-5], dtype=torch.bfloat16)) is None
    assert gguf_blocks.not_representable(torch.tensor([0.1])) == pytest.approx(0.1)
    assert gguf_blocks.not_representable(torch.tensor([1.0, 1e5], dtype=torch.bfloat16)) == 99840.0


# --- the file


def test_transformers_reads_the_weights_that_quanto_stands_for(made: Exported, plan: Plan, tmp_path: Path) -> None:
    """It undoes the order of the rows of q and k by code of its own."""
    read = AutoModelForCausalLM.from_pretrained(
        made.folder, gguf_file=gguf_file.FILE, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    done = quanto_checkpoint.apply(ExportRequest(plan_file(tmp_path, plan), tmp_path / "quanto", CPU))
    reloaded = saving.reload(done.folder)
    expected = {name: affine.parts(weight).values() for name, weight in packing.packed_weights(reloaded).items()}
    assert expected.keys() == plan.formats.keys()
    for name, module in read.named_modules():
        if isinstance(module, torch.nn.Linear):
            values = expected[name] if name in expected else reloaded.get_parameter(f"{name}.weight").float()
            assert torch.equal(module.weight, values), name
    assert torch.equal(read.model.norm.weight, reloaded.model.norm.weight.float())


def test_types_and_sizes(made: Exported, plan: Plan) -> None:
    reader = gguf.GGUFReader(made.folder / gguf_file.FILE)
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    names = {value: key for key, value in tiny_gguf.NAMES.items()}
    for name, kind in types.items():
        _, number, inner, _ = name.split(".") if name.startswith("blk") else ("", "", name.split(".")[0], "")
        module = f"model.layers.{number}.{names[inner]}" if number else names[inner]
        expected = {"qint8": "Q8_0", "qint4": "Q4_1", "qint2:hqq": "Q4_1"}.get(plan.formats.get(module, ""), "BF16")
        assert kind == ("F32" if "norm" in name else expected), name
    assert made.bytes_after == (made.folder / gguf_file.FILE).stat().st_size
    assert made.carried[0].startswith("qint2:hqq as Q4_1: 5 bits a weight")
    assert "Q2_K (2.625 bits) takes only input features in multiples of 256" in made.carried[0]
    assert manifest.read(made.folder).target == "gguf"
    assert read_plan(made.folder / "plan.json").plan == plan


def test_the_model_is_described_as_its_configuration_says(made: Exported) -> None:
    fields = {name: field.contents() for name, field in gguf.GGUFReader(made.folder / gguf_file.FILE).fields.items()}
    config = tiny_models.llama().config
    assert fields["llama.block_count"] == config.num_hidden_layers
    assert fields["llama.attention.head_count_kv"] == config.num_key_value_heads
    assert fields["llama.rope.freq_base"] == 10000.0
    assert (fields["tokenizer.ggml.pre"], fields["tokenizer.ggml.add_bos_token"]) == ("gpt-2", True)
    assert fields["tokenizer.ggml.tokens"][:2] == ["<|end|>", "!"]
    assert fields["tokenizer.ggml.token_type"][:2] == [gguf.TokenType.CONTROL, gguf.TokenType.NORMAL]


def test_a_model_from_a_gguf_keeps_its_metadata(tmp_path: Path) -> None:
    """Its tokenizer too, whatever it is: nothing of it passes through transformers."""
    origin = tiny_gguf.save(tmp_path / "origin.gguf", tiny_models.llama(torch.float16, layers=3))
    plan = make_plan.for_tiny_llama(origin, hashed(origin), dtype="float16")
    assignment = {name: "f16" if chosen == "bf16" else chosen for name, chosen in plan.assignment.items()}
    done = gguf_file.export(ExportRequest(plan_file(tmp_path, plan, assignment=assignment, reference="f16"), tmp_path / "gguf", CPU))
    old, new = (gguf.GGUFReader(path).fields for path in (origin, done.folder / gguf_file.FILE))
    own = {name for name in old if not name.startswith("GGUF.")}
    assert {name: new[name].contents() for name in own} == {name: old[name].contents() for name in own}


def test_llama_3s_rotary_scaling_is_transformers_own() -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(hidden_size=256, num_attention_heads=2, rope_parameters=rope, max_position_embeddings=131072)
    factors = gguf_metadata.rope_factors(config)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, CPU)
    plain = 1.0 / 500000.0 ** (torch.arange(0, 128, 2) / 128)
    assert factors is not None
    assert torch.allclose(plain / factors, scaled, rtol=1e-5)
    assert len(set(factors.tolist())) > 3


# --- what is refused


def refused(tmp_path: Path, plan: Plan, kind: type[BitzonesError], **changes: Any) -> str:
    with pytest.raises(kind) as error:
        gguf_file.export(ExportRequest(plan_file(tmp_path, plan, **changes), tmp_path / "gguf", CPU))
    assert [path.name for path in tmp_path.iterdir() if path.name != "source"] == ["plan.json"]
    return str(error.value)


def test_scales_that_float16_would_round_are_refused(tmp_path: Path) -> None:
    folder = tiny_models.save(tmp_path / "source", tiny_models.llama(torch.float32))
    plan = make_plan.for_tiny_llama(folder, hashed(folder / "model.safetensors"), dtype="float32")
    assignment = {name: "f32" if chosen == "bf16" else chosen for name, chosen in plan.assignment.items()}
    said = refused(tmp_path, plan, PlanError, assignment=assignment, reference="f32")
    assert said.startswith(f"module '{Q}' is qint4 with a scale of 0.0")
    assert "in float32, which Q4_1's float16 would round: --to mlx holds it as it is" in said


def test_columns_that_make_no_whole_blocks_are_refused(tmp_path: Path) -> None:
    model = tiny_models.llama(torch.bfloat16)
    model.model.layers[0].mlp.up_proj = torch.nn.Linear(200, 384, bias=False, dtype=torch.bfloat16)
    given = plan_file(tmp_path, make_plan.plan({UP: "qint8"}, {UP: None}))
    with pytest.raises(PlanError, match=f"'{UP}' is to be qint8 and has 200 input features.*the nearest that fits is bf16"):
        gguf_file.GGUF().check(model, given)


def test_an_architecture_that_llama_cpp_stores_otherwise_is_refused(tmp_path: Path, plan: Plan) -> None:
    model = tiny_models.llama(torch.bfloat16)
    model.config.model_type = "gemma"
    with pytest.raises(ModelError, match=r"LlamaForCausalLM \('gemma'\) is not exported to GGUF"):
        gguf_file.GGUF().check(model, plan_file(tmp_path, plan))


def test_a_tokenizer_that_splits_in_another_way_is_refused() -> None:
    tokenizer = tiny_models.tokenizer()
    gguf_tokenizer.check(tokenizer)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ModelError, match=r"its tokenizer .BPE behind Whitespace. is not exported to GGUF"):
        gguf_tokenizer.check(tokenizer)


# --- by llama.cpp itself


@pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
def test_llama_cpp_computes_what_the_plan_does(tmp_path: Path) -> None:
    from llama_cpp import Llama

    names = [f"model.layers.{layer}.self_attn.{kind}_proj" for layer in range(12) for kind in "qk"]
    plan = make_plan.plan(
        dict.fromkeys(names, "qint4"), dict.fromkeys(names, 96), source="embedded:tiny", sha256=hashed(embedded.TINY / "model.safetensors")
    )
    done = gguf_file.export(ExportRequest(plan_file(tmp_path, plan), tmp_path / "gguf", CPU))
    model = AutoModelForCausalLM.from_pretrained(embedded.TINY, dtype=torch.bfloat16)
    quantized = in_memory.quantize_named(model, dict.fromkeys(names, "qint4"))
    quantizing.set_compute_dtype(quantized, torch.float32)
    ids = [0, *range(1, 32)]
    llama = Llama(str(done.folder / gguf_file.FILE), n_ctx=64, logits_all=True, verbose=False, n_threads=1)
    llama.eval(ids)
    with torch.no_grad():
        ours = quantized(torch.tensor([ids])).logits[0].log_softmax(-1)
    theirs = torch.from_numpy(np.array(llama.scores[: len(ids)])).log_softmax(-1)
    llama.close()
    assert float((ours.exp() * (ours - theirs)).sum(-1).mean()) < 0.01


# --- formats of llama.cpp's own


def wide() -> Any:
    """A Llama whose rows make whole blocks of 256: keys and values of 128 rows, so that the order of heads shows."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.08,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


OWN = {
    "self_attn.q_proj": "gguf:Q4_K",
    "self_attn.k_proj": "gguf:Q3_K:imatrix",
    "self_attn.v_proj": "gguf:Q6_K",
    "self_attn.o_proj": "gguf:Q5_0",
    "mlp.up_proj": "gguf:IQ4_XS",
    "mlp.down_proj": "gguf:Q2_K:imatrix",
    "mlp.gate_proj": "qint4",
}


@pytest.fixture(scope="module")
def own_plan(tmp_path_factory: pytest.TempPathFactory) -> PlanFile:
    pytest.importorskip("libgguf")
    place = tmp_path_factory.mktemp("own")
    model = wide()
    source = tiny_models.save(place / "model", model)
    assignment = {f"model.layers.{layer}.{name}": format_ for layer in range(2) for name, format_ in OWN.items()}
    columns = {name: model.get_parameter(f"{name}.weight").shape[1] for name in assignment}
    sizes = {name: quantizing.group_size(format_, columns[name]) for name, format_ in assignment.items()}
    made = make_plan.plan(assignment, sizes, source=str(source), sha256=hashed(source / "model.safetensors"))
    size = sum(2 * model.get_parameter(f"{name}.weight").numel() for name in assignment)
    changes = {"calibration": calibrated(made)["calibration"], "reference_bytes": size}
    return plan_file(place, made, **changes)


@pytest.fixture(scope="module")
def own(own_plan: PlanFile, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return gguf_file.export(ExportRequest(own_plan, tmp_path_factory.mktemp("made") / "gguf", CPU))


def test_formats_of_llama_cpp_are_written_as_they_were_measured(own: Exported, own_plan: PlanFile) -> None:
    """Beside one of quanto's; what the file stands for is what a run computes with."""
    model = AutoModelForCausalLM.from_pretrained(own_plan.model.source, dtype=torch.bfloat16)
    in_memory.quantize(model, own_plan)
    expected = packed_weights(model)
    found = dict(gguf_file.values(own.folder))
    assert set(found) == set(expected)
    for name, values in found.items():
        assert torch.equal(values, expected[name].values(torch.float32)), name
    read = gguf.GGUFReader(own.folder / gguf_file.FILE)
    kinds = {
        tensor.name: tensor.tensor_type.name for tensor in read.tensors if tensor.name.startswith("blk.0.") and "norm" not in tensor.name
    }
    assert kinds == {
        "blk.0.attn_q.weight": "Q4_K",
        "blk.0.attn_k.weight": "Q3_K",
        "blk.0.attn_v.weight": "Q6_K",
        "blk.0.attn_output.weight": "Q5_0",
        "blk.0.ffn_up.weight": "IQ4_XS",
        "blk.0.ffn_down.weight": "Q2_K",
        "blk.0.ffn_gate.weight": "Q4_1",
    }
    assert "gguf:Q2_K:imatrix as Q2_K: 2.625 bits a weight" in own.carried


def test_transformers_reads_the_same_model(own: Exported, own_plan: PlanFile) -> None:
    """Dequantized by the gguf package, rows of q and k put back: the logits of the plan in memory."""
    read = AutoModelForCausalLM.from_pretrained(own.folder, gguf_file=gguf_file.FILE, dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(own_plan.model.source, dtype=torch.bfloat16)
    in_memory.quantize(model, own_plan)
    quantizing.set_compute_dtype(model, torch.float32)
    ids = torch.arange(1, 33)[None]
    torch.testing.assert_close(read(ids).logits, model(ids).logits, rtol=1e-3, atol=1e-3)


def test_the_importance_matrix_is_read_as_llama_cpp_reads_it(own_plan: PlanFile, tmp_path: Path) -> None:
    import libgguf

    made = llama_quantize_recipe.export(ExportRequest(own_plan, tmp_path / "recipe", CPU))
    lines = (made.folder / "tensor-types.txt").read_text(encoding="utf-8").split()
    kinds = ("q4_K", "q3_K", "q6_K", "q5_0", "iq4_xs", "q2_K", "q4_K")
    assert [line.partition("=")[2] for line in lines] == [*kinds, *kinds]
    assert "--imatrix imatrix.gguf" in (made.folder / "README.md").read_text(encoding="utf-8")
    read = libgguf.load_imatrix(made.folder / "imatrix.gguf")
    model = AutoModelForCausalLM.from_pretrained(own_plan.model.source, dtype=torch.float32)
    name = "model.layers.1.mlp.down_proj"
    expected = importance_of(model, [name], list(sequences.batches(CALIBRATED_ON, 4, CPU)))[name].mean
    assert len(read) == 14
    torch.testing.assert_close(torch.from_numpy(read["blk.1.ffn_down.weight"]).flatten(), expected, rtol=1e-5, atol=1e-9)


def test_a_checkpoint_of_quanto_does_not_hold_them(own_plan: PlanFile, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"'model\.layers\.0\.self_attn\.q_proj' is to be gguf:Q4_K, .*--to gguf does"):
        quanto_checkpoint.apply(ExportRequest(own_plan, tmp_path / "other", CPU))
