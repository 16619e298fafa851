"""A model that quanto's loader would not make again is refused before it is quantized."""

from __future__ import annotations

import odd_models
import pytest
import tiny_models
import torch
from transformers import AutoModelForImageTextToText

from bitzones.backends import quantizing
from bitzones.backends.quanto import saving
from bitzones.schema.errors import ModelError
from bitzones.schema.formats import Format


def test_a_causal_model_is_reloadable_and_one_of_images_and_text_is_not() -> None:
    saving.check_reloadable(tiny_models.llama())
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(odd_models.qwen_vl())
    with pytest.raises(ModelError, match="quanto's loader makes no Qwen2_5_VLForConditionalGeneration from a checkpoint"):
        saving.check_reloadable(model)


def quantized(format_name: str) -> torch.nn.Linear:
    """A quantized module with a bias."""
    torch.manual_seed(0)
    made = torch.nn.Sequential(torch.nn.Linear(256, 32, bias=True, dtype=torch.bfloat16).requires_grad_(requires_grad=False))
    quantizing.quantize(made, {"0": format_name})
    module = made[0]
    assert isinstance(module, torch.nn.Linear)
    return module


@pytest.mark.parametrize("format_name", ["qint8", "qint4", "qint2:hqq"])
def test_a_module_is_read_from_its_tensors_and_shares_the_bias(format_name: str) -> None:
    module = quantized(format_name)
    like = torch.nn.Linear(256, 32, bias=True, dtype=torch.bfloat16, device="meta")
    like.bias = module.bias
    made = saving.read_module(like, module.state_dict(), Format.of(format_name).bits)
    given = torch.randn(5, 256, dtype=torch.bfloat16)
    assert torch.equal(made(given), module(given))
    assert made.bias is module.bias
    assert not any(parameter.requires_grad for parameter in made.parameters())


@pytest.mark.parametrize("spoil", ["lacks a part", "of another shape", "with another's part"])
def test_tensors_that_make_no_module_are_refused(spoil: str) -> None:
    module = quantized("qint4")
    tensors = dict(module.state_dict())
    like = torch.nn.Linear(256, 64 if spoil == "of another shape" else 32, dtype=torch.bfloat16, device="meta")
    if spoil == "lacks a part":
        tensors.pop("weight._shift")
    elif spoil == "with another's part":
        tensors["weight._other"] = torch.zeros(1)
    with pytest.raises(ModelError, match=r"its tensors (are not those of|make no)"):
        saving.read_module(like, tensors, 4)
