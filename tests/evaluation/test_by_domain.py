"""Perplexity and divergence by domain: a vocabulary of three tokens, worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny_models
import torch

from bitzones.data import mixtures, sequences
from bitzones.data.dealing import Dealer
from bitzones.data.sequences import SequenceSet, TokenSequence
from bitzones.data.sets import DomainSet
from bitzones.data.text import opened
from bitzones.evaluation import by_domain, kl
from bitzones.schema.domain_cell import DomainCell
from bitzones.schema.errors import NonFiniteError
from bitzones.schema.run_record import TextSet
from bitzones.schema.text_settings import Domain

P = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]])
Q = torch.tensor([[0.25, 0.5, 0.25], [0.25, 0.5, 0.25]])
FOLLOWING = torch.tensor([0, 2])


def test_three_tokens_by_hand() -> None:
    found = by_domain.predictions(P.log(), Q.log() + 7.0, FOLLOWING)  # logits are log-probabilities up to a constant
    torch.testing.assert_close(found.kl, torch.tensor([0.25 * math.log(2), 0.0], dtype=torch.float64), atol=1e-7, rtol=0)
    torch.testing.assert_close(found.nll, torch.tensor([math.log(4), math.log(4)], dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.reference_nll, torch.tensor([math.log(2), math.log(4)], dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.change, torch.tensor([-0.25, 0.0], dtype=torch.float64), atol=1e-7, rtol=0)
    assert found.same_top.tolist() == [0.0, 1.0]


class Fixed(torch.nn.Module):
    """Predicts one distribution at every place."""

    def __init__(self, probabilities: list[float]) -> None:
        super().__init__()
        self.row = torch.tensor(probabilities).log()

    def forward(self, input_ids: torch.Tensor, **_options: Any) -> Any:
        return type("Output", (), {"logits": self.row.expand(*input_ids.shape, -1)})


def domain_set(rows: list[tuple[int, ...]], **settings: Any) -> DomainSet:
    windows = SequenceSet(tuple(TokenSequence(row, len(row) - 1, ()) for row in rows))
    record = TextSet(origin="s", documents=1, sequences=len(rows), tokens=sum(map(len, rows)), sequence_tokens=16, sha256="0")
    return DomainSet(Domain(name="d", source="s", tokens=16, window=16, **settings), windows, record)


def cell(found: DomainSet, reference: torch.nn.Module, variant: torch.nn.Module, batch: int = 4) -> DomainCell:
    batches = sequences.batches(found.windows, batch, torch.device("cpu"))
    return by_domain.domain_cell("w2", reference, variant, found, batches)


def test_a_window_scores_what_follows_its_context() -> None:
    """Of 16 tokens with a context of 8, predictions 8 to 14 are scored, as llama-perplexity scores the second half of a chunk."""
    row = (0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 1, 0, 0, 2, 0)
    made = cell(domain_set([row]), Fixed([0.5, 0.25, 0.25]), Fixed([0.25, 0.5, 0.25]))
    following = row[9:]
    assert made.scored_tokens == (7,)
    assert (made.window, made.stride, made.context, made.joined) == (16, 16, 8, True)
    assert made.nll_nats[0] == pytest.approx(sum(-math.log((0.25, 0.5, 0.25)[token]) for token in following), abs=1e-5)
    assert made.reference_nll_nats[0] == pytest.approx(sum(-math.log((0.5, 0.25, 0.25)[token]) for token in following), abs=1e-5)
    assert made.kl_nats[0] == pytest.approx(7 * 0.25 * math.log(2), abs=1e-6)
    assert made.same_top == (0,)
    assert made.kl_tokens == (" ".join(["0.173"] * 7),)
    assert made.change_tokens == (" ".join({0: "-2500", 1: "2500", 2: "0"}[token] for token in following),)
    assert made.change_squares[0] == pytest.approx(sum(0.0625 for token in following if token != 2))


@pytest.mark.parametrize("batch", [1, 3])
def test_windows_of_different_lengths_are_scored_without_their_padding(batch: int) -> None:
    rows = [(0, 1, 2, 1), (0, 1, 2, 1, 0, 2), (2, 1)]
    made = cell(domain_set(rows, joined=False), Fixed([0.5, 0.25, 0.25]), Fixed([0.5, 0.25, 0.25]), batch)
    assert made.scored_tokens == (3, 5, 1)
    assert made.kl_nats == (0.0, 0.0, 0.0)
    assert made.same_top == (3, 5, 1)
    assert made.nll_nats == pytest.approx([2 * math.log(4) + math.log(4), 4 * math.log(4) + math.log(2), math.log(4)], abs=1e-5)


def test_squares_give_the_correlation_of_both_likelihoods() -> None:
    row = (0, 1, 0, 2, 2, 1)
    made = cell(domain_set([row], joined=False), Fixed([0.5, 0.3, 0.2]), Fixed([0.4, 0.35, 0.25]))
    q, p = ([-math.log(values[token]) for token in row[1:]] for values in ((0.4, 0.35, 0.25), (0.5, 0.3, 0.2)))
    expected = sum(x * x for x in q), sum(x * x for x in p), sum(x * y for x, y in zip(q, p, strict=True))
    assert made.nll_squares[0] == pytest.approx(expected, abs=1e-5)


def test_a_real_model_agrees_with_its_own_loss_and_the_kl_of_whole_sequences() -> None:
    reference, variant = tiny_models.llama(), tiny_models.llama()
    with torch.no_grad():
        variant.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    taken = Dealer(tiny_models.tokenizer(), 64).windows(
        opened(["a rose is a rose " * 20]), Domain(name="d", source="s", tokens=64, window=32)
    )
    windows, record = mixtures.joined([taken], 32)
    found = DomainSet(Domain(name="d", source="s", tokens=64, window=32, context=0), windows, record)
    made = cell(found, reference, variant)
    for place, row in enumerate(windows.sequences):
        ids = torch.tensor([row.ids])
        loss = variant(input_ids=ids, labels=ids).loss
        assert made.nll_nats[place] / 31 == pytest.approx(float(loss), rel=1e-5)
    whole = kl.whole(reference, variant, sequences.batches(windows, 4, torch.device("cpu")), 2)
    assert all(0 < scored < every for scored, every in zip(made.kl_nats, whole, strict=True))  # the last place has no token that follows


def test_a_variant_whose_logits_are_not_finite_is_an_error() -> None:
    found = domain_set([(0, 1, 2)], joined=False)
    with pytest.raises(NonFiniteError, match="the quantized model's logits"):
        cell(found, Fixed([0.5, 0.25, 0.25]), Fixed([float("nan"), 0.5, 0.5]))
    with pytest.raises(NonFiniteError, match="the reference's own logits"):
        cell(found, Fixed([float("nan"), 0.5, 0.5]), Fixed([0.5, 0.25, 0.25]))
