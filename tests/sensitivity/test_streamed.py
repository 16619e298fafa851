"""A sweep by layers measures what a sweep by candidates measures, to the bit, and has one layer of a streamed model in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import odd_models
import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_sweep import CALIBRATION, CPU, batches, sequences
from transformers import PreTrainedModel

from bitzones.backends.quantizing import quantized_alone
from bitzones.data import sequences as sequence_sets
from bitzones.data.sequences import Batch
from bitzones.evaluation import kl
from bitzones.models import loading, streamed_weights, structure
from bitzones.models.units import model_units
from bitzones.schema.errors import NotMeasuredError
from bitzones.schema.profile_sections import Model
from bitzones.sensitivity import fisher, streamed, sweep
from bitzones.sensitivity.sweep import Candidate, Sweep
from bitzones.sensitivity.variants import Variants

FORMATS = {"bf16": "bf16", "w8": "qint8", "w4": "qint4", "w2": "qint2:hqq", "g2": "qint2:gptq"}
STOCK = {"bf16": "bf16", "w4": "qint4", "w2": "qint2:hqq"}
ROUNDING = sequences((40,) * 16)
COUNT = len(CALIBRATION.sequences)


def pairs() -> Iterator[Batch]:
    """Two batches."""
    return sequence_sets.batches(CALIBRATION, 2, CPU)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tmp_path_factory.mktemp("model"), tiny_models.llama(torch.bfloat16, tied=False))


def variants(folder: Path, placement: str, formats: dict[str, str] = FORMATS) -> Variants:
    loaded = loading.load(Model(source=str(folder), placement=placement), CPU)  # type: ignore[arg-type]
    include = [structure.head(loaded.model)] if formats is STOCK else []
    return Variants(loaded, formats, CPU, torch.float32, lambda: list(sequence_sets.batches(ROUNDING, 8, CPU)), include=include)


def by_layer(model: PreTrainedModel) -> list[torch.nn.Module]:
    return list(structure.decoder_layers(model).values())


def changes(model: PreTrainedModel) -> list[Candidate]:
    """Each module of a model at 4 bits where that is possible, else halved; and all of them together."""
    made = []
    for name, layer in structure.quantizable_modules(model).items():
        weight = model.get_parameter(f"{name}.weight").detach()
        made.append(Candidate(layer, {name: quantized_alone(weight, "qint4") if weight.shape[1] % 128 == 0 else weight / 2}))
    return [*made, Candidate(0, {name: weight for candidate in made for name, weight in candidate.weights.items()})]


# --- the loops


@pytest.mark.parametrize(("name", "room_bytes"), [("bloom", None), ("falcon-alibi", 0), ("gemma3n", 60_000), ("qwen-vl", None)])
def test_any_architecture_is_measured_as_by_candidates(name: str, room_bytes: int | None) -> None:
    model = odd_models.model(name)
    *alone, together = changes(model)
    candidates = [*alone[::4], together]
    by_candidates = sweep.exact(model, by_layer(model), candidates, pairs(), COUNT)
    found = streamed.exact(model, by_layer(model), candidates, pairs(), COUNT, room_bytes=room_bytes)
    assert (found.base, found.candidates) == (by_candidates.base, by_candidates.candidates)
    assert max(map(sum, filter(None, by_candidates.candidates))) > 0


@pytest.mark.parametrize("room_bytes", [100_000, None])
def test_candidates_on_a_base_and_behind_the_layers(room_bytes: int | None) -> None:
    model = tiny_models.llama(tied=False)
    *candidates, _ = changes(model)
    head = Candidate(None, {"lm_head": model.lm_head.weight.detach() * 0.9})
    base = {**candidates[3].weights, **candidates[-1].weights, **head.weights}
    undone = Candidate(0, {name: model.get_parameter(f"{name}.weight").detach() for name in candidates[3].weights})
    arguments = model, by_layer(model), [head, *candidates, undone], list(pairs()), COUNT
    expected = sweep.exact(*arguments, base=base)
    found = streamed.exact(*arguments, base=base, room_bytes=room_bytes)
    assert found.candidates == expected.candidates
    assert found.base == pytest.approx(expected.base, rel=1e-5)


def test_without_candidates_there_is_the_base() -> None:
    model = tiny_models.llama()
    assert streamed.exact(model, by_layer(model), [], batches(), COUNT) == Sweep([0.0] * COUNT, [])


def test_a_candidate_that_is_not_finite_has_no_kl_and_the_others_do() -> None:
    model = tiny_models.llama()
    weight = model.get_parameter("model.layers.1.mlp.up_proj.weight").detach()
    broken, fine = (Candidate(1, {"model.layers.1.mlp.up_proj": weight * scale}) for scale in (float("inf"), 0.5))
    assert [kl is None for kl in streamed.exact(model, by_layer(model), [broken, fine], batches(), COUNT).candidates] == [True, False]


@given(st.lists(st.integers(0, 5), max_size=12), st.integers(0, 6))
def test_waves_hold_every_candidate_once_in_the_order_of_layers(starts: list[int], most: int) -> None:
    cut = streamed.waves(starts, most)
    flat = [number for wave in cut for number in wave]
    assert sorted(flat) == list(range(len(starts)))
    assert [starts[number] for number in flat] == sorted(starts)
    assert all(1 <= len(wave) <= max(1, most) for wave in cut)


def test_progress_grows_to_one() -> None:
    model, shares = tiny_models.llama(), list[float]()
    streamed.exact(model, by_layer(model), changes(model), batches(), COUNT, shares.append, room_bytes=0)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


# --- a model that stays in its files


@pytest.mark.parametrize(("granularity", "formats"), [("group", FORMATS), ("layer", STOCK)], ids=["calibrated", "with the head"])
def test_a_streamed_model_has_the_sensitivities_of_one_in_memory(folder: Path, granularity: str, formats: dict[str, str]) -> None:
    cells = []
    for placement, measure in (("memory", sweep.exact_cell), ("stream", streamed.exact_cell)):
        made = variants(folder, placement, formats)
        include = [structure.head(made.loaded.model)] if formats is STOCK else []
        units = model_units(made.loaded.model, granularity, include=include)  # type: ignore[arg-type]
        cells.append(measure(made, units, granularity, CALIBRATION, pairs(), lambda share: None))  # type: ignore[arg-type]
    assert cells[0] == cells[1]
    assert all(item.kl_nats and sum(item.kl_nats) > 0 for item in cells[1].measurements)


def test_no_more_than_one_layer_is_in_memory(folder: Path) -> None:
    made = variants(folder, "stream", FORMATS)
    one = max(sum(p.numel() for p in layer.parameters() if p.ndim > 1) for layer in by_layer(made.loaded.model))
    held: list[int] = []

    def count(*_: object) -> None:
        weights = [p for model in (made.loaded.model, made.reference) for layer in by_layer(model) for p in layer.parameters()]
        held.append(sum(p.numel() for p in weights if p.ndim > 1 and p.dtype == torch.float32))  # mapped ones are as stored

    for layer in by_layer(made.reference):
        layer.get_submodule("mlp").register_forward_hook(count)
    streamed.exact_cell(made, model_units(made.loaded.model, "layer"), "layer", CALIBRATION, pairs())
    assert set(held) == {one}
    count()
    assert held[-1] == 0


def test_each_layer_is_brought_in_once_for_the_reference_and_once_for_a_wave(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, brought = variants(folder, "stream", STOCK), list[int]()
    layers = by_layer(made.reference)

    def counting(model: torch.nn.Module, layer: torch.nn.Module) -> object:
        brought.append(layers.index(layer))
        return streamed_weights.resident(model, layer)

    monkeypatch.setattr(streamed, "resident", counting)
    candidates = [Candidate(unit.layer, made.weights(unit, "w4")) for unit in model_units(made.loaded.model, "layer")]
    streamed.exact(made.reference, layers, candidates, pairs(), COUNT)
    assert brought == [0, 1, 2] * 2
    brought.clear()
    streamed.exact(made.reference, layers, candidates, pairs(), COUNT, room_bytes=0)  # one candidate a wave
    assert brought == [0, 1, 2, 0, 1, 2, 1, 2, 2]


def test_packed_weights_are_those_of_one_layer(folder: Path) -> None:
    made = variants(folder, "stream", FORMATS)
    whole = variants(folder, "memory", FORMATS)
    names = list(structure.quantizable_modules(made.loaded.model))
    for variant in ("w4", "g2"):
        ours, theirs = made.packed(variant), whole.packed(variant)
        assert list(ours) == list(theirs) == names
        for name in (*names, names[0]):  # back to the first layer: calibrated formats are rounded anew
            assert torch.equal(ours[name].values(torch.float32), theirs[name].values(torch.float32))
            assert {made_of.rpartition(".layers.")[2][0] for made_of, _ in made._by_layer._made} == {name.rpartition(".layers.")[2][0]}


def test_a_whole_variant_is_measured_layer_by_layer(folder: Path) -> None:
    ours, theirs = variants(folder, "stream", FORMATS), variants(folder, "memory", FORMATS)
    found = streamed.divergence_cell(ours, "w4", CALIBRATION, pairs())
    expected = kl.divergence_cell("w4", theirs.reference, theirs.model("w4"), CALIBRATION, pairs())
    assert found.kl_nats == pytest.approx(expected.kl_nats, rel=1e-3)
    with pytest.raises(NotMeasuredError, match="rounding g2 layer after layer needs the whole model in memory"):
        streamed.divergence_cell(ours, "g2", CALIBRATION, pairs())


def test_what_needs_the_whole_model_is_refused(folder: Path) -> None:
    made = variants(folder, "stream", STOCK)
    with pytest.raises(NotMeasuredError, match="the model of w4 needs the whole model in memory"):
        made.model("w4")
    with pytest.raises(NotMeasuredError, match="the Fisher proxy needs the whole model in memory"):
        fisher.fisher_cell(made, model_units(made.loaded.model, "layer"), CALIBRATION, batches(), 1, 0, lambda share: None)
