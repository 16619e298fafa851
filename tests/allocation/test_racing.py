"""Races: what is measured further, and the bound on what stopping costs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitzones.allocation import racing
from bitzones.allocation.knapsack import Menu, solve
from bitzones.allocation.partial_sweep import PartialSweep
from bitzones.allocation.racing import Flags, Race, Standing, in_order, looks_of

FORMATS = ("qint8", "qint4", "qint2:hqq", "bf16")
BYTES = (80, 40, 20, 160)


def menu(units: int) -> Menu:
    stored = np.tile(np.array(BYTES, dtype=np.int64), (units, 1))
    return Menu(tuple(f"u{n}" for n in range(units)), FORMATS, stored, np.ones((units, 4), dtype=np.bool_), units * 80)


def kls(factors: list[float], sequences: int, seed: int, spread: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Skewed KLs of units with a share of their spread in common, and tokens."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(10, 60, sequences).astype(np.float64)
    common = rng.standard_normal(sequences)
    kl = np.zeros((len(factors), 4, sequences))
    for unit, factor in enumerate(factors):
        for column, harm in enumerate((0.001, 0.02, 0.3)):
            noise = 0.7 * common + 0.7 * rng.standard_normal(sequences)
            kl[unit, column] = factor * harm * tokens * np.exp(spread * noise)
    return kl, tokens


class Measured:
    """Gives what a race asks for, and only that."""

    def __init__(self, kl: np.ndarray, tokens: np.ndarray) -> None:
        self.kl, self.tokens = kl, tokens
        self.counts = np.zeros(kl.shape[:2], dtype=np.int64)
        self.asked: list[int] = []

    def extend(self, wanted: Flags, target: int) -> PartialSweep:
        self.asked.append(target)
        self.counts = np.where(wanted, np.maximum(self.counts, target), self.counts)
        seen = np.where(np.arange(len(self.tokens)) < self.counts[..., None], self.kl, 0.0)
        return PartialSweep(seen, self.counts.copy(), self.tokens, {})

    def race(self, budget: int, seed: int = 0) -> tuple[PartialSweep, Standing]:
        return racing.run(menu(len(self.kl)), budget, len(self.tokens), seed, self.extend)

    def regret(self, partial: PartialSweep, budget: int) -> float:
        """What the plan of the estimates costs above that of all measurements, nats per token."""
        offered, units = menu(len(self.kl)), np.arange(len(self.kl))
        estimates = np.zeros(partial.counts.shape)
        for at, found in partial.estimates.items():
            estimates[at] = max(0.0, found.values.sum())
        truth = self.kl.sum(axis=2) / self.tokens.sum()
        taken, best = solve(offered, estimates, budget), solve(offered, truth, budget)
        return float(truth[units, taken].sum() - truth[units, best].sum())


def test_rounds_grow_by_half_and_end_with_all_sequences():
    assert looks_of(12) == (12,)
    assert looks_of(20) == (20,)
    assert looks_of(25) == (20, 25)
    assert looks_of(200) == (20, 30, 45, 68, 102, 153, 200)


def test_every_beginning_of_the_order_mirrors_the_mix():
    strata = ["a"] * 60 + ["b"] * 20 + ["c"] * 20
    order = in_order(strata, 0)
    assert sorted(order) == list(range(100))
    assert order != tuple(range(100))
    for count in (20, 30, 45):
        found = [strata[place] for place in order[:count]]
        assert abs(found.count("a") - 0.6 * count) <= 1
        assert abs(found.count("b") - 0.2 * count) <= 1
    assert in_order(strata, 1) != order


def test_units_that_are_far_apart_are_measured_once():
    kl, tokens = kls([1.0] * 4 + [100.0] * 4, 60, seed=0)
    found = Measured(kl, tokens)
    partial, standing = found.race(4 * 20 + 4 * 40)
    assert found.asked == [20]
    assert partial.counts[:, :3].tolist() == [[20] * 3] * 8
    assert standing.regret == 0.0
    assert standing.reason(0, 2) == "always taken"
    assert standing.reason(0, 1) == "never taken"
    assert found.regret(partial, 4 * 20 + 4 * 40) == 0.0


def test_units_that_cannot_be_told_apart_are_measured_to_the_end_and_no_others():
    kl, tokens = kls([1.0, 1.0, 10.0, 10.0, 100.0, 100.0], 60, seed=1)
    found = Measured(kl, tokens)
    budget = 3 * 20 + 3 * 40  # one of the two in the middle
    partial, _ = found.race(budget)
    assert found.asked[-1] == 60
    assert (partial.counts[2:4, 1:3] == 60).all()
    assert (partial.counts[[0, 1, 4, 5], 1:3] == 20).all()
    assert (partial.counts[:, 0] == 20).all()


def test_too_few_sequences_are_all_measured():
    kl, tokens = kls([1.0, 2.0, 3.0], 15, seed=2)
    found = Measured(kl, tokens)
    partial, standing = found.race(3 * 40)
    assert found.asked == [15]
    assert (partial.counts[:, :3] == 15).all()
    assert standing.regret == 0.0


def test_what_could_not_be_measured_is_not_offered():
    kl, tokens = kls([1.0] * 3, 40, seed=3)
    found = Measured(kl, tokens)

    def extend(wanted: Flags, target: int) -> PartialSweep:
        partial = found.extend(wanted, target)
        partial.counts[0, 2] = 0
        return partial

    partial, standing = racing.run(menu(3), 3 * 40, 40, 0, extend)
    assert partial.counts[0, 2] == 0
    assert standing.shares[0, 2] == 0.0


def test_everything_is_measured_where_no_plan_meets_the_budget():
    kl, tokens = kls([1.0] * 3, 40, seed=4)
    found = Measured(kl, tokens)
    partial, standing = found.race(10)
    assert found.asked == [20, 40]
    assert (partial.counts[:, :3] == 40).all()
    assert standing.regret == 0.0


def test_a_race_repeats():
    kl, tokens = kls([1.0, 1.1, 1.3, 2.0], 60, seed=5)
    one, two = Measured(kl, tokens).race(120, seed=3), Measured(kl, tokens).race(120, seed=3)
    assert one[0].counts.tolist() == two[0].counts.tolist()
    assert one[1].regret == two[1].regret


def test_a_small_spread_is_widened_to_that_of_its_format():
    errors = np.zeros((3, 40))
    errors[0, :20], errors[1, :20] = 0.01, 0.03
    widened = racing._moderated(errors, np.array([20, 20, 40]))
    typical = np.sqrt((0.01**2 + 0.03**2) / 2)
    assert widened[0, 0] == pytest.approx(typical)
    assert widened[1, 0] == pytest.approx(0.03)
    assert not widened[2].any()


@settings(max_examples=5, deadline=None)
@given(
    factors=st.lists(st.floats(0.2, 20.0), min_size=3, max_size=8),
    share=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**16),
)
def test_after_everything_was_measured_the_regret_is_none(factors: list[float], share: float, seed: int):
    kl, tokens = kls(factors, 24, seed)
    found = Measured(kl, tokens)
    partial = found.extend(np.ones((len(factors), 4), dtype=np.bool_), 24)
    budget = int(len(factors) * (20 + share * 60))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(racing, "DRAWS", 20)  # all alike
        standing = Race(menu(len(factors)), budget, 3, 0).stand(partial)
    assert not standing.open.any()
    assert standing.regret == pytest.approx(0.0, abs=1e-9)
    assert found.regret(partial, budget) == 0.0


def test_the_bound_holds_on_random_menus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(racing, "DRAWS", 100)
    saved, rng = [], np.random.default_rng(6)
    for seed in range(12):
        units = int(rng.integers(4, 10))
        kl, tokens = kls(np.exp(rng.normal(0, 1, units)).tolist(), 40, seed)
        found, budget = Measured(kl, tokens), int(units * rng.uniform(22, 60))
        partial, standing = found.race(budget, seed)
        assert found.regret(partial, budget) <= standing.regret + 1e-12
        saved.append(1 - partial.counts[:, :3].mean() / 40)
    assert np.mean(saved) > 0.2
