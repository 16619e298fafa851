"""A backend is a folder and a registration: the one on docs/add-a-backend.md is taken from there and measured."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models
import torch

import bitzones
from bitzones.backends import quantizing, registry, weights
from bitzones.schema.errors import ArgumentError, ModelError, NotMeasuredError
from bitzones.schema.formats import Format

PAGE = Path(__file__).parents[2] / "docs" / "add-a-backend.md"
DOWN = "model.layers.0.mlp.down_proj"


@pytest.fixture(scope="module")
def ternary() -> Iterator[Any]:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    made: dict[str, Any] = {"__name__": "ternary"}
    exec(compile(code, str(PAGE), "exec"), made)  # our own page
    registry.register(made["TERNARY"])
    yield made["TERNARY"]
    del registry._loaded["ternary"]


def test_a_weight_by_hand(ternary: Any) -> None:
    """The mean of |w| is 1 in the first row and 2 in the second."""
    weight = torch.tensor([[2.0, -1.0, 0.25, -0.75], [1.5, -4.0, 0.5, 2.0]])
    packed = ternary.quantize(weight, Format.of("ternary:2"))
    assert packed.values(torch.float32).tolist() == [[1.0, -1.0, 0.0, -1.0], [2.0, -2.0, 0.0, 2.0]]
    assert (packed.format, packed.group_size, packed.stored_bytes) == ("ternary:2", None, 2 * 4 + 2 * 4)
    assert ternary.stored_bytes(Format.of("ternary:2"), 2, 4, torch.float32) == packed.stored_bytes
    assert torch.equal(packed.parts().values(), packed.values(torch.float32))


def test_a_model_holds_it_beside_another_backend(ternary: Any) -> None:
    model, ids = tiny_models.llama(torch.bfloat16), torch.arange(1, 9)[None]
    other = "model.layers.1.mlp.up_proj"
    dense = model.get_parameter(f"{DOWN}.weight").clone()
    quantizing.quantize(model, {DOWN: "ternary:2g64", other: "qint8"})
    packed = weights.packed_weights(model)
    assert {name: weight.format for name, weight in packed.items()} == {DOWN: "ternary:2g64", other: "qint8"}
    quantizing.set_compute_dtype(model, torch.float32)
    held = model.get_parameter(f"{DOWN}.weight")
    assert torch.equal(held, packed[DOWN].values(torch.float32))
    assert torch.equal(held, ternary.quantize(dense, Format.of("ternary:2g64")).values(torch.float32))
    assert torch.isfinite(model(ids).logits).all()
    with pytest.raises(ModelError, match="already quantized"):
        quantizing.quantize(model, {"model.layers.2.mlp.up_proj": "qint4"})


def test_a_shape_that_does_not_fit_is_refused_before_anything_changes(ternary: Any) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 4), torch.nn.Linear(96, 4))
    with pytest.raises(ModelError, match=r"module '1' and 0 more cannot be ternary:2g64: 96 input features .* ternary:2"):
        quantizing.quantize(model, {"0": "ternary:2", "1": "ternary:2g64"})
    assert weights.packed_weights(model) == {}


def test_what_is_not_offered_is_refused() -> None:
    with pytest.raises(ArgumentError, match="there is no backend 'nobody'; backends: quanto, gguf, int, mlx"):
        registry.check(["qint4", "nobody:4"])
    with pytest.raises(ArgumentError, match="format 'mlx:5g64': mlx has 2, 3, 4, 6, 8 bits in groups of 32, 64, 128"):
        registry.check(["mlx:4g64", "mlx:5g64"])
    with pytest.raises(ModelError, match="'mlx' has no checkpoints of its own"):
        registry.checkpoints("mlx")
    with pytest.raises(ArgumentError, match="there is a backend 'quanto' already"):
        registry.register(SimpleNamespace(name="quanto"))  # type: ignore[arg-type]


def test_it_has_no_latency_here(ternary: Any) -> None:
    model = tiny_models.llama()
    quantizing.quantize(model, {DOWN: "ternary:2"})
    assert "ternary has no kernel in torch" in (weights.untimed(model.modules()) or "")
    assert weights.untimed(tiny_models.llama().modules()) is None
    assert weights.kernel(model.get_submodule(DOWN)) == "dense"


@pytest.fixture(scope="module")
def run(ternary: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return bitzones.measure(
        "embedded:tiny",
        formats=["ternary:2g64", "qint4"],
        tasks=[{"name": "word_problems_mini", "limit": 4}],
        budget=3.5,
        output=tmp_path_factory.mktemp("run"),
        select="sensitivity or plan or divergence or memory or latency",
        settings={
            "sensitivity": {"tokens": 128, "granularity": "layer", "fisher_samples": 1},
            "held_out": {"tokens": 128},
            "plans": {"rounds": 1, "random": 1},
            "latency": {"rounds": 2, "warmup_rounds": 1, "prompt_tokens": 4, "new_tokens": 2},
        },
    )


def test_the_embedded_model_is_measured_with_it_end_to_end(run: Any) -> None:
    """Ternary weights cost more than 4 bits in every layer, and the plan mixes both within its bytes."""
    found = bitzones.analyze(run)
    kl = {(item.unit, item.format): item.kl.value for item in found.sensitivity}
    units = {unit for unit, _ in kl}
    assert len(units) == 12
    assert all(kl[unit, "ternary:2g64"] > kl[unit, "qint4"] > 0 for unit in units)
    plan = found.decision.plan
    assert set(plan.assignment.values()) >= {"ternary:2g64", "qint4"}
    assert 2.25 < plan.achieved.average_bits <= 3.5
    (whole,) = (cell for cell in run.cells if cell.kind == "plans")
    measured = {item.name: sum(item.kl_nats) for item in whole.plans}
    assert 0 < measured["uniform qint4"] < measured["plan"] < measured["uniform ternary:2g64"]


def test_its_stored_bytes_and_refused_latency_are_in_the_run(run: Any) -> None:
    cells = [cell for cell in run.cells if cell.variant == "w2"]
    memory = next(cell for cell in cells if cell.kind == "memory")
    assert set(memory.stored_bytes_by_format) == {"bf16", "ternary:2g64"}
    refused = [cell for cell in cells if cell.kind == "failed" and cell.of == "latency"]
    assert refused
    assert all("ternary has no kernel in torch" in cell.reason for cell in refused)


def test_untimed_units_end_a_budget_of_time(ternary: Any) -> None:
    from bitzones.models import loading
    from bitzones.models.units import model_units
    from bitzones.profiling import gemm_latency
    from bitzones.schema.latency_grid import Latency
    from bitzones.sensitivity.variants import Variants

    loaded = loading.Loaded(tiny_models.llama(torch.bfloat16), tiny_models.tokenizer(), "memory", "0" * 64)
    variants = Variants(loaded, {"bf16": "bf16", "w2": "ternary:2"}, torch.device("cpu"), torch.float32)
    with pytest.raises(NotMeasuredError, match="ternary has no kernel in torch"):
        gemm_latency.measure(variants, model_units(loaded.model), Latency(), 0)
