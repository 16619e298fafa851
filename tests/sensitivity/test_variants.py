"""Every variant from a fresh copy, one quantized model alive at a time, and the reference never touched."""

from __future__ import annotations

import gc
import weakref

import pytest
import tiny_models
import torch

from bitzones.backends.weights import packed_weights
from bitzones.devices import nvml
from bitzones.models import loading, structure
from bitzones.profiling import memory
from bitzones.schema.latency_grid import Timing
from bitzones.sensitivity.variants import Variants

CPU = torch.device("cpu")
FORMATS = {"bf16": "bf16", "w8": "qint8", "w4": "qint4", "w2": "qint2"}
IDS = torch.tensor([[1, 5, 9, 3]])


def made(compute: torch.dtype = torch.float32) -> Variants:
    loaded = loading.Loaded(tiny_models.llama(torch.bfloat16), tiny_models.tokenizer(), "memory", "0" * 64)
    return Variants(loaded, FORMATS, CPU, compute)


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_the_reference_is_unchanged_by_the_others(compute: torch.dtype) -> None:
    variants = made(compute)
    reference = variants.model("bf16")
    before = {name: (p.data_ptr(), p.clone()) for name, p in reference.named_parameters()}
    logits = reference(IDS).logits
    for variant in FORMATS:
        variants.model(variant)
    assert variants.model("bf16") is reference
    for name, parameter in reference.named_parameters():
        assert (parameter.data_ptr(), parameter.dtype) == (before[name][0], compute)
        assert torch.equal(parameter, before[name][1])
    assert torch.equal(reference(IDS).logits, logits)
    assert variants.loaded.model.dtype == torch.bfloat16
    assert packed_weights(variants.loaded.model) == {}


def test_at_most_one_quantized_model_is_alive() -> None:
    variants = made()
    alive: list[weakref.ref[torch.nn.Module]] = []
    for variant in ("w8", "w4", "w2", "w8"):
        assert variants.model(variant) is variants.model(variant)
        alive.append(weakref.ref(variants.model(variant)))
        gc.collect()
        assert [ref() is not None for ref in alive] == [False] * (len(alive) - 1) + [True]


def test_each_is_quantized_from_a_fresh_copy_to_its_own_format() -> None:
    variants = made()
    names = set(structure.quantizable_modules(variants.reference))
    for variant in ("w2", "w8", "w4", "w2"):
        model = variants.model(variant)
        found = {name: weight.format for name, weight in packed_weights(model).items()}
        assert found == dict.fromkeys(names, FORMATS[variant])


def test_a_variant_built_again_is_the_same() -> None:
    variants = made()
    first = variants.model("w4")(IDS).logits
    other = variants.model("w2")(IDS).logits
    assert torch.equal(variants.model("w4")(IDS).logits, first)
    assert not torch.allclose(first, other, atol=1e-2)


def test_packed_weights_stay_when_the_model_is_gone_and_keep_the_stored_dtype() -> None:
    variants = made()
    weights = dict(variants.packed("w4"))
    variants.model("w8")
    assert variants.packed("w4") == weights
    assert len(weights) == tiny_models.LAYERS * 7
    assert {weight.parts().scale.dtype for weight in weights.values()} == {torch.bfloat16}
    assert variants.packed("bf16") == {}
    live = variants.model("w4").get_submodule("model.layers.0.mlp.up_proj").weight
    assert live.dtype == torch.float32


def by_hand(variant: str) -> tuple[int, int]:
    """Bytes of the quantized weights, and of all else."""
    wide, inner = tiny_models.WIDTH, tiny_models.INNER
    shapes = [(wide, wide, 96)] * 2 + [(wide // 3, wide, 96)] * 2 + [(inner, wide, 96)] * 2 + [(wide, inner, 128)]
    parameters, rows = sum(a * b for a, b, _ in shapes), sum(a for a, _, _ in shapes)
    groups = sum(a * b // size for a, b, size in shapes)
    layer = {"bf16": 0, "w8": parameters + 2 * rows, "w4": parameters // 2 + 4 * groups, "w2": parameters // 4 + 4 * groups}[variant]
    kept = 2 * parameters if variant == "bf16" else 0
    return tiny_models.LAYERS * layer, 2 * (257 * wide + wide) + tiny_models.LAYERS * (kept + 2 * 2 * wide)


@pytest.mark.parametrize("variant", FORMATS)
def test_stored_bytes_by_hand(variant: str) -> None:
    variants = made()
    quantized, rest = by_hand(variant)
    assert variants.stored_bytes(variant) == quantized + rest
    cell = memory.measure(variant, variants, Timing("decode", 1, 4, 1), nvml.open_gpu(None))
    assert cell.stored_bytes == quantized + rest
    assert cell.stored_bytes_by_format == {"bf16": rest, **({FORMATS[variant]: quantized} if quantized else {})}
