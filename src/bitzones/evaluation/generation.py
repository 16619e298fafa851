"""What a model writes after a prompt, greedily, and how likely it finds the right answer there: the prompt is read once for both.

This module receives a model and items; it does not know what is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from bitzones.data.encoding import Encoded, encoded, text_of
from bitzones.data.padding import padded
from bitzones.data.task_items import Item
from bitzones.evaluation import prefix_scoring
from bitzones.evaluation.prefix_scoring import Context, Continuation
from bitzones.evaluation.scoring import MAX_NEW_TOKENS
from bitzones.models import kv_cache
from bitzones.schema.errors import NonFiniteError
from bitzones.schema.progress import Progress, silent

__all__ = ["Answer", "answers"]


@dataclass(frozen=True)
class Answer:
    """What one prompt gave: ``text`` as written, special tokens left out; ``gold_log_likelihood`` of the right answer, in nats, over its
    ``gold_tokens``; ``tokens`` were read and written."""

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
) -> list[Answer]:
    """The greedy continuation of every item's prompt, and the log-likelihood of its right answer.

    Args:
        model: writes.
        tokenizer: the model's own.
        items: with an answer each; choices are not looked at.
        batch: how many prompts are read at a time.
        progress: told the share of the items that is done.

    Raises:
        NonFiniteError: a likelihood, or a logit that decides, is NaN or infinite.
        TaskError: an item is longer than the model has positions, or its answer has no token of its own.
    """
    texts = [text_of(item) for item in items]
    end = model.generation_config.eos_token_id if model.generation_config.eos_token_id is not None else tokenizer.eos_token_id
    stops = end if isinstance(end, list) else [] if end is None else [end]
    config = GenerationConfig(max_new_tokens=MAX_NEW_TOKENS, do_sample=False, eos_token_id=end, pad_token_id=stops[0] if stops else 0)
    results: dict[int, Answer] = {}
    for rows in encoded(model, tokenizer, texts, batch, spare=MAX_NEW_TOKENS):
        likelihoods, new = _batch(model, rows, config)
        for row, likelihood, tokens in zip(rows, likelihoods.tolist(), new, strict=True):
            written = next((n + 1 for n, token in enumerate(tokens) if token in stops), len(tokens))
            text, gold = str(tokenizer.decode(tokens[:written], skip_special_tokens=True)), len(row.answers[0])
            results[row.place] = Answer(text, likelihood, gold, len(row.context) + gold - 1 + written)
        progress(len(results) / len(items))
    return [results[place] for place in range(len(items))]


def _batch(model: PreTrainedModel, rows: Sequence[Encoded], config: GenerationConfig) -> tuple[torch.Tensor, list[list[int]]]:
    """Log-likelihood of each row's answer, shape (rows,), and the tokens written after each context, padded after the end.

    The contexts are read without their last tokens: answers and generation begin with those, on the same cache.
    """
    contexts, gold = [row.context for row in rows], [row.answers[0] for row in rows]
    context = prefix_scoring.read(model, [tokens[:-1] for tokens in contexts]) if all(len(tokens) > 1 for tokens in contexts) else None
    if context is None:
        likelihoods = prefix_scoring.whole(model, contexts, gold)
        prefix_scoring.require_finite(likelihoods)
        return likelihoods, [_greedy(model, [tokens], config)[0] for tokens in contexts]
    follow = [Continuation(n, [tokens[-1], *answer[:-1]], answer) for n, (tokens, answer) in enumerate(zip(contexts, gold, strict=True))]
    likelihoods = prefix_scoring.continued(model, context, follow)
    prefix_scoring.require_finite(likelihoods)
    return likelihoods, _greedy(model, contexts, config, context)


class _Finite(LogitsProcessor):
    """Refuses logits from which greedy decoding would silently pick token 0."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not torch.isfinite(scores).all():
            raise NonFiniteError("the logits of a generated token are NaN or infinite")
        return scores


def _greedy(model: Any, prompts: Sequence[list[int]], config: GenerationConfig, context: Context | None = None) -> list[list[int]]:
    """Plain greedy decoding: what a model's own configuration adds to it (penalties, suppressed tokens) would not be the model's answer.

    ``context`` are the prompts without their last tokens, already read; its cache grows.
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
        )
    finally:
        model.generation_config = own
    return out[:, ids.shape[1] :].tolist()
