"""Rounding with error feedback, against a plain transcription of the paper and against answers known by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitzones.rounding import gptq
from bitzones.rounding.gptq import round_rows
from bitzones.schema.errors import NonFiniteError

ROWS, COLUMNS, GROUP = 6, 64, 32


def inputs(columns: int = COLUMNS, tokens: int = 400, seed: int = 0) -> torch.Tensor:
    """Correlated inputs of very different sizes, as activations are."""
    rng = torch.Generator().manual_seed(seed)
    mixed = torch.randn(tokens, columns, generator=rng) @ torch.randn(columns, columns, generator=rng)
    return mixed * torch.logspace(-1, 1, columns)


def weight(rows: int = ROWS, columns: int = COLUMNS) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))


def hessian(given: torch.Tensor) -> torch.Tensor:
    return given.double().T @ given.double()


def levels(bits: int, rows: int = ROWS) -> torch.Tensor:
    return torch.full((rows,), 2.0**bits - 1)


def output_error(rounded: torch.Tensor, given: torch.Tensor) -> float:
    return float(((rounded - weight()) @ given.T).square().sum())


def to_nearest(bits: int, activity: torch.Tensor | None = None) -> torch.Tensor:
    """Each weight to the nearest point of the same grids, without feedback: a Hessian without correlations gives none."""
    flat = torch.diag(torch.ones(COLUMNS) if activity is None else activity).double()
    return round_rows(weight(), flat, levels(bits), GROUP, torch.bfloat16).values()


def paper(weights: np.ndarray, second: np.ndarray, scale: np.ndarray, shift: np.ndarray, most: int) -> np.ndarray:
    """Algorithm 1 of arXiv:2210.17323, column by column and without blocks, on a given grid; returns the integers."""
    w, n = weights.astype(np.float64).copy(), second.shape[0]
    damped = second + gptq.DAMPING * np.diag(second).mean() * np.eye(n)
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    integers = np.zeros(w.shape, dtype=np.uint8)
    for i in range(n):
        integers[:, i] = np.clip(np.round((w[:, i] + shift[:, i]) / scale[:, i]), 0, most)
        error = (w[:, i] - (integers[:, i] * scale[:, i] - shift[:, i])) / upper[i, i]
        w[:, i:] -= np.outer(error, upper[i, i:])
    return integers


@pytest.mark.parametrize("bits", [2, 4])
def test_the_integers_are_those_of_the_paper(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gptq, "BLOCK", 8)  # feedback between blocks has to happen too
    second = hessian(inputs())
    found = round_rows(weight(), second, levels(bits), GROUP, torch.float32)
    order = second.diagonal().argsort(descending=True, stable=True).numpy()
    scale, shift = (grid.repeat_interleave(GROUP, 1).numpy()[:, order].astype(np.float64) for grid in (found.scale, found.shift))
    expected = paper(weight().numpy()[:, order], second.numpy()[order][:, order], scale, shift, 2**bits - 1)
    same = (found.integers.numpy()[:, order] == expected).mean()
    assert same > 0.995  # float32 against float64: a tie may fall the other way, and then what follows


@pytest.mark.parametrize("bits", [2, 4])
def test_outputs_are_nearer_than_with_rounding_to_the_nearest(bits: int) -> None:
    given = inputs()
    found = round_rows(weight(), hessian(given), levels(bits), GROUP, torch.bfloat16)
    activity = hessian(given).diagonal()
    assert output_error(found.values(), given) < 0.6 * output_error(to_nearest(bits, activity), given)


def test_without_correlations_every_weight_goes_to_the_nearest_point() -> None:
    found = round_rows(weight(), torch.eye(COLUMNS, dtype=torch.float64), levels(4), GROUP, torch.float32)
    scale, shift = (grid.repeat_interleave(GROUP, 1) for grid in (found.scale, found.shift))
    assert torch.equal(found.integers, ((weight() + shift) / scale).round().clamp(0, 15).to(torch.uint8))


def test_a_weight_on_a_grid_stays_what_it_is() -> None:
    grid = torch.randint(0, 4, (ROWS, COLUMNS), generator=torch.Generator().manual_seed(2)).float()
    grid[:, ::GROUP], grid[:, 1::GROUP] = 0, 3  # every group has both ends
    exact = grid * 0.5 - 0.75
    found = round_rows(exact, hessian(inputs()), levels(2), GROUP, torch.bfloat16)
    assert torch.equal(found.values(), exact)


def test_rows_of_several_widths_are_rounded_as_if_alone() -> None:
    second = hessian(inputs())
    mixed = torch.cat([levels(2, 3), levels(4, 3)])
    both = round_rows(weight(), second, mixed, GROUP, torch.bfloat16)
    for rows, bits in ((slice(0, 3), 2), (slice(3, 6), 4)):
        alone = round_rows(weight()[rows], second, levels(bits, 3), GROUP, torch.bfloat16)
        assert torch.equal(both.rows(rows.start, rows.stop).values(), alone.values())


def test_scales_are_searched_for_with_the_activity_of_each_column() -> None:
    """A huge weight on a channel that is never active must not widen its group's grid."""
    heavy = weight()
    heavy[:, 5] = 100.0
    second = torch.eye(COLUMNS, dtype=torch.float64)
    second[5, 5] = 1e-9
    found = round_rows(heavy, second, levels(4), GROUP, torch.bfloat16).values()
    others = [column for column in range(GROUP) if column != 5]
    blind = round_rows(heavy, torch.eye(COLUMNS, dtype=torch.float64), levels(4), GROUP, torch.bfloat16).values()
    lost, lost_blind = (float((made - heavy)[:, others].square().sum()) for made in (found, blind))
    assert lost < 0.5 * lost_blind


