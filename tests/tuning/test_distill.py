"""Tuning on a tiny model: the KL on text kept aside falls, integers stay, a seed repeats, and an interrupted tuning goes on as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
import torch
from tiny_sweep import sequences

from bitzones.backends import quantizing
from bitzones.backends.integers import Rounded
from bitzones.data.sequences import SequenceSet, TokenSequence
from bitzones.models import structure
from bitzones.schema.errors import NonFiniteError, PlanError, TaskError
from bitzones.schema.profile_sections import Tuning
from bitzones.tuning import distill, packed_weights, saved_state
from bitzones.tuning.distill import Texts, Tuned, split
from bitzones.tuning.student import Student, tunable_student


def few_tokens(count: int) -> SequenceSet:
    """Sequences of five tokens in random order: short contexts occur again and again, so that what is learned on some holds on others."""
    generator = torch.Generator().manual_seed(5)
    rows = [tuple(torch.randint(1, 6, (12,), generator=generator).tolist()) for _ in range(count)]
    return SequenceSet(tuple(TokenSequence(ids, len(ids) - 1, ()) for ids in rows))


TEXTS = split(few_tokens(40), 0.2, seed=0)
SETTINGS = Tuning(batch=4, passes=2, learning_rate=0.1, patience=12)
SPREAD = 0.3
"""Of the random factors on scales and shifts at the start: a wrong that they alone can mend."""

Made = tuple[torch.nn.Module, Callable[[], Student]]


@pytest.fixture(scope="module")
def made() -> Made:
    """A reference, and what makes its student with all modules at 4 bits."""
    stored, generator = tiny_models.llama(torch.bfloat16), torch.Generator().manual_seed(1)
    formats = dict.fromkeys(structure.quantizable_modules(stored), "qint4")
    weights = {name: quantizing.quantized_alone(stored.get_parameter(f"{name}.weight"), "qint4") for name in formats}
    for name, weight in weights.items():
        rounded = weight.parts()
        factors = 1 + SPREAD * torch.randn(rounded.scale.shape, generator=generator).to(rounded.scale)
        weights[name] = packed_weights.pack(Rounded(rounded.integers, rounded.scale * factors, rounded.shift * factors), 4)
    reference = stored.float()
    return reference, lambda: tunable_student(reference, weights, formats, norms=False, stored_dtype=torch.bfloat16)


def tuned(made: Made, texts: Texts = TEXTS, settings: Tuning = SETTINGS, seed: int = 0, **options) -> Tuned:
    return distill.distill(made[0], made[1], texts, settings, seed, **options)


@pytest.fixture(scope="module")
def first(made: Made) -> Tuned:
    return tuned(made)


def parts(found: Tuned) -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    taken = {name: weight.parts() for name, weight in found.weights.items()}
    return {name: (rounded.integers, rounded.scale, rounded.shift) for name, rounded in taken.items()}


def same(one: Tuned, other: Tuned) -> bool:
    return all(all(map(torch.equal, values, parts(other)[name])) for name, values in parts(one).items())


def test_the_kl_falls_and_the_integers_stay(made, first):
    assert sum(first.after) < 0.5 * sum(first.before)
    assert first.best_step > 0
    before = made[1]().weights()
    for name, (integers, scale, shift) in parts(first).items():
        assert torch.equal(integers, before[name].parts().integers)
        assert scale.dtype == shift.dtype == torch.bfloat16
        assert first.weights[name].stored_bytes == before[name].stored_bytes


def test_the_result_is_the_best_state_as_it_is_stored(made, first):
    """Measured again from the packed weights alone."""
    formats = dict.fromkeys(first.weights, "qint4")
    again = distill.distill(
        made[0],
        lambda: tunable_student(made[0], first.weights, formats, norms=False, stored_dtype=torch.bfloat16),
        TEXTS,
        SETTINGS.model_copy(update={"passes": 1, "learning_rate": 1e-6, "patience": 1}),
        0,
    )
    assert sum(again.before) == pytest.approx(sum(first.after), rel=1e-5)
    assert sum(first.after) == pytest.approx(min(nats for _, nats in first.history) * sum(TEXTS.validation.sequence_tokens))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(made, first):
    assert same(tuned(made), first)
    assert not same(tuned(made, seed=1), first)


def test_an_interrupted_tuning_goes_on_to_the_same_weights(made, first, tmp_path: Path):
    def stop(done: int, steps: int, nats: float) -> None:
        if done >= steps // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(made, place=tmp_path / "state", report=stop)
    resumed_at = []
    found = tuned(made, place=tmp_path / "state", report=lambda done, steps, nats: resumed_at.append(done))
    assert resumed_at[0] > 1
    assert same(found, first)
    assert found.history == first.history
    saved_state.remove(tmp_path / "state")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["settings", "tensors", "record"])
def test_a_state_of_another_tuning_or_a_damaged_one_is_refused_in_one_line(made, tmp_path: Path, damage: str):
    place = tmp_path / "state"
    tuned(made, settings=SETTINGS.model_copy(update={"passes": 1}), place=place)
    if damage == "tensors":
        (tmp_path / "state.safetensors").write_bytes(b"no")
    if damage == "record":
        (tmp_path / "state.json").write_text("[1", encoding="utf-8")
    wanted = SETTINGS.model_copy(update={"passes": 2 if damage == "settings" else 1})
    with pytest.raises(PlanError) as caught:
        tuned(made, settings=wanted, place=place)
    assert "\n" not in str(caught.value)
    assert ("another tuning" in str(caught.value)) is (damage == "settings")


def test_a_rate_that_only_harms_ends_early_and_changes_nothing(made):
    found = tuned(made, settings=SETTINGS.model_copy(update={"learning_rate": 1.0, "patience": 1}))
    assert found.best_step == 0
    assert found.after == found.before
    assert len(found.history) == 2  # before, and the one that gained nothing
    before = made[1]().weights()
    assert all(torch.equal(weight.parts().scale, before[name].parts().scale) for name, weight in found.weights.items())


def test_a_loss_that_is_no_number_is_refused():
    stored = tiny_models.llama(torch.bfloat16)
    name = "model.layers.0.mlp.down_proj"
    weights = {name: quantizing.quantized_alone(stored.get_parameter(f"{name}.weight"), "qint2")}
    rounded = weights[name].parts()
    weights = {name: packed_weights.pack(Rounded(rounded.integers, torch.full_like(rounded.scale, torch.nan), rounded.shift), 2)}
    reference = stored.float()
    with pytest.raises(NonFiniteError, match="learning_rate"):
        tuned((reference, lambda: tunable_student(reference, weights, {name: "qint2"}, norms=False, stored_dtype=torch.bfloat16)))


def test_recomputing_in_the_backward_pass_changes_no_weight(made, first, monkeypatch):
    monkeypatch.setattr(distill, "ACTIVATION_BYTES", 0)
    assert same(tuned(made), first)


def test_a_split_keeps_every_sequence_once_and_needs_two():
    found = sequences((5,) * 10)
    texts = split(found, 0.3, seed=3)
    ids = [row.ids for part in (texts.training, texts.validation) for row in part.sequences]
    assert sorted(ids) == sorted(row.ids for row in found.sequences)
    assert len(texts.validation.sequences) == 3
    with pytest.raises(TaskError, match="two sequences"):
        split(SequenceSet(found.sequences[:1]), 0.3, seed=3)
