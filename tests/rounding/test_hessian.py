"""The second moments of a layer's inputs, against products computed by hand from one whole pass."""

from __future__ import annotations

import tiny_models
import torch
from tiny_sweep import CALIBRATION, CPU, sequences

from bitzones.data import sequences as sequence_sets
from bitzones.models import structure
from bitzones.rounding.hessian import Before, Entering, moments_of, shared, through

MLP = {"up": "model.layers.1.mlp.up_proj", "gate": "model.layers.1.mlp.gate_proj", "down": "model.layers.1.mlp.down_proj"}
MODEL = tiny_models.llama()
LAYERS = list(structure.decoder_layers(MODEL).values())
BATCHES = list(sequence_sets.batches(CALIBRATION, 4, CPU))


def entering_layer_1() -> Entering:
    return Entering(through(MODEL, LAYERS, [() for _ in BATCHES], BATCHES))


def given_to(name: str) -> torch.Tensor:
    """What a module is given for the real tokens, sequence by sequence and so without padding, shape (tokens, width)."""
    found: list[torch.Tensor] = []
    handle = MODEL.get_submodule(name).register_forward_pre_hook(lambda _module, args: found.append(args[0][0]))
    for sequence in CALIBRATION.sequences:
        MODEL(torch.tensor([sequence.ids]))
    handle.remove()
    return torch.cat(found)


def test_padding_is_left_out_and_every_token_counted() -> None:
    found, _ = moments_of(MODEL, LAYERS, list(MLP.values()), entering_layer_1(), BATCHES)
    for name in MLP.values():
        inputs = given_to(name)
        assert found[name].tokens == len(inputs) == sum(CALIBRATION.sequence_tokens)
        torch.testing.assert_close(found[name].total, inputs.T @ inputs, rtol=1e-4, atol=1e-4)
        assert not found[name].drift.any()


def test_modules_that_read_the_same_tensor_share_a_moment() -> None:
    found, _ = moments_of(MODEL, LAYERS, list(MLP.values()), entering_layer_1(), BATCHES)
    assert found[MLP["up"]] is found[MLP["gate"]]
    assert sorted(names for _, names in shared(found).values()) == [[MLP["down"]], [MLP["gate"], MLP["up"]]] or sorted(
        sorted(names) for _, names in shared(found).values()
    ) == [[MLP["down"]], sorted([MLP["gate"], MLP["up"]])]


def test_several_batches_add_up() -> None:
    each = list(sequence_sets.batches(CALIBRATION, 1, CPU))
    first = Entering(through(MODEL, LAYERS, [() for _ in each], each))
    apart, _ = moments_of(MODEL, LAYERS, list(MLP.values()), first, each)
    together, _ = moments_of(MODEL, LAYERS, list(MLP.values()), entering_layer_1(), BATCHES)
    for name in MLP.values():
        assert apart[name].tokens == together[name].tokens
        torch.testing.assert_close(apart[name].total, together[name].total, rtol=1e-4, atol=1e-4)


def test_walking_through_the_layers_is_the_model() -> None:
    before: list[Before] = [() for _ in BATCHES]
    for _ in LAYERS:
        before = through(MODEL, LAYERS, before, BATCHES)
    mask = BATCHES[0].mask.bool()
    expected = MODEL.model(input_ids=BATCHES[0].ids, attention_mask=BATCHES[0].mask).last_hidden_state
    torch.testing.assert_close(MODEL.model.norm(before[0][-1].hidden)[mask], expected[mask])


def test_a_drift_pairs_what_is_with_what_was() -> None:
    """Inputs that have become twice what they were: z - x is -x/2, so the drift is minus half of the moment."""
    entering = entering_layer_1()
    doubled = Entering([[step.with_hidden(2 * step.hidden) for step in before] for before in entering.now], entering.now)
    query = "model.layers.1.self_attn.q_proj"
    norm = LAYERS[1].input_layernorm
    norm.forward = lambda hidden: hidden  # else it would scale the doubling away
    try:
        found, leaving = moments_of(MODEL, LAYERS, [query], doubled, BATCHES)
    finally:
        del norm.forward
    torch.testing.assert_close(found[query].drift, -found[query].total / 2, rtol=1e-4, atol=1e-4)
    assert leaving.reference is not None
    assert not torch.equal(leaving.reference[0][-1].hidden, leaving.now[0][-1].hidden)


def test_a_module_that_never_ran_has_no_moment() -> None:
    found, _ = moments_of(MODEL, LAYERS, ["model.layers.0.mlp.up_proj"], entering_layer_1(), BATCHES)
    assert found == {}


def test_longer_sequences_stay_in_their_order() -> None:
    uneven = sequences((3, 20))
    batches = list(sequence_sets.batches(uneven, 2, CPU))
    assert [before[-1].hidden.shape[:2] for before in through(MODEL, LAYERS, [()], batches)] == [(2, 20)]
