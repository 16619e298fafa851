"""Which worker measures which block next: each goes through neighboring layers, and who is done helps the one with most left."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence

from bitzones.schema.errors import MeasureError
from bitzones.schema.shard_record import Block
from bitzones.sensitivity.blocks import shares

__all__ = ["MOST_DEATHS", "BlockQueue"]

MOST_DEATHS = 3
"""Workers that may die of one block: a machine that goes away takes one, a block that ends every worker is at fault itself."""


class BlockQueue:
    """The blocks that no worker has yet.

    Args:
        blocks: by candidates, and then by batch.
        cost: of a block.
        workers: how many there are, numbered from 0.
    """

    def __init__(self, blocks: Sequence[Block], cost: Callable[[Block], int], workers: int) -> None:
        parts = shares([cost(block) for block in blocks], workers) if blocks else [range(0)] * workers
        self._cost = cost
        self._own = [deque(blocks[place] for place in part) for part in parts]
        self._deaths = Counter[str]()

    def ahead(self, worker: int) -> list[Block]:
        """What is left of a worker's own blocks."""
        return list(self._own[worker])

    def take(self, worker: int) -> Block | None:
        """The next block of a worker: its own first, then the last one of the worker that has most left; None where all are given out."""
        if self._own[worker]:
            return self._own[worker].popleft()
        richest = max(self._own, key=lambda own: sum(map(self._cost, own)))
        return richest.pop() if richest else None

    def give_back(self, worker: int, block: Block) -> None:
        """Take back the block of a worker that died: it is the next one of whoever takes over.

        Raises:
            MeasureError: so many have died of it that it would never end.
        """
        self._deaths[str(block)] += 1
        if self._deaths[str(block)] >= MOST_DEATHS:
            raise MeasureError(
                f"{MOST_DEATHS} workers died while they measured {block}: look for their last lines in Ray's logs "
                "(often memory: fewer workers, or a smaller sensitivity.batch)"
            )
        self._own[worker].appendleft(block)
