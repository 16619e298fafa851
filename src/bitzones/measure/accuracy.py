"""Right and wrong on every item of a task, by likelihood or by greedy generation, and how likely the right answer was.

``acc`` and ``acc_norm`` are those of lm-evaluation-harness for ``arc_easy``: the choice of the highest log-likelihood, and of the highest
log-likelihood by character of the choice without the space before it; the first of equals. Generated answers are right where their first
number is the right one (`tasks.first_number`). What an accuracy means (intervals, verdicts) is for the deciding side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bitzones.measure.generation import answers
from bitzones.measure.likelihood import Choices, choice_log_likelihoods
from bitzones.measure.progress import Progress, silent
from bitzones.measure.tasks import Item, TaskSet, first_number
from bitzones.records import AccuracyCell

__all__ = ["best", "best_by_character", "measure"]


@dataclass(frozen=True)
class _Answered:
    prediction: str
    correct: bool
    gold_nll: float
    gold_tokens: int
    tokens: int
    normalized: tuple[str, bool] | None = None


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: TaskSet,
    variant: str,
    batch: int,
    progress: Progress = silent,
) -> AccuracyCell:
    """Score a task as `prompts.asked` gave it.

    Raises:
        NonFiniteError: a logit that decides is NaN or infinite.
        TaskError: an item does not fit the model.
    """
    started = perf_counter()
    score = _score_choices if task.kind == "choice" else _score_numbers
    answered = score(model, tokenizer, task, batch, progress)
    normalized = [a.normalized for a in answered if a.normalized is not None]
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
        correct=tuple(a.correct for a in answered),
        predictions=tuple(a.prediction for a in answered),
        correct_normalized=tuple(correct for _, correct in normalized) or None,
        predictions_normalized=tuple(prediction for prediction, _ in normalized) or None,
        gold_nll_nats=tuple(a.gold_nll for a in answered),
        gold_tokens=tuple(a.gold_tokens for a in answered),
        chance=tuple(1 / len(item.choices) if item.choices else 0.0 for item in task.items),
        dropped=task.dropped,
        tokens=sum(a.tokens for a in answered),
        seconds_s=perf_counter() - started,
    )


def best(log_likelihoods: Sequence[float]) -> int:
    """Index of the likeliest choice, the first of equals."""
    return max(range(len(log_likelihoods)), key=log_likelihoods.__getitem__)


def best_by_character(log_likelihoods: Sequence[float], choices: Sequence[str]) -> int:
    """Index of the choice of the highest log-likelihood by character, the space before a choice not counted; the first of equals.

    >>> best([-4.0, -5.0]), best_by_character([-4.0, -5.0], [" cat", " mammal"])
    (0, 1)
    """
    return best([total / len(choice.removeprefix(" ")) for total, choice in zip(log_likelihoods, choices, strict=True)])


def _score_choices(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: TaskSet, batch: int, progress: Progress
) -> list[_Answered]:
    scored = choice_log_likelihoods(model, tokenizer, task.items, batch, progress, special_tokens=not task.chat_template)
    return [_chosen(item, choices) for item, choices in zip(task.items, scored, strict=True)]


def _chosen(item: Item, choices: Choices) -> _Answered:
    first, second = best(choices.log_likelihoods), best_by_character(choices.log_likelihoods, item.choices)
    return _Answered(
        prediction=item.choices[first].strip(),
        correct=first == item.gold,
        gold_nll=_nll(choices.log_likelihoods[item.gold]),
        gold_tokens=choices.lengths[item.gold],
        tokens=choices.tokens,
        normalized=(item.choices[second].strip(), second == item.gold),
    )


def _score_numbers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: TaskSet, batch: int, progress: Progress
) -> list[_Answered]:
    written = answers(model, tokenizer, task.items, batch, progress, special_tokens=not task.chat_template)
    return [
        _Answered(a.text.strip(), first_number(a.text) == float(item.answer), _nll(a.gold_log_likelihood), a.gold_tokens, a.tokens)
        for item, a in zip(task.items, written, strict=True)
    ]


def _nll(log_likelihood: float) -> float:
    """Negative log-likelihood; rounding may lift the likelihood of a sure answer a hair above 1."""
    return max(0.0, -log_likelihood)