def test_a_row_that_feedback_drives_out_of_its_grids_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost_by_row(given: torch.Tensor) -> torch.Tensor:
        rounded = round_rows(weight(), hessian(given), levels(2), GROUP, torch.bfloat16).values()
        return ((rounded - weight()) @ given.T).square().sum(1)

    given = [inputs(seed=seed) for seed in range(4)]
    both = torch.stack([lost_by_row(item) for item in given])
    monkeypatch.setattr(gptq, "CLIPPED", float("inf"))
    once = torch.stack([lost_by_row(item) for item in given])
    again = both != once
    assert 0 < again.sum() < again.numel() / 4  # few rows are
    assert (both[again] < 0.9 * once[again]).all()


def test_a_dead_channel_and_a_singular_hessian_are_rounded_all_the_same() -> None:
    given = inputs(tokens=10)  # rank 10 of 64
    given[:, 7] = 0
    found = round_rows(weight(), hessian(given), levels(4), GROUP, torch.bfloat16)
    assert output_error(found.values(), given) < output_error(to_nearest(4), given)
    scale, shift = found.scale[:, 0].float(), found.shift[:, 0].float()
    assert torch.equal(found.integers[:, 7], ((weight()[:, 7] + shift) / scale).round().clamp(0, 15).to(torch.uint8))


def test_inputs_that_are_all_zero_are_rounded_to_the_nearest() -> None:
    zero = torch.zeros(COLUMNS, COLUMNS, dtype=torch.float64)
    assert torch.isfinite(round_rows(weight(), zero, levels(2), GROUP, torch.bfloat16).values()).all()


def test_a_constant_group_is_kept() -> None:
    flat = torch.full((ROWS, COLUMNS), 0.25)
    assert torch.equal(round_rows(flat, hessian(inputs()), levels(2), GROUP, torch.bfloat16).values(), flat)


@pytest.mark.parametrize("where", ["weight", "hessian"])
def test_what_is_not_finite_is_refused(where: str) -> None:
    bad, second = weight(), hessian(inputs())
    (bad if where == "weight" else second)[3, 3] = torch.nan
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        round_rows(bad, second, levels(2), GROUP, torch.bfloat16)


def test_what_is_no_second_moment_is_refused() -> None:
    with pytest.raises(NonFiniteError, match="not positive semidefinite"):
        round_rows(weight(), -hessian(inputs()), levels(2), GROUP, torch.bfloat16)


def test_twice_the_same_gives_the_same() -> None:
    first, second = (round_rows(weight(), hessian(inputs()), levels(2), GROUP, torch.bfloat16) for _ in range(2))
    assert torch.equal(first.integers, second.integers)
    assert torch.equal(first.scale, second.scale)
