"""Sequences for sensitivities and statistics: training items with their answers, never the items that accuracy is scored on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import torch
from transformers import PreTrainedTokenizerBase

from bitzones.data.padding import padded
from bitzones.data.special_tokens import tokens
from bitzones.data.task_items import Item
from bitzones.devices import device as devices
from bitzones.schema.errors import TaskError

__all__ = ["NO_FEWEST", "Batch", "Fewest", "SequenceSet", "Sequences", "TokenSequence", "batches", "retold", "sequences", "take"]


@dataclass(frozen=True)
class TokenSequence:
    """One item as tokens. ``answer_position`` predicts the answer's first token; ``content`` are positions of the question's content.

    ``task`` is the task whose item it is; empty for other text.
    """

    ids: tuple[int, ...]
    answer_position: int
    content: tuple[int, ...]
    task: str = ""


@dataclass(frozen=True)
class SequenceSet:
    """All sequences, in a fixed order, and the hash of their tokens; ``passed_over`` items among them were too long for the model."""

    sequences: tuple[TokenSequence, ...]
    passed_over: int = 0

    @property
    def sequence_tokens(self) -> tuple[int, ...]:
        """Scored tokens of each sequence: all of them."""
        return tuple(len(sequence.ids) for sequence in self.sequences)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(repr([sequence.ids for sequence in self.sequences]).encode()).hexdigest()

    def of(self, places: Sequence[int]) -> SequenceSet:
        """Some of the sequences, by their places."""
        return SequenceSet(tuple(self.sequences[place] for place in places))


@dataclass(frozen=True)
class Batch:
    """Right-padded sequences of about one length: ``ids`` and ``mask`` of shape (sequences, length), ``index`` their places in the set."""

    ids: torch.Tensor
    mask: torch.Tensor
    index: tuple[int, ...]
    sequences: tuple[TokenSequence, ...]


@dataclass(frozen=True)
class Fewest:
    """The least number of ``sequences`` that a set takes beside its tokens: of each of ``tasks``, or in all where none is named."""

    sequences: int = 0
    tasks: tuple[str, ...] = ()

    def lacking(self, taken: Sequence[TokenSequence]) -> str:
        """What is missing, in words; empty where nothing is."""
        have = Counter(sequence.task for sequence in taken)
        counts = {f" of {task}": have[task] for task in self.tasks} or {"": len(taken)}
        return next(
            (f"{count} sequences{of} where {self.sequences} are needed" for of, count in counts.items() if count < self.sequences), ""
        )


NO_FEWEST = Fewest()
"""A set that asks for tokens only."""


class Sequences(Iterator[TokenSequence]):
    """Sequences as they are asked for. ``passed_over`` counts the items so far that are longer than ``room``; None is room for any."""

    def __init__(self, found: Iterator[TokenSequence], room: int | None = None) -> None:
        self._found = found
        self.room = room
        self.passed_over = 0

    def __next__(self) -> TokenSequence:
        for sequence in self._found:
            if self.room is None or len(sequence.ids) <= self.room:
                return sequence
            self.passed_over += 1
        raise StopIteration


def sequences(
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Iterable[Item]],
    seen: Collection[str] = frozenset(),
    room: int | None = None,
    names: Sequence[str] = (),
) -> Sequences:
    """Whole items of the given tasks, in turn from each, no prompt twice; no more items are read than are asked for.

    Items are read as they stand in the train split: without other items before them, and without a chat template. Special tokens open a
    sequence and do not close it (`special_tokens`), as in what is scored.

    Args:
        tokenizer: the model's own.
        tasks: items of the train splits.
        seen: prompts that are passed over: what is scored, since a plan is never judged on what it is made from, and solved examples.
        room: how many tokens the model can read (`encoding.positions`). A longer item is passed over and counted, not cut off.
        names: of the tasks, which their sequences then have.
    """
    return Sequences(_sequences(tokenizer, tasks, set(seen), names or [""] * len(tasks)), room)


def _sequences(
    tokenizer: PreTrainedTokenizerBase, tasks: Sequence[Iterable[Item]], given: set[str], names: Sequence[str]
) -> Iterator[TokenSequence]:
    for task, item in chain.from_iterable(zip(names, row, strict=True) for row in zip_longest(*tasks)):
        if item is None or item.prompt in given:
            continue
        given.add(item.prompt)
        prompt, whole = tokens(tokenizer, [item.prompt, item.prompt + item.answer])
        content = [n for n, span in enumerate(whole.spans, whole.opening) if any(_overlap(span, piece) for piece in item.content)]
        # Where prompt and answer merge, the prompt by itself may be as long as both together.
        last = min(len(prompt.ids), len(whole.ids) - 1) - 1
        yield TokenSequence(tuple(whole.ids), max(last, 0), tuple(content), task)


def take(found: Sequences, tokens: int, key: str = "sensitivity.tokens", fewest: Fewest = NO_FEWEST) -> SequenceSet:
    """The next whole sequences, until at least ``tokens`` tokens: two that are taken one after another have no item in common.

    Raises:
        TaskError: fewer tokens are left, or fewer than the ``fewest`` sequences; the message names the profile's ``key``.
    """
    taken: list[TokenSequence] = []
    total, before = 0, found.passed_over
    for sequence in found:
        taken.append(sequence)
        total += len(sequence.ids)
        if total >= tokens and not fewest.lacking(taken):
            return SequenceSet(tuple(taken), found.passed_over - before)
    if total >= tokens:
        raise TaskError(
            f"{key}: the train splits give {fewest.lacking(taken)}: leave the task or plans.by out, or limit it where it is one file"
        )
    longer = f" ({found.passed_over} items are longer than the model's {found.room} positions)" if found.passed_over else ""
    raise TaskError(
        f"{key} asks for {tokens} tokens and the train splits hold {total} that are neither scored nor used{longer}: lower {key}, "
        "or limit where a task is one file, or add a task"
    )


def retold(texts: Iterable[str]) -> SequenceSet:
    """Sequences that a run file or a plan holds, token ids in decimal with spaces between; what was asked in them is not known any more."""
    rows = [tuple(map(int, text.split())) for text in texts]
    return SequenceSet(tuple(TokenSequence(row, len(row) - 1, ()) for row in rows))


def _overlap(first: tuple[int, int], second: tuple[int, int]) -> bool:
    return first[0] < second[1] and second[0] < first[1]


def batches(sequence_set: SequenceSet, size: int, device: torch.device) -> Iterator[Batch]:
    """Batches of at most ``size`` sequences by ascending length, cut where the padding saved is worth another batch on this device."""
    order = sorted(range(len(sequence_set.sequences)), key=lambda n: len(sequence_set.sequences[n].ids))
    lengths = [len(sequence_set.sequences[n].ids) for n in order]
    for cut in _cuts(lengths, size, devices.batch_start_tokens(device)):
        index = order[cut]
        rows = [sequence_set.sequences[n] for n in index]
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
