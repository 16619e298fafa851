"""Scores a model on the tasks of bitzones itself, with every context read once: choices by likelihood, numbers by generation."""

from __future__ import annotations

from time import perf_counter

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bitzones.data.tasks import TaskSet
from bitzones.evaluation import scoring
from bitzones.evaluation.generation import answers
from bitzones.evaluation.likelihood import choice_log_likelihoods
from bitzones.evaluation.scoring import MAX_NEW_TOKENS
from bitzones.schema.progress import Progress
from bitzones.schema.quality_cells import AccuracyCell

__all__ = ["choices", "numbers"]


def choices(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: TaskSet, variant: str, batch: int, progress: Progress
) -> AccuracyCell:
    """Multiple choice: the most likely choice, and the most likely by character."""
    started = perf_counter()
    found = choice_log_likelihoods(model, tokenizer, task.items, batch, progress)
    scored = [scoring.chosen(item, c.log_likelihoods, c.lengths, c.tokens) for item, c in zip(task.items, found, strict=True)]
    return scoring.cell(task, variant, scored, perf_counter() - started)


def numbers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: TaskSet, variant: str, batch: int, progress: Progress
) -> AccuracyCell:
    """Word problems: the first number of the generated answer, or the last one after reasoning."""
    started = perf_counter()
    reasoning = task.reasoning_tokens
    found = answers(model, tokenizer, task.items, batch, progress, MAX_NEW_TOKENS + reasoning)
    scored = [
        scoring.written(item, a.text, a.gold_log_likelihood, a.gold_tokens, a.tokens, reasoned=reasoning > 0)
        for item, a in zip(task.items, found, strict=True)
    ]
    return scoring.cell(task, variant, scored, perf_counter() - started)
