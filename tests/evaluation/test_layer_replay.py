"""A model that is entered at a layer gives what the whole model gives, and is as it was afterwards."""

from __future__ import annotations

import odd_models
import pytest
import tiny_models
import torch
from tiny_sweep import CPU, sequences

from bitzones.data import sequences as sequence_sets
from bitzones.evaluation.kl import logits_of
from bitzones.evaluation.layer_calls import Step
from bitzones.evaluation.layer_replay import by_token, entered_at, passed, stepped
from bitzones.models import structure
from bitzones.schema.errors import NotMeasuredError


@torch.no_grad()
def test_every_layer_run_again_gives_what_enters_the_next() -> None:
    model = tiny_models.llama()
    layers = list(structure.decoder_layers(model).values())
    (batch,) = sequence_sets.batches(sequences(), 4, CPU)
    found, logits = passed(model, layers, batch)
    assert torch.equal(logits, logits_of(model, batch))
    assert len(found.calls) == len(layers)
    for layer, call, following in zip(layers, found.calls, found.calls[1:], strict=False):
        assert torch.equal(call.run(layer).hidden, following.hidden)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@torch.no_grad()
@pytest.mark.parametrize("start", range(tiny_models.LAYERS + 1))
def test_entering_late_gives_the_same_logits_and_skips_what_lies_before(start: int) -> None:
    model = tiny_models.llama()
    layers = list(structure.decoder_layers(model).values())
    (batch,) = sequence_sets.batches(sequences(), 4, CPU)
    found, logits = passed(model, layers, batch)
    run: list[torch.nn.Module] = []
    handles = [layer.self_attn.register_forward_hook(lambda module, *_: run.append(module)) for layer in layers]
    with entered_at(layers, found.before(start)):
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
    with pytest.raises(KeyboardInterrupt), entered_at(layers, [Step(torch.zeros(1, 1, 1))]):
        raise KeyboardInterrupt
    assert all("forward" not in layer.__dict__ for layer in layers)


@torch.no_grad()
@pytest.mark.parametrize("name", odd_models.CONFIGS)
def test_any_architecture_entered_at_any_layer_gives_the_same_bits(name: str) -> None:
    """Tuples (Bloom, Falcon, MPT, GPT-Neo, Bamba), shared keys and values (Gemma 3n and 4), layers of several classes, recurrent states."""
    model = odd_models.model(name)
    layers = list(structure.decoder_layers(model).values())
    (batch,) = sequence_sets.batches(sequences(), 4, CPU)
    found, logits = passed(model, layers, batch)
    for start in range(len(layers) + 1):
        with entered_at(layers, found.before(start)):
            assert torch.equal(logits_of(model, batch), logits)
    walked: list[Step] = []
    for number, call in enumerate(found.calls):
        assert torch.equal(call.hidden, walked[-1].hidden) if walked else number == 0
        walked = stepped(model, layers, walked, batch)
    assert torch.equal(walked[-1].hidden, found.calls[-1].step.hidden)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gemma3n", "gemma4"])
def test_keys_and_values_that_later_layers_take_are_part_of_the_step(name: str) -> None:
    """Two layers put theirs, one for each kind of attention. Without them a later layer fails, with others it computes something else."""
    model = odd_models.model(name)
    layers = list(structure.decoder_layers(model).values())
    (batch,) = sequence_sets.batches(sequences(), 4, CPU)
    found, logits = passed(model, layers, batch)
    steps = found.before(3)
    assert [list(step.put) for step in steps] == [["shared_kv_states"], ["shared_kv_states"], []]
    kinds = [key for step in steps[:2] for key in step.put["shared_kv_states"]]
    assert kinds == ["sliding_attention", "full_attention"]
    with pytest.raises(KeyError), entered_at(layers, [Step(step.output) for step in steps]):
        logits_of(model, batch)
    keys, values = steps[1].put["shared_kv_states"]["full_attention"]
    others = Step(steps[1].output, {"shared_kv_states": {"full_attention": (keys, 2 * values)}})
    with entered_at(layers, [steps[0], others, steps[2]]):
        assert not torch.allclose(logits_of(model, batch), logits)


def test_hidden_states_of_several_streams_are_turned_tokens_first() -> None:
    mask = torch.ones(2, 3)
    streams = torch.arange(4 * 2 * 3 * 5).view(4, 2, 3, 5)
    assert torch.equal(by_token(streams, mask)[1, 2, 3], streams[3, 1, 2])
    assert torch.equal(by_token(streams[0], mask), streams[0])
    with pytest.raises(NotMeasuredError, match=r"shape \(6, 5\) do not say"):
        by_token(streams[0].flatten(0, 1), mask)
    with pytest.raises(NotMeasuredError, match="do not say"):
        by_token(torch.zeros(3, 3, 3, 5), torch.ones(3, 3))
