"""What quanto was asked for is what the tensors hold, and its silent failures are loud."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models
import torch
from optimum import quanto

from bitzones.backends import linear, quantizing, weights
from bitzones.backends.quanto import kernels, packing, saving
from bitzones.models import structure
from bitzones.schema.errors import ModelError

DOWN, QUERY = "model.layers.0.mlp.down_proj", "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize("format_name", ["qint8", "qint4", "qint4:hqq", "qint2", "qint2:hqq"])
def test_exactly_the_named_modules_are_frozen_in_their_format(format_name: str) -> None:
    model = tiny_models.llama()
    quantizing.quantize(model, {DOWN: format_name})
    packed = packing.packed_weights(model)
    assert {name: weight.qtype.name for name, weight in packed.items()} == {DOWN: format_name.partition(":")[0]}
    assert len(packed[DOWN].dequantize().unique()) > 2
    assert type(model.get_submodule(QUERY)) is torch.nn.Linear


class _Router(torch.nn.Linear):
    """As Llama 4 has it: a linear layer that returns more than a product."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        scores = super().forward(x)
        return scores.sigmoid(), scores


class _Doubled(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class _Falcon(torch.nn.Linear):
    """A product in other words, as Falcon has it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.T if self.bias is None else x @ self.weight.T + self.bias


@pytest.mark.parametrize(("kind", "expected"), [(_Router, False), (_Doubled, False), (_Falcon, True), (torch.nn.Linear, True)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_that_computes_more_than_a_product_is_left_alone(kind: type[torch.nn.Linear], expected: bool, bias: bool) -> None:
    assert linear.is_quantizable(kind(64, 4, bias=bias)) is expected


def test_naming_one_that_computes_more_is_an_error() -> None:
    router = _Router(64, 4)
    with pytest.raises(ModelError, match="0' is a _Router: not quantizable"):
        quantizing.quantize(torch.nn.Sequential(router), {"0": "qint8"})


def test_mixed_formats_in_one_model() -> None:
    model = tiny_models.llama()
    asked = {DOWN: "qint2:hqq", QUERY: "qint8", "model.layers.1.mlp.up_proj": "qint4"}
    quantizing.quantize(model, asked)
    assert {n: w.qtype.name for n, w in packing.packed_weights(model).items()} == {n: f.split(":")[0] for n, f in asked.items()}


@pytest.mark.parametrize(("format_name", "steps"), [("qint8", 255), ("qint4", 15), ("qint2", 3)])
def test_values_lie_within_a_step_of_the_weights(format_name: str, steps: int) -> None:
    model = tiny_models.llama()
    before = model.get_submodule(DOWN).weight.clone()
    quantizing.quantize(model, {DOWN: format_name})
    after = packing.dense(packing.packed_weights(model)[DOWN], torch.float32)
    widest = float(before.max() - before.min())
    assert 0 < float((after - before).abs().max()) <= widest / steps * 1.01


def test_fewer_bits_lose_more_and_hqq_loses_less_than_max_at_two() -> None:
    errors = {}
    for format_name in ("qint8", "qint4", "qint2", "qint2:hqq"):
        model = tiny_models.llama()
        before = model.get_submodule(DOWN).weight.clone()
        quantizing.quantize(model, {DOWN: format_name})
        after = packing.dense(packing.packed_weights(model)[DOWN], torch.float32)
        errors[format_name] = float((after - before).abs().mean())
    assert errors["qint8"] < errors["qint4"] < errors["qint2:hqq"] < errors["qint2"]


@pytest.mark.parametrize(
    ("format_name", "data", "group"), [("qint8", 192 * 192, None), ("qint4", 192 * 192 // 2, 96), ("qint2", 192 * 192 // 4, 96)]
)
def test_stored_bytes_by_hand(format_name: str, data: int, group: int | None) -> None:
    model = tiny_models.llama(torch.bfloat16)
    quantizing.quantize(model, {QUERY: format_name})
    weight = packing.packed_weights(model)[QUERY]
    scales = 192 * 2 if group is None else 192 * (192 // group) * 2 * 2  # bf16 scales; groups have a shift each as well
    assert packing.group_size(weight) == group
    assert packing.stored_bytes(weight) == data + scales


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_of_a_parameter_are_those_of_what_it_is_made_of(dtype: torch.dtype) -> None:
    """Also in the packing of a kernel, which 4 bits in groups of 128 have in bfloat16."""
    model = tiny_models.llama(dtype)
    quantizing.quantize(model, {DOWN: "qint4", QUERY: "qint8", "model.layers.1.mlp.up_proj": "qint2"})
    for name, weight in packing.packed_weights(model).items():
        assert weights.stored_bytes(model.get_parameter(f"{name}.weight")) == packing.stored_bytes(weight)
    assert weights.stored_bytes(model.lm_head.weight) == model.lm_head.weight.numel() * dtype.itemsize


def test_quanto_chooses_groups_by_width() -> None:
    sizes = {}
    for width in (384, 192, 128):
        module = torch.nn.Sequential(torch.nn.Linear(width, 8, bias=False))
        quantizing.quantize(module, {"0": "qint4"})
        sizes[width] = packing.group_size(packing.packed_weights(module)["0"])
    assert sizes == {384: 128, 192: 96, 128: None}


@pytest.mark.parametrize("format_name", ["qint8", "qint4", "qint2:hqq"])
def test_widening_keeps_every_integer(format_name: str) -> None:
    model = tiny_models.llama(torch.bfloat16)
    quantizing.quantize(model, {DOWN: format_name})
    stored = packing.packed_weights(model)[DOWN]
    wide = packing.cast(stored, torch.float32)
    assert wide.dtype == torch.float32
    assert torch.equal(torch.as_tensor(wide._data._data if hasattr(wide._data, "_data") else wide._data),
                       torch.as_tensor(stored._data._data if hasattr(stored._data, "_data") else stored._data))  # fmt: skip
    difference = (wide.dequantize() - stored.dequantize().float()).abs().max()
    assert 0 <= float(difference) < 0.01 * float(wide.dequantize().abs().max())  # only the products' own rounding in bf16


@pytest.mark.parametrize("format_name", ["qint8", "qint4", "qint2:hqq"])
def test_a_widened_model_computes_with_the_dense_values(format_name: str) -> None:
    ids = torch.arange(1, 21).reshape(2, 10)
    quantized, by_hand = tiny_models.llama(torch.bfloat16), tiny_models.llama(torch.bfloat16)
    names = structure.quantizable_modules(quantized)
    quantizing.quantize(quantized, dict.fromkeys(names, format_name))
    packed = packing.packed_weights(quantized)
    quantizing.set_compute_dtype(quantized, torch.float32)
    quantizing.set_compute_dtype(by_hand, torch.float32)
    plain = by_hand(ids).logits
    for name, weight in packed.items():
        by_hand.get_submodule(name).weight.data = packing.dense(weight, torch.float32)
    torch.testing.assert_close(quantized(ids).logits, by_hand(ids).logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain, by_hand(ids).logits, atol=1e-3)


def test_what_a_model_keeps_wide_stays_wide_and_kernels_stay() -> None:
    """Rotary frequencies are float32 in a bfloat16 model; 4-bit weights with groups of 128 get a kernel's own packing."""
    model = tiny_models.llama(torch.bfloat16)
    model.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq.float()
    quantizing.quantize(model, {DOWN: "qint4"})
    weight = model.get_submodule(DOWN).weight
    quantizing.set_compute_dtype(model, torch.bfloat16)
    assert model.get_submodule(DOWN).weight is weight
    quantizing.set_compute_dtype(model, torch.float32)
    assert model.get_submodule(DOWN).weight.dtype == torch.float32
    narrow = tiny_models.llama(torch.float32)
    narrow.model.rotary_emb.inv_freq = narrow.model.rotary_emb.inv_freq.double()
    quantizing.set_compute_dtype(narrow, torch.bfloat16)
    assert narrow.model.embed_tokens.weight.dtype == torch.bfloat16
    assert narrow.model.rotary_emb.inv_freq.dtype == torch.float64


def test_a_mistyped_name_is_an_error_and_quantizes_nothing() -> None:
    model = tiny_models.llama()
    with pytest.raises(ModelError, match=r"no module 'model.layers.0.mlp.donw_proj'"):
        quantizing.quantize(model, {DOWN: "qint4", "model.layers.0.mlp.donw_proj": "qint4"})
    assert packing.packed_weights(model) == {}


def test_nothing_named_and_nothing_quantizable_are_errors() -> None:
    with pytest.raises(ModelError, match="no module was named"):
        quantizing.quantize(tiny_models.llama(), {})
    with pytest.raises(ModelError, match="LlamaRMSNorm: not quantizable"):
        quantizing.quantize(tiny_models.llama(), {"model.norm": "qint4"})


def test_quantizing_again_is_refused_since_quanto_would_keep_the_old_integers() -> None:
    model = tiny_models.llama()
    quantizing.quantize(model, {DOWN: "qint8"})
    with pytest.raises(ModelError, match="already quantized"):
        quantizing.quantize(model, {DOWN: "qint2"})
    # the trap itself: quanto accepts it, its map says qint2, the tensor stays qint8
    quanto.quantize(model, weights=quanto.qint2, include=[DOWN])
    quanto.freeze(model)
    assert quanto.quantization_map(model)[DOWN]["weights"] == "qint2"
    with pytest.raises(ModelError, match=r"should be qint2 and is qint8"):
        quantizing.verify(model, {DOWN: "qint2"})


def test_verify_notices_what_was_not_quantized_and_what_was_not_asked_for() -> None:
    model = tiny_models.llama()
    with pytest.raises(ModelError, match="should be qint4 and is not quantized"):
        quantizing.verify(model, {DOWN: "qint4"})
    quantizing.quantize(model, {DOWN: "qint4", QUERY: "qint4"})
    with pytest.raises(ModelError, match="was not requested"):
        quantizing.verify(model, {DOWN: "qint4"})


def test_names_are_taken_literally() -> None:
    module = torch.nn.ModuleDict({"a[1]": torch.nn.Linear(64, 8), "a1": torch.nn.Linear(64, 8)})
    quantizing.quantize(module, {"a[1]": "qint8"})
    assert list(packing.packed_weights(module)) == ["a[1]"]


def test_kernels_are_named_by_the_weight() -> None:
    model = tiny_models.llama()
    quantizing.quantize(model, {DOWN: "qint4", QUERY: "qint8"})
    found = {name: weights.kernel(model.get_submodule(name)) for name in (DOWN, QUERY, "lm_head")}
    assert found == {DOWN: "WeightQBitsTensor", QUERY: "WeightQBytesTensor", "lm_head": "dense"}
    assert weights.kernel_kinds(found.values()) == {"WeightQBitsTensor": "unpacked", "WeightQBytesTensor": "fused", "dense": "dense"}
    assert [kernels.needs_unpacking(model.get_submodule(name)) for name in (DOWN, QUERY)] == [True, False]


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_comes_back_as_it_was(tmp_path: Path, tied: bool) -> None:
    model = tiny_models.llama(tied=tied)
    quantizing.quantize(model, asked := {DOWN: "qint2:hqq", QUERY: "qint8", "model.layers.1.mlp.up_proj": "qint4"})
    saving.save(model, tmp_path)
    again = saving.reload(tmp_path)
    quantizing.verify(again, asked)
    assert structure.tied_embeddings(again) is tied
    assert not any(parameter.requires_grad for parameter in again.parameters())
    ids = torch.arange(1, 21).reshape(2, 10)
    assert torch.equal(model(ids).logits, again(ids).logits)


def test_a_kernels_packing_is_made_as_often_here_as_in_a_reloaded_model(tmp_path: Path) -> None:
    """A group from -0.645 to -0.377: its middle as TinyGemm keeps it is -0.5 at the first packing and -0.498 at the second."""
    model = tiny_models.llama(torch.bfloat16)
    model.get_submodule(DOWN).weight.data[1, :128] = torch.linspace(-0.64453125, -0.376953125, 128)
    quantizing.quantize(model, {DOWN: "qint4"})
    saving.save(model, tmp_path)
    once = model.get_submodule(DOWN).weight.data._scale_shift
    saving.repack_as_reloaded(model)
    twice = model.get_submodule(DOWN).weight.data._scale_shift
    assert kernels.kernel(model.get_submodule(DOWN)) == "TinyGemmWeightQBitsTensor"
    assert not torch.equal(once, twice)
    assert torch.equal(twice, saving.reload(tmp_path).get_submodule(DOWN).weight.data._scale_shift)


def test_what_quanto_cannot_save_or_load_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"quanto cannot save the model: .*must be a quantized"):
        saving.save(tiny_models.llama(), tmp_path)
    with pytest.raises(ModelError, match="quanto cannot load this: No quantization map"):
        saving.reload(tmp_path)


