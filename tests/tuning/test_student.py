"""The student computes with what would be stored, and its gradients are those of the dense weights."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from tiny_sweep import CPU, sequences
from torch.nn import functional

from bitzones.backends import quantizing
from bitzones.backends.backend_protocol import Packed
from bitzones.backends.integers import Rounded
from bitzones.data import sequences as sequence_sets
from bitzones.evaluation import kl
from bitzones.evaluation.swapping import swapped
from bitzones.tuning.student import TunedLinear, tunable_student

BATCH = next(sequence_sets.batches(sequences((9, 9)), 2, CPU))
FORMATS = {
    "model.layers.0.mlp.down_proj": "qint2",
    "model.layers.1.self_attn.q_proj": "qint4",
    "model.layers.2.mlp.up_proj": "qint8",
}


def packed() -> dict[str, Packed]:
    model = tiny_models.llama(torch.bfloat16)
    return {name: quantizing.quantized_alone(model.get_parameter(f"{name}.weight"), form) for name, form in FORMATS.items()}


def one_row(dtype: torch.dtype = torch.bfloat16) -> TunedLinear:
    """Integers 0 to 3 twice, scales 1 and 2, shifts 1.5 and 3: weights -1.5 to 1.5 and -3 to 3."""
    integers = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]], dtype=torch.uint8)
    return TunedLinear(Rounded(integers, torch.tensor([[1.0, 2.0]], dtype=dtype), torch.tensor([[1.5, 3.0]], dtype=dtype)), 2, None)


def test_offsets_are_steps_of_the_grid_about_its_middle():
    linear = one_row()
    with torch.no_grad():
        linear.spread.copy_(torch.tensor([[1.5, 0.0]]))
        linear.offset.copy_(torch.tensor([[0.0, 0.5]]))
    assert linear.weight.tolist() == [[-3.0, -1.0, 1.0, 3.0, -4.0, -2.0, 0.0, 2.0]]


def test_what_it_computes_with_is_what_is_stored():
    linear = one_row()
    with torch.no_grad():
        linear.spread.fill_(0.0123)
    scale, shift = linear.stored()
    made = linear.rounded()
    assert made.scale.dtype == made.shift.dtype == torch.bfloat16
    assert torch.equal(made.scale.float(), scale)
    assert torch.equal(made.shift.float(), shift)
    assert not torch.equal(scale, linear.scale * (1 + linear.spread / 1.5))


def test_gradients_are_those_of_the_dense_weight():
    first, second = one_row(torch.float32), one_row(torch.float32)
    given = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    other = given.detach().clone().requires_grad_()
    first(given).square().sum().backward()
    functional.linear(other, second.weight).square().sum().backward()
    assert given.grad is not None
    for ours, theirs in ((first.spread.grad, second.spread.grad), (first.offset.grad, second.offset.grad), (given.grad, other.grad)):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("norms", [False, True])
def test_an_untrained_student_is_the_quantized_model(norms):
    reference, weights = tiny_models.llama(torch.bfloat16).float(), packed()
    before = {name: tensor.clone() for name, tensor in reference.state_dict().items()}
    student = tunable_student(reference, weights, FORMATS, norms=norms, stored_dtype=torch.bfloat16)
    with torch.no_grad(), swapped(reference, weights):
        torch.testing.assert_close(student.logits(BATCH), kl.logits_of(reference, BATCH))
    assert set(student.linears) == {name for name, form in FORMATS.items() if form != "qint8"}
    assert len(student.norms()) == (7 if norms else 0)  # two a layer and the last
    assert all(torch.equal(tensor, before[name]) for name, tensor in reference.state_dict().items())


def test_only_what_is_stored_beside_the_integers_is_trained():
    reference = tiny_models.llama(torch.bfloat16).float().requires_grad_()
    student = tunable_student(reference, packed(), FORMATS, norms=True, stored_dtype=torch.bfloat16)
    student.logits(BATCH).sum().backward()
    assert all(parameter.grad is not None for parameter in student.parameters().values())
    assert all(parameter.grad is None for parameter in reference.parameters())


def test_weights_come_back_with_the_same_integers_and_bytes():
    weights = packed()
    student = tunable_student(tiny_models.llama(torch.bfloat16).float(), weights, FORMATS, norms=False, stored_dtype=torch.bfloat16)
    with torch.no_grad():
        for parameter in student.parameters().values():
            parameter.fill_(0.1)
    for name, made in student.weights().items():
        was = weights[name]
        assert torch.equal(made.parts().integers, was.parts().integers)
        assert made.stored_bytes == was.stored_bytes
        assert made.group_size == was.group_size
        assert not torch.equal(made.values(torch.float32), was.values(torch.float32))
