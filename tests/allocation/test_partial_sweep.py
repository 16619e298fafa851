"""Sweeps that measured a unit on some of the sequences only, as figures of all."""

from __future__ import annotations

import make_run
import numpy as np
import pytest
from make_adaptive import adaptive

from bitzones.allocation.partial_sweep import PartialSweep, kl_of, partial_sweep

FORMATS = tuple(make_run.BITS)


def test_what_was_measured_on_all_is_what_it_was():
    cell = make_run.sensitivity(layers=3)
    full = kl_of(cell, FORMATS)
    assert full.shape == (3, 4, 40)
    assert full[1, 2].tolist() == list(next(i.kl_nats for i in cell.measurements if (i.unit, i.format) == ("layers.1", "qint2:hqq")) or ())
    assert not full[:, 3].any()
    assert (kl_of(adaptive(cell, {}), FORMATS) == full).all()


def test_an_estimate_has_the_places_of_its_sequences():
    cell = make_run.sensitivity(layers=3)
    full, found = kl_of(cell, FORMATS), kl_of(adaptive(cell, {("layers.1", "qint4"): 20}), FORMATS)
    others = np.ones(full.shape[:2], dtype=np.bool_)
    others[1, 1] = False
    assert (found[others] == full[others]).all()
    assert found[1, 1].sum() == pytest.approx(full[1, 1].sum(), rel=0.2)
    assert found[1, 1].sum() != full[1, 1].sum()


def test_a_control_that_explains_a_unit_gives_its_total():
    cell = make_run.sensitivity(layers=3)
    (own,) = (item.kl_nats for item in cell.measurements if (item.unit, item.format) == ("layers.1", "qint4"))
    assert own is not None
    uniform = {"qint4": tuple(5 * nats for nats in own)}
    found = kl_of(adaptive(cell, {("layers.1", "qint4"): 20}, uniform), FORMATS)
    assert found[1, 1].sum() == pytest.approx(sum(own))


def test_the_nearest_unit_that_was_measured_on_all_is_a_control():
    rng = np.random.default_rng(1)
    tokens, shape = np.full(60, 10.0), (4, 2, 60)
    kl = np.zeros(shape)
    kl[0, 0], kl[3, 0] = rng.random(60), rng.random(60)
    kl[1, 0] = 2 * kl[0, 0]
    kl[2, 0] = 3 * kl[3, 0]
    counts = np.array([[60, 0], [25, 0], [25, 0], [60, 0]])
    found = PartialSweep(kl, counts, tokens, {}).estimates
    assert found[1, 0].values.sum() == pytest.approx(2 * kl[0, 0].sum())
    assert found[2, 0].values.sum() == pytest.approx(3 * kl[3, 0].sum())


def test_sequences_without_a_scored_token_are_left_out():
    cell = make_run.sensitivity(layers=2)
    tokens = (0, *cell.sequence_tokens[1:])
    cell = adaptive(cell.model_copy(update={"sequence_tokens": tokens}), {("layers.0", "qint8"): 25})
    assert kl_of(cell, FORMATS).shape == (2, 4, 39)
    assert partial_sweep(cell, FORMATS).counts[0, 0] in (24, 25)
    assert partial_sweep(cell, FORMATS).counts[1, 0] == 39
