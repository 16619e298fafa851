"""Scores a model on a task: multiple choice by likelihood, numbers by greedy generation, and whatever lm-evaluation-harness asks.

A kind of task is a scorer here: a function from model, tokenizer and task to a cell, in a module of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bitzones.backends.unpacked import unpacked_once
from bitzones.data.tasks import ScoredTask
from bitzones.schema.progress import Progress, silent
from bitzones.schema.quality_cells import AccuracyCell, PerplexityCell

__all__ = ["SCORERS", "measure"]

SCORERS: Mapping[str, str] = {
    "choice": "bitzones.evaluation.own_scoring:choices",
    "number": "bitzones.evaluation.own_scoring:numbers",
    "lm_eval": "bitzones.evaluation.harness_scoring:cell",
}
"""Kind of a task -> module and function that scores it, imported at first use: the harness is an extra."""


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: ScoredTask,
    variant: str,
    batch: int,
    progress: Progress = silent,
) -> AccuracyCell | PerplexityCell:
    """Score a model on a task prepared by `prompts.asked`.

    Raises:
        NonFiniteError: a logit that matters is NaN or infinite.
        TaskError: an item is too long for the model, or cannot be scored.
    """
    module, _, function = SCORERS[task.kind].partition(":")
    score: Callable[..., Any] = getattr(import_module(module), function)
    with unpacked_once(model):
        found = score(model, tokenizer, task, variant, batch, progress)
    assert isinstance(found, AccuracyCell | PerplexityCell)
    return found
