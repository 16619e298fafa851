"""Weights unpacked once give what those unpacked at every product give, and leave nothing behind."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from transformers import PreTrainedModel

from bitzones.backends import quantizing, unpacked, weights
from bitzones.devices import device as devices
from bitzones.models import structure

IDS = torch.arange(24).view(2, 12)


def quantized(format_name: str) -> PreTrainedModel:
    model = tiny_models.llama()
    quantizing.quantize(model, dict.fromkeys(structure.quantizable_modules(model), format_name))
    quantizing.set_compute_dtype(model, torch.float32)
    model.eval()
    return model


def forwards(model: torch.nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in module.__dict__]


@pytest.mark.parametrize("format_name", ["qint2", "qint4"])
@torch.no_grad()
def test_the_values_are_those_that_the_kernel_multiplies_by(format_name: str) -> None:
    model = quantized(format_name)
    inputs = {name: torch.randn(3, weight.shape[1]) for name, weight in weights.packed_weights(model).items()}
    expected, logits = {name: model.get_submodule(name)(given) for name, given in inputs.items()}, model(IDS).logits
    with unpacked.unpacked_once(model):
        assert forwards(model) == list(inputs)
        for name, given in inputs.items():
            torch.testing.assert_close(model.get_submodule(name)(given), expected[name], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model(IDS).logits, logits, rtol=1e-4, atol=1e-5)
    assert forwards(model) == []
    assert torch.equal(model(IDS).logits, logits)


def test_a_kernel_that_reads_packed_weights_stays_in_use() -> None:
    model = quantized("qint8")
    with unpacked.unpacked_once(model):
        assert forwards(model) == []


def test_what_memory_is_not_enough_for_stays_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = quantized("qint4")
    dense = sum(4 * weight.shape.numel() for weight in weights.packed_weights(model).values())
    for free, fits in ((2 * dense, True), (2 * dense - 1, False)):
        monkeypatch.setattr(devices, "free_bytes", lambda device, free=free: free)
        with unpacked.unpacked_once(model):
            assert bool(forwards(model)) is fits


def test_an_error_inside_leaves_nothing_behind() -> None:
    model = quantized("qint4")
    with pytest.raises(KeyError), unpacked.unpacked_once(model):
        raise KeyError
    assert forwards(model) == []
