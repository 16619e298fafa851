"""A model that is entered at a layer gives what the whole model gives, and is as it was afterwards."""

from __future__ import annotations

import pytest
import torch
import tiny_models

from bitzones.measure import structure
from bitzones.measure.prefix import entered_at

IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])


@torch.no_grad()
@pytest.mark.parametrize("start", [0, 1])
def test_entering_a_layer_gives_what_the_whole_model_gives(start: int) -> None:
    model = tiny_models.llama()
    layers = list(structure.decoder_layers(model).values())
    entering: list[torch.Tensor] = []
    handle = layers[start].register_forward_pre_hook(lambda _m, args, kwargs: entering.append(args[0]), with_kwargs=True)
    expected = model(IDS).logits
    handle.remove()
    with entered_at(layers, start, entering[0]):
        assert torch.equal(model(torch.zeros_like(IDS)).logits, expected)  # what is read from the ids is not used
    assert torch.equal(model(IDS).logits, expected)


def test_an_interrupted_pass_leaves_the_model_whole() -> None:
    model = tiny_models.llama()
    layers = list(structure.decoder_layers(model).values())
    with pytest.raises(KeyboardInterrupt), entered_at(layers, 1, torch.zeros(1, 1, 1)):
        raise KeyboardInterrupt
    assert all("forward" not in layer.__dict__ for layer in layers)
