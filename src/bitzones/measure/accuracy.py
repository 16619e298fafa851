"""Right or wrong on every item, by likelihood or by greedy generation, computed once: contexts are shared by their choices.

This module receives a model and items; what an accuracy means (intervals, verdicts) is for the deciding side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from bitzones.errors import NonFiniteError
from bitzones.measure.padding import padded, positions
from bitzones.measure.progress import Progress, silent
from bitzones.measure.tasks import Item, TaskSet, first_number
from bitzones.records import AccuracyCell

__all__ = ["choice_log_likelihoods", "generate", "measure"]

MAX_NEW_TOKENS = 16
"""Room for a number and a few words before it; generation ends earlier at the model's end token."""


@dataclass(frozen=True)
class _Answered:
    prediction: str
    correct: bool
    tokens: int


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: TaskSet,
    variant: str,
    batch: int,
    progress: Progress = silent,
) -> AccuracyCell:
    """Score a task.

    Raises:
        NonFiniteError: a logit that decides is NaN or infinite.
    """
    started = perf_counter()
    score = _score_choices if task.kind == "choice" else _score_numbers
    answered = score(model, tokenizer, task.items, batch, progress)
    return AccuracyCell(
        variant=variant,
        task=task.name,
        task_version=task.version,
        task_sha256=task.sha256,
        metric="acc" if task.kind == "choice" else "exact_match",
        item_ids=tuple(item.id for item in task.items),
        correct=tuple(a.correct for a in answered),
        predictions=tuple(a.prediction for a in answered),
        chance=tuple(1 / len(item.choices) if item.choices else 0.0 for item in task.items),
        dropped=task.dropped,
        tokens=sum(a.tokens for a in answered),
        seconds_s=perf_counter() - started,
    )


def _score_choices(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], batch: int, progress: Progress
) -> list[_Answered]:
    scored = choice_log_likelihoods(model, tokenizer, items, batch, progress)
    answered = []
    for item, (likelihoods, tokens) in zip(items, scored, strict=True):
        best = max(range(len(likelihoods)), key=likelihoods.__getitem__)
        answered.append(_Answered(item.choices[best].strip(), best == item.gold, tokens))
    return answered


def _score_numbers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], batch: int, progress: Progress
) -> list[_Answered]:
    answered = []
    for item, (text, tokens) in zip(items, generate(model, tokenizer, [i.prompt for i in items], batch, progress), strict=True):
        answered.append(_Answered(text.strip(), first_number(text) == float(item.answer), tokens))
    return answered


@dataclass(frozen=True)
class _Encoded:
    place: int
    context: list[int]
    choices: list[list[int]]


def _encode(tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]) -> list[_Encoded]:
    """Choice tokens are those of context and choice together beyond the context's, as lm-evaluation-harness takes them."""
    contexts = tokenizer([item.prompt for item in items])["input_ids"]
    wholes = iter(tokenizer([item.prompt + choice for item in items for choice in item.choices])["input_ids"])
    return [
        _Encoded(place, context, [next(wholes)[len(context) :] for _ in item.choices])
        for place, (item, context) in enumerate(zip(items, contexts, strict=True))
    ]


@torch.no_grad()
def choice_log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    batch: int,
    progress: Progress = silent,
) -> list[tuple[list[float], int]]:
    """For each item the log-likelihood of every choice given the prompt, in nats, and the number of tokens computed.

    Raises:
        NonFiniteError: a likelihood is NaN or infinite.
    """
    encoded = sorted(_encode(tokenizer, items), key=lambda e: (len(e.choices), len(e.context)))
    results: list[tuple[list[float], int]] = [([], 0)] * len(items)
    done = 0
    for rows in _batched(encoded, batch):
        likelihoods = _batch_likelihoods(model, rows).tolist()
        for row in rows:
            mine, likelihoods = likelihoods[: len(row.choices)], likelihoods[len(row.choices) :]
            results[row.place] = (mine, len(row.context) + sum(len(choice) - 1 for choice in row.choices))
        done += len(rows)
        progress(done / len(items))
    return results


