"""Which texts are read together: every one once, none padded for more than a pass of its own would cost."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, MptConfig, OPTConfig, PreTrainedConfig

from bitzones.data.encoding import PASS_TOKENS, positions, runs


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


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (OPTConfig(max_position_embeddings=128, num_hidden_layers=1), 128),
        (GPT2Config(n_positions=64, n_layer=1), 64),
        (MptConfig(max_seq_len=96, n_layers=1), 96),
        (BloomConfig(n_layer=1), None),
    ],
)
def test_how_many_tokens_a_model_can_read(config: PreTrainedConfig, limit: int | None) -> None:
    with torch.device("meta"):
        assert positions(AutoModelForCausalLM.from_config(config)) == limit
