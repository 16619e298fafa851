"""Blocks of a sweep: a division is disjoint, complete and balanced, and what is measured in blocks is the sweep, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_sweep import CPU, sequences

from bitzones.data import sequences as sequence_sets
from bitzones.evaluation import sampled_kl
from bitzones.evaluation.head_rows import Counts
from bitzones.models import loading
from bitzones.models.units import model_units
from bitzones.schema.profile_sections import HeadUse
from bitzones.schema.sensitivity_cells import SensitivityCell
from bitzones.schema.shard_record import Block, MeasuredBlock
from bitzones.sensitivity import sweep
from bitzones.sensitivity.block_bench import BlockBench
from bitzones.sensitivity.blocks import blocks_of_shard, blocks_of_size, cost, shares
from bitzones.sensitivity.variants import Variants

COSTS = st.lists(st.integers(1, 10**12), min_size=1, max_size=12)
TOKENS = st.lists(st.integers(1, 10**4), min_size=1, max_size=5)

FORMATS = {"bf16": "bf16", "w4": "qint4", "w4-gptq": "qint4:gptq", "w2": "qint2:gptq"}
SET, CALIBRATION = sequences((5, 9, 12, 7, 30, 31)), sequences((40,) * 10)
HEAD: HeadUse = "sampled"
BATCHES = list(sequence_sets.batches(SET, 2, CPU))


def items(blocks: list[Block]) -> list[tuple[int, int]]:
    return [(candidate, block.batch) for block in blocks for candidate in range(block.first, block.end)]


@given(COSTS, st.integers(1, 40))
def test_shares_are_contiguous_complete_and_balanced(costs: list[int], parts: int) -> None:
    found = shares(costs, parts)
    assert len(found) == parts
    assert [place for share in found for place in share] == list(range(len(costs)))
    assert max(sum(costs[place] for place in share) for share in found) * parts <= sum(costs) + max(costs) * parts


@given(COSTS, TOKENS, st.integers(1, 12))
def test_shards_are_disjoint_complete_and_balanced(costs: list[int], tokens: list[int], of: int) -> None:
    shards = [blocks_of_shard(costs, tokens, number, of) for number in range(1, of + 1)]
    found = [item for blocks in shards for item in items(blocks)]
    assert len(found) == len(set(found))
    assert set(found) == set(product(range(len(costs)), range(len(tokens))))
    assert all(len({block.batch for block in blocks}) == len(blocks) for blocks in shards)  # the reference passes each batch once
    whole = sum(costs) * sum(tokens)
    heaviest = max(sum(cost(block, costs, tokens) for block in blocks) for blocks in shards)
    assert heaviest * of <= whole + max(costs) * max(tokens) * of


@given(COSTS, st.integers(1, 6), st.integers(1, 10**12))
def test_blocks_of_a_size_are_complete_and_no_larger_than_asked_by_one_candidate(costs: list[int], batches: int, most: int) -> None:
    found = blocks_of_size(costs, batches, most)
    assert sorted(items(found)) == list(product(range(len(costs)), range(batches)))
    assert max(sum(costs[block.first : block.end]) for block in found) <= max(most, *costs) + max(costs)


def variants() -> Variants:
    """Made anew, so that nothing that one shard has made serves another."""
    loaded = loading.Loaded(tiny_models.llama(torch.bfloat16, layers=2), tiny_models.tokenizer(), "memory", "0" * 64)
    return Variants(loaded, FORMATS, CPU, torch.float32, lambda: list(sequence_sets.batches(CALIBRATION, 8, CPU)))


def bench() -> BlockBench:
    made = variants()
    return BlockBench(made, model_units(made.loaded.model, "group"), "group", SET, BATCHES, HEAD)


@pytest.fixture(scope="module", autouse=True)
def few_rows() -> Iterator[None]:
    """Rows of the head are sampled from a small vocabulary too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "meter", partial(sampled_kl.meter, counts=Counts(32, 48)))
        yield


@pytest.fixture(scope="module")
def whole() -> SensitivityCell:
    made = variants()
    units = model_units(made.loaded.model, "group")
    return sweep.exact_cell(made, units, "group", SET, BATCHES, lambda done: None, HEAD)


@pytest.mark.parametrize("of", [1, 2, 3, 8])
def test_shards_give_the_whole_sweep_bit_for_bit(whole: SensitivityCell, of: int) -> None:
    measured: list[MeasuredBlock] = []
    layout = bench().layout
    for number in range(1, of + 1):
        one = bench()
        blocks = blocks_of_shard(one.costs, one.tokens, number, of)
        one.prepare(blocks)
        measured += map(one.measure, blocks)
        assert one.layout == layout
    assert any(item.sampling_variance for item in whole.measurements)
    assert layout.cell(measured) == whole
    assert layout.cell(reversed(measured)).model_dump_json() == whole.model_dump_json()
