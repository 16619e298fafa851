"""Log-likelihoods of continuations of a context: the context is read once, and all continuations share its key-value cache.

Sharing needs a cache that holds only keys and values, of all tokens or in a sliding window, and a model that accepts position IDs. For
other models (recurrent states, positions counted inside the model) whole sequences are read one by one without padding: slower, but always
correct. Logits are computed only at scored positions.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from bitzones.data.encoding import runs
from bitzones.data.padding import padded, positions
from bitzones.models import kv_cache as cache
from bitzones.schema.errors import NonFiniteError

__all__ = ["Context", "Continuation", "Score", "continued", "log_likelihoods", "read", "require_finite", "whole", "with_misses"]

Tokens = Sequence[int]

Score: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""What each target token adds to its continuation, from logits and targets: shape of the targets, with or without one more dimension."""


@dataclass(frozen=True)
class Context:
    """Contexts in the cache, left-padded: ``mask`` (contexts, longest), and the ``logits`` after each (contexts, vocabulary), float32.

    `continued` does not modify ``cache``, so a context can be continued any number of times.
    """

    cache: DynamicCache
    mask: torch.Tensor
    logits: torch.Tensor


@dataclass(frozen=True)
class Continuation:
    """A continuation of context number ``context``: the input tokens ``given``, and the target token scored after each of them."""

    context: int
    given: Tokens
    targets: Tokens


def read(model: PreTrainedModel, contexts: Sequence[Tokens]) -> Context | None:
    """Read contexts of at least one token; None if the model's cache cannot be shared."""
    if not _can_be_told(model):
        return None
    ids, mask = padded(contexts, model.device, left=True)
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True, **_last_logits(model, 1))
    kept = cache.of_output(out)
    if not _is_shareable(kept):
        return None
    return Context(kept, mask, out.logits[:, -1].float())


def log_likelihoods(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probability of each target in nats, shape of ``targets``; logits have the vocabulary as one more dimension."""
    logits = logits.float()
    return logits.gather(-1, targets[..., None]).squeeze(-1) - logits.logsumexp(-1)


def with_misses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probability of each target, and 1 where another token is more likely: shape of ``targets`` and 2."""
    return torch.stack([log_likelihoods(logits, targets), (logits.argmax(-1) != targets).float()], -1)


def continued(
    model: PreTrainedModel, context: Context, continuations: Sequence[Continuation], score: Score = log_likelihoods
) -> torch.Tensor:
    """Sum of the score over the targets of each continuation, by default its log-likelihood in nats: shape (continuations,), or with what
    more the score has."""
    nothing = score(context.logits[:1], torch.zeros(1, dtype=torch.long, device=model.device))
    total = torch.zeros(len(continuations), *nothing.shape[1:], device=model.device)
    scored = [place for place, continuation in enumerate(continuations) if continuation.targets]
    for run in runs([len(continuations[place].targets) for place in scored]):
        places = [scored[n] for n in run]
        total[places] = _one_pass(model, context, [continuations[place] for place in places], score)
    return total


def whole(model: PreTrainedModel, contexts: Sequence[Tokens], targets: Sequence[Tokens], score: Score = log_likelihoods) -> torch.Tensor:
    """The same of each row of targets after its context, from whole sequences; works with any causal model."""
    totals = []
    for before, after in zip(contexts, targets, strict=True):
        ids = torch.tensor([[*before, *after][:-1]], device=model.device)
        logits = model(input_ids=ids, use_cache=False, **_last_logits(model, len(after))).logits[:, -len(after) :]
        totals.append(score(logits, torch.tensor([after], device=model.device))[0].sum(0))
    return torch.stack(totals)


def require_finite(likelihoods: torch.Tensor) -> None:
    """Check that likelihoods are finite.

    Raises:
        NonFiniteError: one is NaN or infinite.
    """
    if not torch.isfinite(likelihoods).all():
        raise NonFiniteError("the log-likelihood of an answer is NaN or infinite")


def _one_pass(model: PreTrainedModel, context: Context, rows: Sequence[Continuation], score: Score) -> torch.Tensor:
    index = torch.tensor([row.context for row in rows])  # a CPU index works for a cache on any device
    given, scored = padded([row.given for row in rows], model.device, left=False)
    targets, _ = padded([row.targets for row in rows], model.device, left=False)
    before = context.mask[index]
    seen = torch.cat([before, scored], 1)
    places = positions(seen)[:, before.shape[1] :]
    kept = cache.as_argument(model, _rows_of(context.cache, index))
    out = model(input_ids=given, attention_mask=seen, position_ids=places, use_cache=True, **kept)
    found = score(out.logits, targets)
    return torch.where(scored.bool().view(*scored.shape, *[1] * (found.ndim - scored.ndim)), found, 0.0).sum(1)


def _rows_of(whole_cache: DynamicCache, index: torch.Tensor) -> DynamicCache:
    """A separate cache for some rows. Layers of this kind allocate new tensors when they grow, so the old ones are not modified."""
    picked = copy.copy(whole_cache)
    picked.layers = [copy.copy(layer) for layer in whole_cache.layers]
    picked.batch_select_indices(index)
    return picked


def _can_be_told(model: PreTrainedModel) -> bool:
    takes = inspect.signature(model.forward).parameters
    told = {"attention_mask", "position_ids"} <= set(takes) and cache.name_of(model) is not None
    return told and not getattr(model, "_is_stateful", False)


def _is_shareable(kept: Any) -> bool:
    return type(kept) is DynamicCache and all(type(layer) in {DynamicLayer, DynamicSlidingWindowLayer} for layer in kept.layers)


def _last_logits(model: PreTrainedModel, count: int) -> dict[str, int]:
    """The argument that limits the logits to the last ``count`` positions, if the model has one."""
    return {"logits_to_keep": count} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
