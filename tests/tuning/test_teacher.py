"""KL over the likeliest tokens and a tail: known answers, a bound of the whole, and the same from the cache."""

from __future__ import annotations

import math

import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_sweep import CPU, sequences

from bitzones.data import sequences as sequence_sets
from bitzones.data.sequences import SequenceSet
from bitzones.tuning import teacher
from bitzones.tuning.teacher import Teacher, Top, top_kl


def top(probabilities: list[float], k: int) -> Top:
    values, tokens = torch.tensor(probabilities).log().topk(k)
    return Top(tokens, values)


def test_a_known_answer():
    found = top_kl(top([0.5, 0.25, 0.25], 1), torch.zeros(3))
    assert float(found) == pytest.approx(0.5 * math.log(0.5 * 3) + 0.5 * math.log(0.5 * 3 / 2), rel=1e-6)


@given(seed=st.integers(0, 10**6), k=st.integers(1, 20))
def test_it_is_at_most_the_whole_kl_and_equal_where_every_token_is_told_apart(seed, k):
    generator = torch.Generator().manual_seed(seed)
    reference, student = (torch.randn(20, generator=generator) for _ in range(2))
    log_p, log_q = reference.log_softmax(-1), student.log_softmax(-1)
    whole = float((log_p.exp() * (log_p - log_q)).sum())
    found = float(top_kl(Top(log_p.topk(k).indices, log_p.topk(k).values), student))
    assert -1e-5 <= found <= whole + 1e-5
    if k == len(reference):
        assert found == pytest.approx(whole, abs=2e-5)


@pytest.mark.parametrize("cached", [True, False])
def test_what_is_recalled_is_what_was_computed_whatever_the_padding(monkeypatch, cached):
    monkeypatch.setattr(teacher, "CACHE_BYTES", 10**9 if cached else 0)
    model, rows = tiny_models.llama(), sequences((5, 9, 7)).sequences
    asked = Teacher(model, 21, 8)
    assert asked.cached is cached
    for row in rows:
        asked.top(next(sequence_sets.batches(SequenceSet((row,)), 1, CPU)))
    together = next(sequence_sets.batches(SequenceSet(rows), 3, CPU))
    found, fresh = asked.top(together), Teacher(model, 21, 8).top(together)
    scored = together.mask.bool()
    assert torch.equal(found.tokens[scored], fresh.tokens[scored])
    torch.testing.assert_close(found.log_p[scored], fresh.log_p[scored], atol=1e-5, rtol=1e-5)
