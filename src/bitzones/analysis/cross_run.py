"""Several runs beside each other: do the same layers matter for another task or another model, and which do not?

Layers are matched by number, so two models are compared only where they have as many. This module does not know how a ranking came about.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from bitzones.analysis.results import Analysis, LayerRank
from bitzones.stats.correlation import MIN_PAIRS, spearman, spearman_interval
from bitzones.stats.intervals import Interval

__all__ = ["Pair", "Shift", "pairs"]


@dataclass(frozen=True)
class Shift:
    """A layer whose rank is told to differ between two runs: the 95% intervals of the two ranks are disjoint."""

    layer: int
    first: LayerRank
    second: LayerRank


@dataclass(frozen=True)
class Pair:
    """Two runs, by their place in the list.

    ``spearman`` correlates the layers' KLs, with an interval that takes layers as a sample and the KLs as known; None where fewer than
    `MIN_PAIRS` layers have both or one run orders none. ``reason`` says why there is no comparison at all; empty where there is one.
    """

    first: int
    second: int
    layers: int
    spearman: Interval | None
    shifts: tuple[Shift, ...]
    reason: str = ""


def pairs(analyses: tuple[Analysis, ...]) -> tuple[Pair, ...]:
    """Every two runs against each other, in the order given."""
    return tuple(_pair(analyses, first, second) for first, second in combinations(range(len(analyses)), 2))


def _pair(analyses: tuple[Analysis, ...], first: int, second: int) -> Pair:
    a, b = analyses[first], analyses[second]
    ranks = [{item.layer: item for item in side.ranking} for side in (a, b)]
    shared = sorted(ranks[0].keys() & ranks[1].keys())
    depths = [side.model.layers if side.model else None for side in (a, b)]
    if depths[0] != depths[1]:
        return Pair(
            first, second, 0, None, (), f"the models have {depths[0]} and {depths[1]} layers: which would be the same one is not known"
        )
    if not shared:
        return Pair(first, second, 0, None, (), "no layer was measured in both")
    shifts = (Shift(layer, ranks[0][layer], ranks[1][layer]) for layer in shared)
    return Pair(first, second, len(shared), _spearman(ranks, shared), tuple(item for item in shifts if _apart(item)))


def _spearman(ranks: list[dict[int, LayerRank]], shared: list[int]) -> Interval | None:
    if len(shared) < MIN_PAIRS:
        return None
    rho = float(spearman(*(np.array([side[layer].kl.value for layer in shared]) for side in ranks)))
    return spearman_interval(rho, len(shared)) if math.isfinite(rho) else None


def _apart(item: Shift) -> bool:
    ends = item.first.best_rank, item.first.worst_rank, item.second.best_rank, item.second.worst_rank
    if None in ends:
        return False
    best, worst, other_best, other_worst = (end or 0 for end in ends)
    return worst < other_best or other_worst < best
