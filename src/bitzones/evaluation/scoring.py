"""The scoring rules: from likelihoods or generated text to a correct or incorrect answer.

``acc`` and ``acc_norm`` are those of lm-evaluation-harness for ``arc_easy``: the choice with the highest log-likelihood, and with the
highest log-likelihood per character (without the leading space); the first of equals. A generated answer is correct if its first number is
the right one (`task_items.first_number`), and after reasoning if its last one is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitzones.data.task_items import Item, first_number, last_number
from bitzones.data.tasks import TaskSet
from bitzones.schema.quality_cells import AccuracyCell

__all__ = ["MAX_NEW_TOKENS", "Scored", "best", "best_by_character", "cell", "chosen", "written"]

MAX_NEW_TOKENS = 16
"""Enough for a number after a few words; generation stops earlier at the model's end token."""


@dataclass(frozen=True)
class Scored:
    """The score of one item: the prediction, the likelihood of the correct answer, and the number of ``tokens`` read and generated."""

    prediction: str
    correct: bool
    gold_nll: float
    gold_tokens: int
    tokens: int
    normalized: tuple[str, bool] | None = None


def best(log_likelihoods: Sequence[float]) -> int:
    """Index of the most likely choice, the first of equals."""
    return max(range(len(log_likelihoods)), key=log_likelihoods.__getitem__)


def best_by_character(log_likelihoods: Sequence[float], choices: Sequence[str]) -> int:
    """Index of the choice with the highest log-likelihood per character, without its leading space; the first of equals.

    >>> best([-4.0, -5.0]), best_by_character([-4.0, -5.0], [" cat", " mammal"])
    (0, 1)
    """
    return best([total / len(choice.removeprefix(" ")) for total, choice in zip(log_likelihoods, choices, strict=True)])


def chosen(item: Item, log_likelihoods: Sequence[float], lengths: Sequence[int], tokens: int) -> Scored:
    """The score of a multiple-choice item, from the log-likelihood and the number of tokens of each choice."""
    first, second = best(log_likelihoods), best_by_character(log_likelihoods, item.choices)
    return Scored(
        prediction=item.choices[first].strip(),
        correct=first == item.gold,
        gold_nll=_nll(log_likelihoods[item.gold]),
        gold_tokens=lengths[item.gold],
        tokens=tokens,
        normalized=(item.choices[second].strip(), second == item.gold),
    )


def written(item: Item, text: str, gold_log_likelihood: float, gold_tokens: int, tokens: int, *, reasoned: bool = False) -> Scored:
    """The score of a generated answer; ``reasoned`` tells that it may come after other numbers."""
    number = last_number(text) if reasoned else first_number(text)
    return Scored(text.strip(), number == float(item.answer), _nll(gold_log_likelihood), gold_tokens, tokens)


def _nll(log_likelihood: float) -> float:
    """Negative log-likelihood; rounding may push the likelihood of a certain answer slightly above 1."""
    return max(0.0, -log_likelihood)


def cell(task: TaskSet, variant: str, scored: Sequence[Scored], seconds_s: float) -> AccuracyCell:
    """The record of a task, with its items in order."""
    normalized = [item.normalized for item in scored if item.normalized is not None]
    return AccuracyCell(
        variant=variant,
        task=task.name,
        task_version=task.version,
        task_sha256=task.sha256,
        origin=task.origin,
        fewshot=len(task.shots),
        chat_template=task.chat_template,
        metric="acc" if task.kind == "choice" else "exact_match",
        item_ids=tuple(item.id for item in task.items),
        correct=tuple(item.correct for item in scored),
        predictions=tuple(item.prediction for item in scored),
        correct_normalized=tuple(correct for _, correct in normalized) or None,
        predictions_normalized=tuple(prediction for prediction, _ in normalized) or None,
        gold_nll_nats=tuple(item.gold_nll for item in scored),
        gold_tokens=tuple(item.gold_tokens for item in scored),
        chance=tuple(1 / len(item.choices) if item.choices else 0.0 for item in task.items),
        dropped=task.dropped,
        passed_over=task.passed_over,
        special_tokens=task.special_tokens,
        tokens=sum(item.tokens for item in scored),
        seconds_s=seconds_s,
    )
