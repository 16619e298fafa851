"""The sequences on which sensitivity and statistics are measured: training items with their answers, never what accuracy is scored on.

This module gives padded batches of tokens; it does not know what is measured on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import torch
from transformers import PreTrainedTokenizerBase

from bitzones.data.padding import padded
from bitzones.data.tasks import Item
from bitzones.devices import device as devices
from bitzones.schema.errors import TaskError

__all__ = ["Batch", "Calibration", "TokenSequence", "batches", "retold", "sequences", "take"]


@dataclass(frozen=True)
class TokenSequence:
    """One item as tokens. ``answer_position`` predicts the answer's first token; ``content`` are positions of the question's content."""

    ids: tuple[int, ...]
    answer_position: int
    content: tuple[int, ...]


@dataclass(frozen=True)
class Calibration:
    """All sequences, in a fixed order, and the hash of their tokens."""

    sequences: tuple[TokenSequence, ...]

    @property
    def sequence_tokens(self) -> tuple[int, ...]:
        """Scored tokens of each sequence: all of them."""
        return tuple(len(sequence.ids) for sequence in self.sequences)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(repr([sequence.ids for sequence in self.sequences]).encode()).hexdigest()


@dataclass(frozen=True)
class Batch:
    """Right-padded sequences of about one length: ``ids`` and ``mask`` of shape (sequences, length), ``index`` their places in the set."""

    ids: torch.Tensor
    mask: torch.Tensor
    index: tuple[int, ...]
    sequences: tuple[TokenSequence, ...]


def sequences(
    tokenizer: PreTrainedTokenizerBase, tasks: Sequence[Iterable[Item]], seen: Collection[str] = frozenset()
) -> Iterator[TokenSequence]:
    """Whole items of the given tasks, in turn from each, no prompt twice; no more items are read than are asked for.

    Items are read as they stand in the train split: without other items before them, and without a chat template. Those whose prompt is
    among ``seen`` are passed over: what is scored, as a plan is never judged on what it is made from, and what stands solved before it.
    """
    given = set(seen)
    for item in chain.from_iterable(zip_longest(*tasks)):
        if item is None or item.prompt in given:
            continue
        given.add(item.prompt)
        prompt = tokenizer(item.prompt)["input_ids"]
        whole = tokenizer(item.prompt + item.answer, return_offsets_mapping=True)
        content = [n for n, span in enumerate(whole["offset_mapping"]) if any(_overlap(span, unit) for unit in item.content)]
        yield TokenSequence(tuple(whole["input_ids"]), len(prompt) - 1, tuple(content))


def take(found: Iterator[TokenSequence], tokens: int, key: str = "calibration.tokens") -> Calibration:
    """The next whole sequences, until at least ``tokens`` tokens: two that are taken one after another have no item in common.

    Raises:
        TaskError: fewer tokens are left; the message names the profile's ``key``.
    """
    taken: list[TokenSequence] = []
    total = 0
    for sequence in found:
        taken.append(sequence)
        total += len(sequence.ids)
        if total >= tokens:
            return Calibration(tuple(taken))
    raise TaskError(
        f"{key} asks for {tokens} tokens and the train splits hold {total} that are neither scored nor used: lower {key}, "
        "or limit where a task is one file, or add a task"
    )


def retold(texts: Iterable[str]) -> Calibration:
    """Sequences that a run file or a plan holds, token ids in decimal with spaces between; what was asked in them is not known any more."""
    rows = [tuple(map(int, text.split())) for text in texts]
    return Calibration(tuple(TokenSequence(row, len(row) - 1, ()) for row in rows))


def _overlap(first: tuple[int, int], second: tuple[int, int]) -> bool:
    return first[0] < second[1] and second[0] < first[1]


def batches(calibration: Calibration, size: int, device: torch.device) -> Iterator[Batch]:
    """Batches of at most ``size`` sequences by ascending length, cut where the padding saved is worth another batch on this device."""
    order = sorted(range(len(calibration.sequences)), key=lambda n: len(calibration.sequences[n].ids))
    lengths = [len(calibration.sequences[n].ids) for n in order]
    for unit in _cuts(lengths, size, devices.batch_start_tokens(device)):
        index = order[unit]
        rows = [calibration.sequences[n] for n in index]
        ids, mask = padded([row.ids for row in rows], device, left=False)
        yield Batch(ids, mask, tuple(index), tuple(rows))


def _cuts(lengths: Sequence[int], size: int, start: int) -> list[slice]:
    """Cuts of ascending lengths into at most ``size`` each: the fewest tokens, padding counted and ``start`` of them for each batch.

    Dynamic programming over the ends of batches.
    """
    best = [(0, 0)]  # of the first n sequences: tokens, and where their last batch begins
    for end, longest in enumerate(lengths, 1):
        begins = range(max(0, end - size), end)
        best.append(min((best[begin][0] + longest * (end - begin) + start, begin) for begin in begins))
    cuts, end = [], len(lengths)
    while end:
        cuts.append(slice(best[end][1], end))
        end = best[end][1]
    return cuts[::-1]
