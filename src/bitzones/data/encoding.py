"""Tokenizes texts in batches of similar length, a window at a time, so that memory does not grow with the task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bitzones.data.special_tokens import tokens
from bitzones.data.task_items import Item
from bitzones.models import text_config
from bitzones.schema.errors import TaskError

__all__ = ["Encoded", "Text", "encoded", "in_runs", "positions", "runs", "text_of", "unanswerable"]

WINDOW_BATCHES = 16
"""Batches that are tokenized at a time: enough to sort texts by length."""

PASS_TOKENS = 64
"""Fixed cost of a forward pass, in tokens: with SmolLM2 on a CPU core about 40 for dense weights and 80 for packed ones."""


@dataclass(frozen=True)
class Text:
    """The text of one item: a ``context``, and the ``answers`` that may follow it."""

    item: str
    context: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Encoded:
    """A `Text` as tokens; ``place`` is its index among the texts."""

    place: int
    context: list[int]
    answers: list[list[int]]


def text_of(item: Item) -> Text:
    """The text of an item: its prompt with its choices, or with its answer if it has none.

    Trailing white space of a prompt, as in many chat templates, is scored with the choices, as in lm-evaluation-harness.
    """
    if not item.choices:
        return Text(item.id, item.prompt, (item.answer,))
    context = item.prompt.rstrip()
    return Text(item.id, context, tuple(item.prompt[len(context) :] + choice for choice in item.choices))


def positions(model: PreTrainedModel) -> int | None:
    """How many tokens the model can read at most; None where its configuration sets no limit.

    Read off ``max_position_embeddings``, which transformers gives most configurations under whatever name they have; MPT keeps its own.
    """
    settings = text_config.of(model)
    found = (getattr(settings, name, None) for name in ("max_position_embeddings", "max_seq_len"))
    return next((limit for limit in found if isinstance(limit, int) and limit > 0), None)


def unanswerable(tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]) -> list[str]:
    """IDs of items that cannot be scored, because an answer merges with the end of its prompt and has no token of its own."""
    return [items[row.place].id for row in _encode(tokenizer, [text_of(item) for item in items], 0) if not all(row.answers)]


def encoded(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], batch: int, *, spare: int = 0
) -> Iterator[list[Encoded]]:
    """All texts, in batches of similar length.

    As in lm-evaluation-harness, an answer's tokens are those of context and answer together, beyond as many as the context has alone.
    Unlike there, closing tokens of the tokenizer belong to neither (`special_tokens`).

    Args:
        model: the model, for its number of positions.
        tokenizer: the model's tokenizer.
        texts: the texts.
        batch: most texts per batch.
        spare: positions that are needed after a context, whatever its answers.

    Raises:
        TaskError: a text is longer than the model's positions, or an answer has no token of its own.
    """
    room = positions(model)
    for start in range(0, len(texts), batch * WINDOW_BATCHES):
        window = texts[start : start + batch * WINDOW_BATCHES]
        rows = _encode(tokenizer, window, start)
        for row in rows:
            _require(row, texts[row.place].item, room, spare)
        yield from in_runs(rows, batch)


def in_runs(rows: Sequence[Encoded], batch: int) -> Iterator[list[Encoded]]:
    """Encoded texts in batches of similar length, from a window of `WINDOW_BATCHES` batches at a time."""
    for start in range(0, len(rows), batch * WINDOW_BATCHES):
        window = rows[start : start + batch * WINDOW_BATCHES]
        yield from ([window[n] for n in run] for run in runs([len(row.context) for row in window], batch))


def runs(lengths: Sequence[int], most: int | None = None) -> list[list[int]]:
    """Indices by ascending length, split into runs of at most ``most`` that are padded to their longest: the cheapest split.

    >>> runs([5, 90, 5, 6]), runs([5, 90, 5, 6], most=2)
    ([[0, 2, 3], [1]], [[0, 2], [3], [1]])
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    cost, opens = [0], [0]  # of the first n texts: least cost, and start of the last run
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        least = min((cost[start] + (end - start) * longest, start) for start in range(max(0, end - (most or end)), end))
        cost.append(least[0] + PASS_TOKENS)
        opens.append(least[1])
    found: list[list[int]] = []
    end = len(order)
    while end:
        found.insert(0, order[opens[end] : end])
        end = opens[end]
    return found


def _encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], first: int) -> list[Encoded]:
    contexts = tokens(tokenizer, [text.context for text in texts])
    wholes = iter(tokens(tokenizer, [text.context + answer for text in texts for answer in text.answers]))
    return [
        Encoded(place, context.ids, [next(wholes).ids[len(context.ids) :] for _ in text.answers])
        for place, (text, context) in enumerate(zip(texts, contexts, strict=True), first)
    ]


def _require(row: Encoded, item: str, room: int | None, spare: int) -> None:
    """Check that a text fits. Nothing is truncated, because that would change the question."""
    if not all(row.answers):
        raise TaskError(f"item {item!r}: an answer has no token of its own after its prompt in this model's tokenizer")
    needed = len(row.context) + max(spare, *(len(answer) for answer in row.answers))
    if room is not None and needed > room:
        raise TaskError(f"item {item!r} takes {needed} tokens and the model has {room} positions: lower fewshot, or leave the item out")
