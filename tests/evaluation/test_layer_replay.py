"""A model that is entered at a layer gives what the whole model gives, and is as it was afterwards."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from tiny_sweep import CPU, sequences

from bitzones.data import sequences as calibration
from bitzones.evaluation.kl import logits_of
from bitzones.evaluation.layer_replay import entered_at, passed
from bitzones.models import structure


@torch.no_grad()
def test_every_layer_run_again_gives_what_enters_the_next() -> None:
    model = tiny_models.llama()
    layers = list(structure.decoder_layers(model).values())
    (batch,) = calibration.batches(sequences(), 4, CPU)
    found, logits = passed(model, layers, batch)
    assert torch.equal(logits, logits_of(model, batch))
    assert len(found.entries) == len(layers)
    for number, (layer, entry) in enumerate(zip(layers, found.entries, strict=True)):
        assert torch.equal(entry.run(layer, entry.hidden), found.entering(number + 1))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@torch.no_grad()
@pytest.mark.parametrize("start", range(tiny_models.LAYERS + 1))
def test_entering_late_gives_the_same_logits_and_skips_what_lies_before(start: int) -> None:
    model = tiny_models.llama()
    layers = list(structure.decoder_layers(model).values())
    (batch,) = calibration.batches(sequences(), 4, CPU)
    found, logits = passed(model, layers, batch)
    run: list[torch.nn.Module] = []
    handles = [layer.self_attn.register_forward_hook(lambda module, *_: run.append(module)) for layer in layers]
    with entered_at(layers, start, found.entering(start)):
        again = logits_of(model, batch)
    assert len(run) == len(layers) - start
    for handle in handles:
        handle.remove()
    assert torch.equal(again, logits)
    assert torch.equal(logits_of(model, batch), logits)
    assert not any("forward" in vars(layer) or layer._forward_pre_hooks for layer in layers)


def test_an_interrupted_pass_leaves_the_model_whole() -> None:
    model = tiny_models.llama()
    layers = list(structure.decoder_layers(model).values())
    with pytest.raises(KeyboardInterrupt), entered_at(layers, 1, torch.zeros(1, 1, 1)):
        raise KeyboardInterrupt
    assert all("forward" not in layer.__dict__ for layer in layers)
