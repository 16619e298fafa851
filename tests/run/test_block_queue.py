"""Who measures what next: whatever workers do, every block is given out once, unless the worker that had it died."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitzones.run.block_queue import MOST_DEATHS, BlockQueue
from bitzones.schema.errors import MeasureError
from bitzones.schema.shard_record import Block


def blocks(count: int) -> list[Block]:
    return [Block(batch=0, first=number, end=number + 1) for number in range(count)]


def numbers(found: list[Block]) -> list[int]:
    return [block.first for block in found]


def test_a_worker_goes_through_neighbors_and_then_helps_the_one_with_most_left() -> None:
    queue = BlockQueue(blocks(6), lambda block: 1, 2)
    assert [numbers(queue.ahead(worker)) for worker in (0, 1)] == [[0, 1, 2], [3, 4, 5]]
    taken = [queue.take(0) for _ in range(4)]
    assert numbers([block for block in taken if block]) == [0, 1, 2, 5]
    assert numbers(queue.ahead(1)) == [3, 4]


def test_costs_and_not_counts_are_shared() -> None:
    queue = BlockQueue(blocks(4), lambda block: 3 if block.first == 0 else 1, 2)
    assert [numbers(queue.ahead(worker)) for worker in (0, 1)] == [[0], [1, 2, 3]]


def test_no_blocks_are_no_error() -> None:
    assert BlockQueue([], lambda block: 1, 3).take(2) is None


@given(st.integers(0, 12), st.integers(1, 5), st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=60))
def test_every_block_is_finished_once_whoever_dies(count: int, workers: int, events: list[tuple[int, bool]]) -> None:
    queue, finished, deaths = BlockQueue(blocks(count), lambda block: block.first + 1, workers), [], dict.fromkeys(range(count), 0)
    for worker, dies in [*events, *((0, False) for _ in range(count))]:
        block = queue.take(worker % workers)
        if block is None:
            continue
        if dies and deaths[block.first] < MOST_DEATHS - 1:
            deaths[block.first] += 1
            queue.give_back(worker % workers, block)
        else:
            finished.append(block.first)
    assert sorted(finished) == list(range(count))


def test_a_block_that_ends_every_worker_ends_the_run() -> None:
    queue = BlockQueue(blocks(1), lambda block: 1, 1)
    for _ in range(MOST_DEATHS - 1):
        block = queue.take(0)
        assert block is not None
        queue.give_back(0, block)
    block = queue.take(0)
    assert block is not None
    with pytest.raises(MeasureError, match="3 workers died while they measured batch 0, candidates 0 to 0"):
        queue.give_back(0, block)