WITHOUT_COMPILER = """
import sys, torch
import tiny_models
from optimum.quanto.library.extensions import get_extension
from bitzones.schema.errors import NotMeasuredError
from bitzones.profiling import latency; from bitzones.backends import quantizing; from bitzones.backends.quanto import extensions, packing
from bitzones.schema.latency_grid import Timing
get_extension("quanto_cpp").build_directory = sys.argv[1]
said = []
failure = extensions.extension_failure(said.append)
print(failure)
assert said and "compiling" in said[0], said
model = tiny_models.llama()
quantizing.quantize(model, {"model.layers.0.mlp.down_proj": "qint2:hqq"})
torch.save(packing.dense(packing.packed_weights(model)["model.layers.0.mlp.down_proj"], torch.float32), sys.argv[2])
try:
    latency.prepare(model, Timing("decode", 1, 8, 2), 0)
except NotMeasuredError as error:
    print(error)
else:
    raise SystemExit("latency of packed weights was offered")
latency.prepare(tiny_models.llama(), Timing("decode", 1, 8, 2), 0)
"""


def test_without_a_compiler_the_integers_are_the_same_and_latency_is_refused(tmp_path: Path) -> None:
    environment = {**os.environ, "CXX": "/nonexistent/c++", "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parents[1])])}
    (tmp_path / "build").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER, str(tmp_path / "build"), str(tmp_path / "dense.pt")],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "cannot be built" in done.stdout
    assert "install g++ and ninja" in done.stdout
    model = tiny_models.llama()
    quantizing.quantize(model, {DOWN: "qint2:hqq"})
    here = packing.dense(packing.packed_weights(model)[DOWN], torch.float32)
    assert torch.equal(torch.load(tmp_path / "dense.pt", weights_only=True), here)
