"""Scores a model on a task of lm-evaluation-harness: its own evaluation, with `harness_model`, and the items that it logs as a cell."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, TypeAlias

import lm_eval
import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bitzones.data import harness_tasks
from bitzones.data.harness_tasks import HarnessTask, is_right_or_wrong
from bitzones.data.special_tokens import described
from bitzones.evaluation.harness_model import HarnessModel
from bitzones.schema.errors import BitzonesError, TaskError
from bitzones.schema.progress import Progress
from bitzones.schema.quality_cells import AccuracyCell, PerplexityCell

__all__ = ["cell", "samples"]

LONGEST_PREDICTION = 400
"""Characters of a generated answer that the run file keeps."""

NORMALIZED = "acc_norm"

Sample: TypeAlias = Mapping[str, Any]
"""What the harness logs of one item: ``doc``, ``arguments``, ``filtered_resps`` and the value of every metric."""


def cell(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: HarnessTask, variant: str, batch: int, progress: Progress
) -> AccuracyCell | PerplexityCell:
    """Score a model on a task.

    Raises:
        NonFiniteError: a logit that matters is NaN or infinite.
        TaskError: an answer cannot be scored with this tokenizer, or a metric is not right or wrong for every item.
    """
    started = perf_counter()
    lm = HarnessModel(model, tokenizer, batch, progress)
    found = samples(lm, task)
    make: Callable[..., AccuracyCell | PerplexityCell] = _perplexity if task.cell_kind == "perplexity" else _accuracy
    return make(
        task,
        found,
        lm,
        variant=variant,
        task=task.name,
        task_version=task.version,
        task_sha256=task.sha256,
        origin=task.origin,
        chat_template=task.chat_template,
        harness=task.harness,
        item_ids=task.ids,
        special_tokens=described(tokenizer, {str(sample["arguments"][0][0]) for sample in found}),
        seconds_s=perf_counter() - started,
    )


def samples(lm: Any, task: HarnessTask) -> list[Sample]:
    """What the harness logs of every item, in order, with the answers that the task's filter leaves.

    Raises:
        TaskError: the harness, or a function of the task, fails.
    """
    task.task.set_fewshot_seed(seed=harness_tasks.FEWSHOT_SEED)  # every variant is asked with the same solved examples
    try:
        with harness_tasks.quiet():
            found = lm_eval.evaluate(
                lm=lm,
                task_dict={"tasks": {task.harness.task: task.task}},
                bootstrap_iters=0,
                apply_chat_template=task.chat_template,
                fewshot_as_multiturn=task.chat_template,
                confirm_run_unsafe_code=task.trusted,
                **task.selection,
            )
    except BitzonesError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, AssertionError) as error:
        said = " ".join(str(error).split())[:200]
        raise TaskError(f"task {task.name!r}: lm_eval cannot evaluate it: {type(error).__name__}: {said}") from error
    logged = [sample for sample in found["samples"][task.harness.task] if sample["filter"] == task.filter]
    return sorted(logged, key=lambda sample: int(sample["doc_id"]))


def _perplexity(_asked: HarnessTask, found: Sequence[Sample], lm: HarnessModel, **said: Any) -> PerplexityCell:
    texts = [str(sample["arguments"][0][0]) for sample in found]
    return PerplexityCell(
        nll_nats=tuple(max(0.0, -float(sample["filtered_resps"][0])) for sample in found),
        tokens=tuple(lm.lengths[text,] for text in texts),
        words=tuple(_size(sample, "word_perplexity", len(re.split(r"\s+", text))) for sample, text in zip(found, texts, strict=True)),
        utf8_bytes=tuple(_size(sample, "byte_perplexity", len(text.encode())) for sample, text in zip(found, texts, strict=True)),
        **said,
    )


def _size(sample: Sample, metric: str, plain: int) -> int:
    """Words or bytes of a document, as the task counts them for a metric, else of its text."""
    value = sample.get(metric)
    return int(value[1]) if isinstance(value, tuple | list) and len(value) == 2 else plain


def _accuracy(asked: HarnessTask, found: Sequence[Sample], lm: HarnessModel, **said: Any) -> AccuracyCell:
    wrong = next((sample for sample in found if not is_right_or_wrong(sample.get(asked.metric))), None)
    if wrong is not None:
        value = str(wrong.get(asked.metric))[:40]
        raise TaskError(
            f"task {asked.name!r}: {asked.metric} of item {wrong['doc_id']} is {value}, which is not right or wrong: name another metric"
        )
    read = {"multiple_choice": _choices, "loglikelihood": _continuations}.get(asked.harness.output_type, _generated)
    return AccuracyCell(
        metric=_metric_name(asked),
        fewshot=asked.fewshot,
        correct=tuple(bool(float(sample[asked.metric])) for sample in found),
        tokens=lm.read,
        **read(asked, found, lm),
        **said,
    )


def _metric_name(task: HarnessTask) -> str:
    """The metric and, where there is one, the filter; ``acc_norm`` alone is the second metric of a cell."""
    named = task.metric if task.filter == "none" and task.metric != NORMALIZED else f"{task.metric},{task.filter}"
    return re.sub(r"[^\w.,:@+-]", "_", named)


def _choices(task: HarnessTask, found: Sequence[Sample], lm: HarnessModel) -> dict[str, Any]:
    """Predictions, and the likelihood of the right choice: of the likeliest where several are right."""
    predictions, normalized, nats, lengths, chance = [], [], [], [], []
    for sample in found:
        choices = task.task.doc_to_choice(sample["doc"])
        likelihoods = np.array([response[0] for response in sample["filtered_resps"][: len(choices)]])
        by_character = likelihoods / np.maximum(1, [len(choice) for choice in choices])
        right = sorted(_right(task, sample["doc"], choices), key=lambda place: -likelihoods[place])
        predictions.append(str(choices[int(likelihoods.argmax())]))
        normalized.append(str(choices[int(by_character.argmax())]))
        nats.append(max(0.0, -float(likelihoods[right[0]])) if right else 0.0)
        lengths.append(lm.lengths[tuple(sample["arguments"][right[0]])] if right else 0)
        chance.append(len(right) / len(choices))
    columns: dict[str, Any] = {"predictions": tuple(predictions), "chance": tuple(chance)}
    if sum(lengths):
        columns |= {"gold_nll_nats": tuple(nats), "gold_tokens": tuple(lengths)}
    if task.metric == "acc" and all(is_right_or_wrong(sample.get(NORMALIZED)) for sample in found):
        columns |= {"predictions_normalized": tuple(normalized), "correct_normalized": tuple(bool(sample[NORMALIZED]) for sample in found)}
    return columns


def _right(task: HarnessTask, doc: Mapping[str, Any], choices: Sequence[str]) -> list[int]:
    """Places of the right choices, as the harness finds them; none where the document names one that is not there."""
    gold = task.task.doc_to_text(doc) if getattr(task.task, "multiple_input", 0) else task.task.doc_to_target(doc)
    places = [
        place if isinstance(place, int) else choices.index(place) if place in choices else -1
        for place in (gold if isinstance(gold, list) else [gold])
    ]
    return [place for place in places if 0 <= place < len(choices)]


def _continuations(task: HarnessTask, found: Sequence[Sample], lm: HarnessModel) -> dict[str, Any]:
    """One continuation each: it is predicted where greedy decoding writes it."""
    answers = [sample["filtered_resps"][0] for sample in found]
    return {
        "predictions": tuple(str(sample["target"]).strip() if greedy else "" for sample, (_, greedy) in zip(found, answers, strict=True)),
        "gold_nll_nats": tuple(max(0.0, -float(nats)) for nats, _ in answers),
        "gold_tokens": tuple(lm.lengths[tuple(sample["arguments"][0])] for sample in found),
        "chance": (0.0,) * len(found),
    }


def _generated(task: HarnessTask, found: Sequence[Sample], lm: HarnessModel) -> dict[str, Any]:
    texts = [sample["filtered_resps"][0] for sample in found]
    return {
        "predictions": tuple(str(text).strip()[:LONGEST_PREDICTION] for text in texts),
        "chance": (0.0,) * len(found),
    }
