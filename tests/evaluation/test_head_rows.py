"""Some rows of a head: known answers, what the draws are worth on average, and which tokens they are not enough for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitzones.evaluation import head_rows
from bitzones.evaluation.head_rows import Counts, HeadRows

VOCABULARY, WIDTH, LENGTH = 400, 8, 5
FEW = Counts(certain=40, strata=40)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


HEAD = random(VOCABULARY, WIDTH)
P = (random(1, LENGTH, WIDTH, seed=1) @ HEAD.T).softmax(-1)
CHANGE = 0.05 * random(1, LENGTH, WIDTH, seed=2)


def rows(seed: int, counts: Counts = FEW, p: torch.Tensor = P, head: torch.Tensor = HEAD) -> HeadRows:
    return head_rows.chosen(head, p, head_rows.mean_rows(head, p), [seed] * len(p), counts)


def in_full(p: torch.Tensor, head: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """The logarithm of E_p[exp((W - c) d)] over the whole vocabulary, in float64."""
    p, x = p.double(), (change @ head.T).double()
    return (p * (x - (p * x).sum(-1, keepdim=True)).exp()).sum(-1).log()


def test_the_mean_row_by_hand() -> None:
    p = torch.tensor([[[0.5, 0.25, 0.25], [0.0, 0.0, 0.0]]])
    head = torch.tensor([[2.0, 0.0], [0.0, 4.0], [4.0, 0.0]])
    assert head_rows.mean_rows(head, p).tolist() == [[[2.0, 1.0], [0.0, 0.0]]]
    assert head_rows.mean_rows(head.bfloat16(), p).dtype == torch.float32


def test_two_tokens_by_hand() -> None:
    """With p = (3/4, 1/4) and x = W d = (0, ln 2): E[x] = ln 2 / 4 and E[exp x] = 5/4."""
    made = rows(0, Counts(1, 1), torch.tensor([[[0.75, 0.25]]]), torch.tensor([[0.0], [1.0]]))
    found = made.estimated(torch.tensor([[[math.log(2)]]]))
    assert found.nats.item() == pytest.approx(math.log(1.25) - math.log(2) / 4, rel=1e-5)
    assert found.variance.tolist() == [0.0]  # only one row is left to draw
    assert not found.unsure.any()


@given(st.integers(0, 2**20), st.floats(0.01, 0.5))
def test_with_one_row_left_to_draw_the_estimate_is_exact(seed: int, size: float) -> None:
    head, change = random(12, 4, seed=seed), size * random(1, 3, 4, seed=seed + 1)
    p = (random(1, 3, 4, seed=seed + 2) @ head.T).softmax(-1)
    found = rows(seed, Counts(11, 1), p, head).estimated(change)
    torch.testing.assert_close(found.nats, in_full(p, head, change), rtol=1e-3, atol=1e-6)
    assert float(found.variance) == pytest.approx(0.0, abs=1e-10)


def test_the_draws_are_right_on_average_and_vary_as_they_say() -> None:
    found = [rows(seed).estimated(CHANGE) for seed in range(600)]
    sums = torch.stack([item.nats.sum() for item in found])
    variances = torch.stack([item.variance.sum() for item in found])
    assert not any(item.unsure.any() for item in found)
    error = float(sums.std() / math.sqrt(len(sums)))
    assert float(sums.mean()) == pytest.approx(float(in_full(P, HEAD, CHANGE).sum()), abs=4 * error)
    assert float(variances.mean()) == pytest.approx(float(sums.var()), rel=0.2)


def test_every_row_is_drawn_as_often_as_it_counts() -> None:
    """The sum of the shares of a token is an unbiased estimate of its whole probability, 1."""
    sums = torch.stack([rows(seed).shares.sum(-1) for seed in range(300)])
    torch.testing.assert_close(sums.mean(0), torch.ones(1, LENGTH), rtol=0.02, atol=0.0)


def test_draws_come_from_the_seed_alone() -> None:
    one, again, other = rows(1), rows(1), rows(2)
    assert torch.equal(one.rows, again.rows)
    assert torch.equal(one.rows[:, : FEW.certain], other.rows[:, : FEW.certain])
    assert not torch.equal(one.rows, other.rows)


def test_a_sequence_does_not_depend_on_the_one_beside_it() -> None:
    p, change = torch.cat([P, P.flip(1)]), torch.cat([CHANGE, CHANGE.flip(1)])
    both = head_rows.chosen(HEAD, p, head_rows.mean_rows(HEAD, p), [1, 7], FEW).estimated(change)
    torch.testing.assert_close(both.nats[:1], rows(1).estimated(CHANGE).nats)
    torch.testing.assert_close(both.variance[:1], rows(1).estimated(CHANGE).variance)


def test_tokens_that_are_not_scored_count_nothing() -> None:
    scored = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]])[..., None]
    found = rows(3, p=P * scored).estimated(CHANGE * scored)
    alone = rows(3, p=P[:, :3]).estimated(CHANGE[:, :3])
    torch.testing.assert_close(found.nats[:, :3], alone.nats)
    torch.testing.assert_close(found.variance, alone.variance)
    assert found.nats[:, 3:].tolist() == [[0.0, 0.0]]


def test_large_changes_and_what_is_not_finite_are_unsure() -> None:
    change = CHANGE.clone()
    change[0, 1] *= 80
    change[0, 2, 0] = math.nan
    found = rows(0).estimated(change)
    assert found.unsure.tolist() == [[False, True, True, False, False]]
    change[0, 1:3] = 0.0
    assert found.variance.tolist() == pytest.approx(rows(0).estimated(change).variance.tolist())


def test_where_a_few_draws_decide_the_estimate_is_unsure() -> None:
    """One row of the tail moves far, and is drawn with little probability: almost all of the estimate is one draw."""
    head = torch.zeros(VOCABULARY, 1)
    p = torch.full((1, 1, VOCABULARY), 1.0 / VOCABULARY)
    head[300] = 4.0
    made = HeadRows(
        Counts(1, 2),
        rows=torch.tensor([[[0.0], [4.0], [0.0], [0.0], [0.0]]]),
        shares=torch.tensor([[[0.5, 0.01, 0.15, 0.15, 0.15]]]),
        centers=head_rows.mean_rows(head, p),
    )
    found = made.estimated(torch.ones(1, 1, 1))
    assert 0.2 < found.nats.item() < head_rows.MOST_NATS * 1.5
    assert found.unsure.item()
