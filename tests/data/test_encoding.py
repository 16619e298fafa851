"""Which texts are read together: every one once, none padded for more than a pass of its own would cost."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from bitzones.data.encoding import PASS_TOKENS, runs


def cost(lengths: list[int], found: list[list[int]]) -> int:
    return sum(PASS_TOKENS + len(run) * max(lengths[place] for place in run) for run in found)


@given(st.lists(st.integers(1, 200), max_size=7), st.one_of(st.none(), st.integers(1, 4)))
def test_runs_hold_every_place_once_in_order_and_cost_the_least(lengths: list[int], most: int | None) -> None:
    found = runs(lengths, most)
    places = [place for run in found for place in run]
    assert places == sorted(range(len(lengths)), key=lengths.__getitem__)
    assert all(0 < len(run) <= (most or len(lengths)) for run in found)
    cuts = (cut for count in range(len(places)) for cut in combinations(range(1, len(places)), count))
    every = ([places[a:b] for a, b in zip((0, *cut), (*cut, len(places)), strict=True)] for cut in cuts)
    least = min((cost(lengths, way) for way in every if all(len(run) <= (most or len(run)) for run in way)), default=0)
    assert cost(lengths, found) == least
