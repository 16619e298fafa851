"""Scores a model on a task: multiple choice by likelihood, numbers by greedy generation, with every context read once."""

from __future__ import annotations

from time import perf_counter

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bitzones.data.tasks import TaskSet
from bitzones.evaluation import scoring
from bitzones.evaluation.generation import answers
from bitzones.evaluation.likelihood import choice_log_likelihoods
from bitzones.evaluation.scoring import Scored
from bitzones.schema.progress import Progress, silent
from bitzones.schema.quality_cells import AccuracyCell

__all__ = ["measure"]


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: TaskSet,
    variant: str,
    batch: int,
    progress: Progress = silent,
) -> AccuracyCell:
    """Score a model on a task prepared by `prompts.asked`.

    Raises:
        NonFiniteError: a logit that matters is NaN or infinite.
        TaskError: an item is too long for the model.
    """
    started = perf_counter()
    score = _score_choices if task.kind == "choice" else _score_numbers
    return scoring.cell(task, variant, score(model, tokenizer, task, batch, progress), perf_counter() - started)


def _score_choices(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: TaskSet, batch: int, progress: Progress
) -> list[Scored]:
    found = choice_log_likelihoods(model, tokenizer, task.items, batch, progress)
    return [scoring.chosen(item, c.log_likelihoods, c.lengths, c.tokens) for item, c in zip(task.items, found, strict=True)]


def _score_numbers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: TaskSet, batch: int, progress: Progress
) -> list[Scored]:
    found = answers(model, tokenizer, task.items, batch, progress)
    return [
        scoring.written(item, a.text, a.gold_log_likelihood, a.gold_tokens, a.tokens) for item, a in zip(task.items, found, strict=True)
    ]
