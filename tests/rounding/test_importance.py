"""The importance of input features: known answers, the diagonal of GPTQ's moment, and formats that are rounded by it."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from tiny_sweep import CPU, sequences

from bitzones.backends.quantizing import quantized_alone
from bitzones.backends.registry import of
from bitzones.data import sequences as sequence_sets
from bitzones.models import structure
from bitzones.rounding import layerwise
from bitzones.rounding.hessian import Entering, moments_of
from bitzones.rounding.importance import importance_of
from bitzones.schema.errors import NonFiniteError
from bitzones.schema.formats import Format

CALIBRATION = sequences((40, 25, 33, 40))
BATCHES = list(sequence_sets.batches(CALIBRATION, 2, CPU))
TOKENS = sum(len(row.ids) for row in CALIBRATION.sequences)
DOWN, QUERY = "model.layers.1.mlp.down_proj", "model.layers.2.self_attn.q_proj"
DTYPE = torch.bfloat16
WEIGHED = "gguf:Q4_0:imatrix"


@pytest.fixture(scope="module", autouse=True)
def _libgguf() -> None:
    pytest.importorskip("libgguf")


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return tiny_models.llama(torch.bfloat16).float()


def test_it_is_the_diagonal_of_the_moment_without_padding(model) -> None:
    layers = list(structure.decoder_layers(model).values())
    moments, _ = moments_of(model, layers, ["model.layers.0.self_attn.q_proj"], Entering.first(BATCHES), BATCHES)
    (found,) = importance_of(model, ["model.layers.0.self_attn.q_proj"], BATCHES).values()
    (moment,) = moments.values()
    assert found.tokens == moment.tokens == TOKENS
    torch.testing.assert_close(found.mean, moment.total.diagonal() / TOKENS, rtol=1e-5, atol=1e-9)


def test_by_hand() -> None:
    """Two tokens, one feature each: 3 and 4 squared and halved."""

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(2, 1)
            self.never = torch.nn.Linear(2, 1)

        def forward(self, input_ids: torch.Tensor, **_: object) -> torch.Tensor:
            return self.first(torch.nn.functional.one_hot(input_ids, 2) * torch.tensor([3.0, 4.0]))

    (batch,) = sequence_sets.batches(sequence_sets.retold(["0 1"]), 1, CPU)
    found = importance_of(Model(), ["first", "never"], [batch])  # type: ignore[arg-type]
    assert found["first"].mean.tolist() == [4.5, 8.0]
    assert "never" not in found


def test_what_is_not_finite_is_named(model) -> None:
    broken = tiny_models.llama()
    broken.get_parameter("model.layers.0.mlp.up_proj.weight").fill_(torch.inf)
    with pytest.raises(NonFiniteError, match=r"model\.layers\..*: an input of the calibration set"):
        importance_of(broken, [DOWN, QUERY], BATCHES)


def test_a_weighed_module_is_the_same_alone_and_in_a_plan(model) -> None:
    """Its importance is the reference's, so it does not depend on how other modules are rounded."""
    alone = layerwise.separately(model, [WEIGHED, "qint2:gptq"], BATCHES, DTYPE)
    plan = {QUERY: WEIGHED, "model.layers.0.mlp.up_proj": "qint4", "model.layers.0.self_attn.v_proj": "gguf:Q8_0"}
    for more in ({}, {"model.layers.0.self_attn.o_proj": "qint2:gptq"}):
        made = layerwise.in_sequence(model, plan | more, BATCHES, DTYPE)
        assert set(made.weights) == {*plan, *more}
        assert torch.equal(made.weights[QUERY].values(torch.float32), alone[WEIGHED].weights[QUERY].values(torch.float32))
        stock = quantized_alone(model.get_parameter("model.layers.0.mlp.up_proj.weight").to(DTYPE), "qint4")
        assert torch.equal(made.weights["model.layers.0.mlp.up_proj"].values(torch.float32), stock.values(torch.float32))
    mean = importance_of(model, [QUERY], BATCHES)[QUERY].mean
    expected = of(WEIGHED).weigh(model.get_parameter(f"{QUERY}.weight").to(DTYPE), mean, Format.of(WEIGHED))
    assert torch.equal(alone[WEIGHED].weights[QUERY].values(torch.float32), expected.values(torch.float32))
    assert alone[WEIGHED].fallbacks == {}
    assert set(alone["qint2:gptq"].weights) == set(structure.quantizable_modules(model))
