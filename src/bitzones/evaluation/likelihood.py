"""Log-likelihoods of the choices of multiple-choice items, as lm-evaluation-harness defines them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bitzones.data.encoding import Encoded, encoded, text_of
from bitzones.data.task_items import Item
from bitzones.evaluation import prefix_scoring
from bitzones.evaluation.prefix_scoring import Continuation, Score, log_likelihoods
from bitzones.schema.progress import Progress, silent

__all__ = ["Choices", "choice_log_likelihoods", "scored"]


@dataclass(frozen=True)
class Choices:
    """The result of one item: the log-likelihood in nats and the length in tokens of each choice, and the number of ``tokens`` read."""

    log_likelihoods: tuple[float, ...]
    lengths: tuple[int, ...]
    tokens: int


@torch.no_grad()
def choice_log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    batch: int,
    progress: Progress = silent,
) -> list[Choices]:
    """The log-likelihood of every choice of every item after its prompt.

    Args:
        model: a causal language model.
        tokenizer: the model's tokenizer.
        items: multiple-choice items.
        batch: number of prompts per batch.
        progress: receives the share of items that is done.

    Raises:
        NonFiniteError: a likelihood is NaN or infinite.
        TaskError: an item is longer than the model's positions, or a choice has no token of its own.
    """
    results: dict[int, Choices] = {}
    for rows in encoded(model, tokenizer, [text_of(item) for item in items], batch):
        found = iter(scored(model, rows).tolist())
        for row in rows:
            lengths = tuple(len(answer) for answer in row.answers)
            tokens = len(row.context) + sum(length - 1 for length in lengths)
            results[row.place] = Choices(tuple(next(found) for _ in lengths), lengths, tokens)
        progress(len(results) / len(items))
    return [results[place] for place in range(len(items))]


def scored(model: PreTrainedModel, rows: Sequence[Encoded], score: Score = log_likelihoods) -> torch.Tensor:
    """The score of every answer of every row after its context, by default the log-likelihood: shape (all answers,), or with what more the
    score has. The first token comes from the context's logits.

    Raises:
        NonFiniteError: a score is NaN or infinite.
    """
    owners = [number for number, row in enumerate(rows) for _ in row.answers]
    answers = [answer for row in rows for answer in row.answers]
    context = prefix_scoring.read(model, [row.context for row in rows])
    if context is None:
        found = prefix_scoring.whole(model, [rows[owner].context for owner in owners], answers, score)
    else:
        first = score(context.logits[owners], torch.tensor([answer[0] for answer in answers], device=model.device))
        rest = [Continuation(owner, answer[:-1], answer[1:]) for owner, answer in zip(owners, answers, strict=True)]
        found = first + prefix_scoring.continued(model, context, rest, score)
    prefix_scoring.require_finite(found)
    return found
