"""Texts as tokens, in batches of about one length, a window at a time, so that what is in memory does not grow with the task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bitzones.data.special_tokens import tokens
from bitzones.data.task_items import Item
from bitzones.models import text_config
from bitzones.schema.errors import TaskError

__all__ = ["Encoded", "Text", "encoded", "positions", "runs", "text_of", "unanswerable"]

WINDOW_BATCHES = 16
"""Batches whose texts are tokens at a time: enough to sort them by length."""

PASS_TOKENS = 64
"""A pass costs as much as about this many tokens, besides its own: with SmolLM2 on a CPU core 40 as stored, 80 with packed weights."""


@dataclass(frozen=True)
class Text:
    """What is read for one item: a ``context``, and the ``answers`` that may follow it."""

    item: str
    context: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Encoded:
    """A `Text` in tokens; ``place`` is its number among the texts."""

    place: int
    context: list[int]
    answers: list[list[int]]


def text_of(item: Item) -> Text:
    """What is read for an item: its choices, or its answer where it has none.

    White space that ends a prompt, as that of many chat templates does, is scored with the choices, as lm-evaluation-harness does it.
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
    """Ids of the items of which an answer has no token of its own after its prompt, because the two merge: it cannot be scored."""
    return [items[row.place].id for row in _encode(tokenizer, [text_of(item) for item in items], 0) if not all(row.answers)]


def encoded(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], batch: int, *, spare: int = 0
) -> Iterator[list[Encoded]]:
    """All texts, in batches of about one length.

    An answer's tokens are those of context and answer together beyond as many as the context has by itself, as lm-evaluation-harness takes
    them: where the two would merge into one token, the model is asked what it would be asked there. Unlike there, tokens that the tokenizer
    closes a text with are no unit of either (`special_tokens`).

    Args:
        model: says how many positions it has.
        tokenizer: the model's own.
        texts: what is read.
        batch: how many at most at a time.
        spare: positions that are needed after a context, whatever its answers.

    Raises:
        TaskError: a text is longer than the model has positions, or an answer has no token of its own.
    """
    room = positions(model)
    for start in range(0, len(texts), batch * WINDOW_BATCHES):
        window = texts[start : start + batch * WINDOW_BATCHES]
        rows = _encode(tokenizer, window, start)
        for row in rows:
            _require(row, texts[row.place].item, room, spare)
        yield from ([rows[n] for n in run] for run in runs([len(row.context) for row in rows], batch))


def runs(lengths: Sequence[int], most: int | None = None) -> list[list[int]]:
    """Places by ascending length in runs of at most so many, each to be one pass padded to its longest: those that cost least in all.

    >>> runs([5, 90, 5, 6]), runs([5, 90, 5, 6], most=2)
    ([[0, 2, 3], [1]], [[0, 2], [3], [1]])
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    cost, opens = [0], [0]  # of the shortest so many, and where their last run opens
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
    """Nothing is cut off to fit: a cut question is another question."""
    if not all(row.answers):
        raise TaskError(f"item {item!r}: an answer has no token of its own after its prompt in this model's tokenizer")
    needed = len(row.context) + max(spare, *(len(answer) for answer in row.answers))
    if room is not None and needed > room:
        raise TaskError(f"item {item!r} takes {needed} tokens and the model has {room} positions: lower fewshot, or leave the item out")
