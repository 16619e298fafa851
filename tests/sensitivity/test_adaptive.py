"""Adaptive sweeps of a tiny model: the same figures as a full sweep of what they measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import tiny_sweep
import torch

from bitzones.data import sequences as sequence_sets
from bitzones.schema.sensitivity_cells import SensitivityCell, Unit
from bitzones.sensitivity import adaptive, sweep
from bitzones.sensitivity.adaptive import Raced
from bitzones.sensitivity.sweep import Candidate, Sweep

SET = tiny_sweep.sequences(tuple(4 + n % 7 for n in range(30)))
CPU = torch.device("cpu")


def measure(candidates: Sequence[Candidate], places: Sequence[int]) -> Sweep:
    variants, _, bench = tiny_sweep.swept()
    batches = sequence_sets.batches(SET.of(places), 16, CPU)
    return sweep.exact(variants.reference, bench.layers, candidates, batches, len(places))


def units() -> tuple[Unit, ...]:
    """Some of the model's, so that a test takes a second."""
    return tiny_sweep.swept()[1].units[-4:]


def raced(budget: float, uniform: dict[str, Sequence[float]] | None = None) -> Raced:
    every = tiny_sweep.swept()[2].menu
    menu = replace(every, units=every.units[-4:], stored_bytes=every.stored_bytes[-4:], offered=every.offered[-4:])
    return Raced(menu, int(menu.least_bytes + budget * (menu.most_bytes - menu.least_bytes)), ["a", "b"] * 15, uniform or {}, 0)


def made(asked: Raced, how: adaptive.Measure = measure) -> SensitivityCell:
    variants = tiny_sweep.swept()[0]
    return adaptive.adaptive_cell(variants, units(), "group", SET, asked, how, lambda done: None)


@pytest.fixture(scope="module")
def full() -> SensitivityCell:
    variants = tiny_sweep.swept()[0]
    batches = sequence_sets.batches(SET, 16, CPU)
    return sweep.exact_cell(variants, units(), "group", SET, batches, lambda done: None)


def test_it_measures_what_a_full_sweep_does_and_says_where_it_stopped(full: SensitivityCell):
    found = made(raced(0.1))
    assert found.adaptive is not None
    assert found.adaptive.looks == (20, 30)
    assert found.measured_share < 1
    assert full.measured_share == 1
    for one, other in zip(found.measurements, full.measurements, strict=True):
        assert (one.unit, one.format, one.stored_bytes, one.weight_error) == (
            other.unit,
            other.format,
            other.stored_bytes,
            other.weight_error,
        )
        assert one.kl_nats is not None
        assert other.kl_nats is not None
        count = len(one.kl_nats)
        assert count in (20, 30)
        assert (one.stopped is None) == (count == 30)
        expected = [other.kl_nats[place] for place in found.places[:count]]
        assert one.kl_nats == pytest.approx(expected, rel=1e-4, abs=1e-8)
    assert SensitivityCell.model_validate_json(found.model_dump_json()) == found


def test_what_breaks_is_a_failure_and_is_not_measured_again():
    asked: list[int] = []

    def breaking(candidates: Sequence[Candidate], places: Sequence[int]) -> Sweep:
        asked.append(len(candidates))
        found = [None if number == 0 and len(asked) == 1 else [0.1 * (number + 1)] * len(places) for number in range(len(candidates))]
        return Sweep([], found)

    found = made(raced(0.3), breaking)
    first = found.measurements[0]
    assert first.kl_nats is None
    assert first.failure == sweep.NOT_FINITE
    assert first.stopped is None
    assert asked[0] == len(found.measurements)
    assert all(count < asked[0] for count in asked[1:])


def test_every_round_measures_new_sequences_only():
    asked: list[Sequence[int]] = []

    def seen(candidates: Sequence[Candidate], places: Sequence[int]) -> Sweep:
        asked.append(places)
        return measure(candidates, places)

    found = made(raced(0.1), seen)
    assert len(asked[0]) == 20
    assert not set(asked[0]) & {place for places in asked[1:] for place in places}
    assert found.adaptive is not None
    assert tuple(asked[0]) == found.adaptive.order[:20]
