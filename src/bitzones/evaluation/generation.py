"""Greedy generation after a prompt, and the log-likelihood of the correct answer; the prompt is read once for both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from bitzones.data.encoding import Encoded, encoded, text_of
from bitzones.data.padding import padded
from bitzones.data.task_items import Item
from bitzones.evaluation import prefix_scoring
from bitzones.evaluation.prefix_scoring import Context, Continuation
from bitzones.evaluation.scoring import MAX_NEW_TOKENS
from bitzones.models import kv_cache
from bitzones.schema.errors import NonFiniteError
from bitzones.schema.progress import Progress, silent

__all__ = ["Answer", "answers", "written"]


Tokens: TypeAlias = list[int]


@dataclass(frozen=True)
class Answer:
    """The result of one prompt: the generated ``text`` without special tokens; ``gold_log_likelihood`` of the correct answer in nats, over
    its ``gold_tokens``; the number of ``tokens`` read and generated."""

    text: str
    gold_log_likelihood: float
    gold_tokens: int
    tokens: int


@torch.no_grad()
def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    batch: int,
    progress: Progress = silent,
    new_tokens: int = MAX_NEW_TOKENS,
) -> list[Answer]:
    """The greedy continuation of every item's prompt, and the log-likelihood of its correct answer.

    Args:
        model: a causal language model.
        tokenizer: the model's tokenizer.
        items: items with an answer each; choices are ignored.
        batch: number of prompts per batch.
        progress: receives the share of items that is done.
        new_tokens: most tokens of a continuation.

    Raises:
        NonFiniteError: a likelihood, or the logits of a generated token, are NaN or infinite.
        TaskError: an item is longer than the model's positions, or its answer has no token of its own.
    """
    texts = [text_of(item) for item in items]
    end = model.generation_config.eos_token_id if model.generation_config.eos_token_id is not None else tokenizer.eos_token_id
    stops = end if isinstance(end, list) else [] if end is None else [end]
    config = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, eos_token_id=end, pad_token_id=stops[0] if stops else 0)
    results: dict[int, Answer] = {}
    for rows in encoded(model, tokenizer, texts, batch, spare=new_tokens):
        likelihoods, new = _batch(model, rows, config)
        for row, likelihood, tokens in zip(rows, likelihoods.tolist(), new, strict=True):
            written = next((n + 1 for n, token in enumerate(tokens) if token in stops), len(tokens))
            text, gold = str(tokenizer.decode(tokens[:written], skip_special_tokens=True)), len(row.answers[0])
            results[row.place] = Answer(text, likelihood, gold, len(row.context) + gold - 1 + written)
        progress(len(results) / len(items))
    return [results[place] for place in range(len(items))]


@torch.no_grad()
def written(
    model: PreTrainedModel, contexts: Sequence[Tokens], config: GenerationConfig, stop: Callable[[], StoppingCriteria]
) -> list[Tokens]:
    """What the model writes after each context until it, or a criterion that ``stop`` makes anew, ends it; padded after that.

    Raises:
        NonFiniteError: the logits of a generated token are NaN or infinite.
    """
    context = _read(model, contexts)
    if context is None:
        return [_greedy(model, [tokens], config, stop=stop())[0] for tokens in contexts]
    return _greedy(model, contexts, config, context, stop())


def _read(model: PreTrainedModel, contexts: Sequence[Tokens]) -> Context | None:
    """The contexts without their last token, with which what follows starts; None if they cannot be shared."""
    return prefix_scoring.read(model, [tokens[:-1] for tokens in contexts]) if all(len(tokens) > 1 for tokens in contexts) else None


def _batch(model: PreTrainedModel, rows: Sequence[Encoded], config: GenerationConfig) -> tuple[torch.Tensor, list[Tokens]]:
    """Log-likelihood of each row's answer, shape (rows,), and the generated tokens, padded after the end token; both start on one cache."""
    contexts, gold = [row.context for row in rows], [row.answers[0] for row in rows]
    context = _read(model, contexts)
    if context is None:
        likelihoods = prefix_scoring.whole(model, contexts, gold)
        prefix_scoring.require_finite(likelihoods)
        return likelihoods, [_greedy(model, [tokens], config)[0] for tokens in contexts]
    follow = [Continuation(n, [tokens[-1], *answer[:-1]], answer) for n, (tokens, answer) in enumerate(zip(contexts, gold, strict=True))]
    likelihoods = prefix_scoring.continued(model, context, follow)
    prefix_scoring.require_finite(likelihoods)
    return likelihoods, _greedy(model, contexts, config, context)


class _Finite(LogitsProcessor):
    """Raises on NaN or infinite logits, for which greedy decoding would silently pick token 0."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not torch.isfinite(scores).all():
            raise NonFiniteError("the logits of a generated token are NaN or infinite")
        return scores


def _greedy(
    model: Any, prompts: Sequence[Tokens], config: GenerationConfig, context: Context | None = None, stop: StoppingCriteria | None = None
) -> list[Tokens]:
    """Greedy decoding by ``config`` alone, whatever penalties or suppressed tokens the model's own generation configuration has.

    ``context`` holds the prompts without their last token, already read; its cache grows. ``stop`` says which rows are done.
    """
    ids, mask = padded(prompts, model.device, left=True)
    own, model.generation_config = model.generation_config, config
    try:
        out: torch.Tensor = model.generate(
            input_ids=ids,
            attention_mask=mask,
            **(kv_cache.as_argument(model, context.cache) if context else {}),
            generation_config=config,
            logits_processor=LogitsProcessorList([_Finite()]),
            stopping_criteria=StoppingCriteriaList([] if stop is None else [stop]),
        )
    finally:
        model.generation_config = own
    return out[:, ids.shape[1] :].tolist()
