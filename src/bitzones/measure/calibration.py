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

from bitzones.errors import TaskError
from bitzones.measure.padding import padded
from bitzones.measure.tasks import Item

__all__ = ["Batch", "Calibration", "CalibrationSequence", "batches", "build"]


@dataclass(frozen=True)
class CalibrationSequence:
    """One item as tokens. ``answer_position`` predicts the answer's first token; ``content`` are positions of the question's content."""

    ids: tuple[int, ...]
    answer_position: int
    content: tuple[int, ...]


@dataclass(frozen=True)
class Calibration:
    """All sequences, in a fixed order, and the hash of their tokens."""

    sequences: tuple[CalibrationSequence, ...]

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
    sequences: tuple[CalibrationSequence, ...]


def build(
    tokenizer: PreTrainedTokenizerBase, tasks: Sequence[Iterable[Item]], tokens: int, seen: Collection[str] = frozenset()
) -> Calibration:
    """Whole items of the given tasks, in turn from each, until at least ``tokens`` tokens; no more items are read than that takes.

    Items are read as they stand in the train split: without other items before them, and without a chat template. Those whose prompt is
    among ``seen`` are passed over: what is scored, as a plan is never judged on what it is made from, and what stands solved before it.

    Raises:
        TaskError: the tasks together hold fewer tokens.
    """
    turns = chain.from_iterable(zip_longest(*tasks))
    sequences: list[CalibrationSequence] = []
    total = 0
    for item in turns:
        if item is None or item.prompt in seen:
            continue
        prompt = tokenizer(item.prompt)["input_ids"]
        whole = tokenizer(item.prompt + item.answer, return_offsets_mapping=True)
        content = [n for n, span in enumerate(whole["offset_mapping"]) if any(_overlap(span, part) for part in item.content)]
        sequences.append(CalibrationSequence(tuple(whole["input_ids"]), len(prompt) - 1, tuple(content)))
        total += len(whole["input_ids"])
        if total >= tokens:
            return Calibration(tuple(sequences))
    raise TaskError(
        f"calibration asks for {tokens} tokens and the train splits hold {total} that are not scored: lower calibration.tokens, "
        "or limit where a task is one file, or add a task"
    )


def _overlap(first: tuple[int, int], second: tuple[int, int]) -> bool:
    return first[0] < second[1] and second[0] < first[1]


def batches(calibration: Calibration, size: int, device: torch.device) -> Iterator[Batch]:
    """Batches of at most ``size`` sequences by ascending length, so that little is spent on padding."""
    order = sorted(range(len(calibration.sequences)), key=lambda n: len(calibration.sequences[n].ids))
    for start in range(0, len(order), size):
        index = order[start : start + size]
        rows = [calibration.sequences[n] for n in index]
        ids, mask = padded([row.ids for row in rows], device, left=False)
        yield Batch(ids, mask, tuple(index), tuple(rows))
