"""Divides a sweep into blocks (`schema.shard_record`) of about equal cost, for shards and for workers.

Items, a candidate on a batch each, are ordered by candidate and then by batch, and cut into contiguous shares: a share then needs the
quantized weights of a few layers only, at the price of the reference's pass over every batch that it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise, product

from bitzones.schema.shard_record import Block

__all__ = ["blocks_of_shard", "blocks_of_size", "cost", "shares"]


def shares(costs: Sequence[int], parts: int) -> list[range]:
    """Cut items into contiguous shares: an item goes where the middle of its cost lies, so that no share exceeds its part by an item.

    Args:
        costs: of the items, in order; whole numbers, so that every machine cuts at the same places.
        parts: number of shares; with more than there are items, some are empty.

    >>> shares([3, 1, 1, 1], 2), shares([5, 5], 3)
    ([range(0, 1), range(1, 4)], [range(0, 1), range(1, 1), range(1, 2)])
    """
    total = sum(costs)
    places = [(2 * end - cost) * parts // (2 * total) for cost, end in zip(costs, accumulate(costs), strict=True)]
    cuts = [0, *(sum(place < part for place in places) for part in range(1, parts)), len(costs)]
    return [range(first, end) for first, end in pairwise(cuts)]


def cost(block: Block, costs: Sequence[int], tokens: Sequence[int]) -> int:
    """What a block costs, without the reference's pass: the layers and the head that run again, times tokens."""
    return sum(costs[block.first : block.end]) * tokens[block.batch]


def blocks_of_shard(costs: Sequence[int], tokens: Sequence[int], number: int, of: int) -> list[Block]:
    """The blocks of shard ``number``, from 1, of ``of``: one for each batch that it has.

    Args:
        costs: of every candidate per token.
        tokens: of every batch, padding counted.
        number: of the shard.
        of: how many there are.
    """
    items = list(product(range(len(costs)), range(len(tokens))))
    share = shares([costs[candidate] * tokens[batch] for candidate, batch in items], of)[number - 1] if items else ()
    own: dict[int, list[int]] = {}
    for candidate, batch in (items[place] for place in share):
        own.setdefault(batch, []).append(candidate)
    return [Block(batch=batch, first=found[0], end=found[-1] + 1) for batch, found in sorted(own.items())]


def blocks_of_size(costs: Sequence[int], batches: int, most: int) -> list[Block]:
    """All blocks, with candidates of about ``most`` cost per token each, one at least: by candidates, and then by batch."""
    parts = min(len(costs), -(-sum(costs) // most))
    ranges = [found for found in shares(costs, parts) if found] if costs else []
    return [Block(batch=batch, first=found.start, end=found.stop) for found in ranges for batch in range(batches)]
