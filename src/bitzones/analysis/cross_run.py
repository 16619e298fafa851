"""Several runs side by side: do the same layers matter on another task or in another model, and which do not?

Layers are matched by number, so models of different depth are not compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from bitzones.analysis.results import Analysis, LayerRank
from bitzones.stats.correlation import MIN_PAIRS, spearman, spearman_interval
from bitzones.stats.intervals import Interval

__all__ = ["Pair", "Shift", "pairs"]


@dataclass(frozen=True)
class Shift:
    """A layer whose rank differs between two runs: the 95% intervals of its two ranks are disjoint."""

    layer: int
    first: LayerRank
    second: LayerRank


@dataclass(frozen=True)
class Pair:
    """Two runs, by their index in the list.

    ``spearman`` correlates the layers' KLs, with an interval that takes layers as a sample and the KLs as known; None where fewer than
    `MIN_PAIRS` layers have both or one run orders none. ``reason`` is why there is no comparison, else None: the models differ in
    ``depths``, their numbers of layers (None where not recorded), or no layer was measured in both.
    """

    first: int
    second: int
    layers: int
    spearman: Interval | None
    shifts: tuple[Shift, ...]
    depths: tuple[int | None, int | None]
    reason: Literal["depths", "no_shared_layer"] | None = None


def pairs(analyses: tuple[Analysis, ...]) -> tuple[Pair, ...]:
    """Every pair of runs, in the order given."""
    return tuple(_pair(analyses, first, second) for first, second in combinations(range(len(analyses)), 2))


def _pair(analyses: tuple[Analysis, ...], first: int, second: int) -> Pair:
    a, b = analyses[first], analyses[second]
    ranks = [{item.layer: item for item in side.ranking} for side in (a, b)]
    shared = sorted(ranks[0].keys() & ranks[1].keys())
    depths = _depth(a), _depth(b)
    if depths[0] != depths[1]:
        return Pair(first, second, 0, None, (), depths, "depths")
    if not shared:
        return Pair(first, second, 0, None, (), depths, "no_shared_layer")
    shifts = (Shift(layer, ranks[0][layer], ranks[1][layer]) for layer in shared)
    return Pair(first, second, len(shared), _spearman(ranks, shared), tuple(item for item in shifts if _apart(item)), depths)


def _depth(analysis: Analysis) -> int | None:
    return analysis.model.layers if analysis.model else None


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