def _batched(encoded: Sequence[_Encoded], size: int) -> Iterator[list[_Encoded]]:
    """At most ``size`` items at a time, all with the same number of choices."""
    rows: list[_Encoded] = []
    for item in encoded:
        if rows and (len(rows) == size or len(item.choices) != len(rows[0].choices)):
            yield rows
            rows = []
        rows.append(item)
    if rows:
        yield rows


def _batch_likelihoods(model: PreTrainedModel, rows: Sequence[_Encoded]) -> torch.Tensor:
    """Log-likelihood of every choice of every row, shape (rows * choices,): one pass over the contexts, one over what follows them."""
    device, choices = model.device, [choice for row in rows for choice in row.choices]
    ids, mask = padded([row.context for row in rows], device, left=True)
    context = model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True, logits_to_keep=1)
    each = len(rows[0].choices)
    first = context.logits[:, -1].float().log_softmax(-1).repeat_interleave(each, 0)
    targets, scored = padded(choices, device, left=False)
    total: torch.Tensor = first.gather(1, targets[:, :1]).squeeze(1)
    if targets.shape[1] > 1:
        cache = context.past_key_values
        cache.batch_repeat_interleave(each)
        before = mask.repeat_interleave(each, 0)
        seen = torch.cat([before, scored[:, :-1]], 1)
        places = positions(seen)[:, before.shape[1] :]
        rest = model(input_ids=targets[:, :-1], attention_mask=seen, position_ids=places, past_key_values=cache, use_cache=True)
        following = rest.logits.float().log_softmax(-1).gather(2, targets[:, 1:, None]).squeeze(2)
        total = total + torch.where(scored[:, 1:].bool(), following, 0.0).sum(1)
    if not torch.isfinite(total).all():
        raise NonFiniteError("the log-likelihood of an answer is NaN or infinite")
    return total


class _Finite(LogitsProcessor):
    """Refuses logits from which greedy decoding would silently pick token 0."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not torch.isfinite(scores).all():
            raise NonFiniteError("the logits of a generated token are NaN or infinite")
        return scores


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    batch: int,
    progress: Progress = silent,
) -> list[tuple[str, int]]:
    """For each prompt the greedily generated text, special tokens left out, and the number of tokens read and written.

    Raises:
        NonFiniteError: a logit is NaN or infinite.
    """
    encoded = tokenizer(list(prompts))["input_ids"]
    order = sorted(range(len(prompts)), key=lambda n: len(encoded[n]))
    results: list[tuple[str, int]] = [("", 0)] * len(prompts)
    end = model.generation_config.eos_token_id if model.generation_config.eos_token_id is not None else tokenizer.eos_token_id
    stops = end if isinstance(end, list) else [end]
    config = GenerationConfig(max_new_tokens=MAX_NEW_TOKENS, do_sample=False, eos_token_id=end, pad_token_id=stops[0])
    for start in range(0, len(order), batch):
        places = order[start : start + batch]
        ids, mask = padded([encoded[n] for n in places], model.device, left=True)
        out = _greedy(model, ids, mask, config)
        for place, tokens in zip(places, out[:, ids.shape[1] :].tolist(), strict=True):
            written = next((n + 1 for n, token in enumerate(tokens) if token in stops), len(tokens))
            text = tokenizer.decode(tokens[:written], skip_special_tokens=True)
            results[place] = (str(text), len(encoded[place]) + written)
        progress((start + len(places)) / len(order))
    return results


def _greedy(model: Any, ids: torch.Tensor, mask: torch.Tensor, config: GenerationConfig) -> torch.Tensor:
    """Plain greedy decoding: what a model's own configuration adds to it (penalties, suppressed tokens) would not be the model's answer."""
    own, model.generation_config = model.generation_config, config
    try:
        out: torch.Tensor = model.generate(
            input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=LogitsProcessorList([_Finite()])
        )
        return out
    finally:
        model.generation_config = own
