"""Tokens written one at a time after a prompt, each with its log-probability; and the log-probabilities of a prompt itself.

Decoding is transformers' own ``generate``, so that greedy tokens are its tokens, whatever cache an architecture needs. Log-probabilities,
in nats, are of the model's distribution before temperature and nucleus.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from bitzones.models import kv_cache
from bitzones.schema.errors import NonFiniteError

__all__ = ["GREEDY", "Candidate", "Sampling", "Step", "end_tokens", "prompt_steps", "write"]

COLDEST = 1e-5
"""Temperatures below are greedy, as in vLLM: logits divided by less overflow."""

SCORED_POSITIONS = 256
"""Positions of a prompt whose distributions are in memory in float32 at a time."""


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen: greedily at temperature 0, else from the smallest set of tokens with a probability of ``top_p`` (Holtzman et
    al. 2020). The same ``seed`` gives the same tokens; None draws one."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


GREEDY = Sampling()


@dataclass(frozen=True)
class Candidate:
    """A token and its log-probability in nats."""

    token: int
    logprob: float


@dataclass(frozen=True)
class Step:
    """One token: its log-probability, None for the first of a prompt; and the ``top`` most likely in its place, most likely first."""

    token: int
    logprob: float | None
    top: tuple[Candidate, ...] = ()


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end a text: those of the model's generation configuration, or else the tokenizer's."""
    found: Any = model.generation_config.eos_token_id
    found = tokenizer.eos_token_id if found is None else found
    return frozenset(found if isinstance(found, list) else [] if found is None else [found])


@torch.no_grad()
def write(
    model: PreTrainedModel,
    prompt: Sequence[int],
    new_tokens: int,
    ends: frozenset[int],
    emit: Callable[[Step], bool],
    sampling: Sampling = GREEDY,
    top: int = 0,
) -> None:
    """Write after a prompt until ``new_tokens`` are written, one of ``ends`` is, or ``emit``, which receives every token, says True.

    Penalties and suppressed tokens of the model's own generation configuration do not apply.

    Raises:
        NonFiniteError: the logits of a token are NaN or infinite.
    """
    ids = torch.tensor([list(prompt)], device=model.device)
    config = GenerationConfig(
        max_new_tokens=new_tokens, do_sample=False, eos_token_id=sorted(ends) or None, pad_token_id=min(ends, default=0)
    )
    chooser = _Chooser(sampling, top)
    own, model.generation_config = model.generation_config, config
    try:
        model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            logits_processor=LogitsProcessorList([chooser]),
            stopping_criteria=StoppingCriteriaList([_Emitter(chooser, ends, emit)]),
        )
    finally:
        model.generation_config = own


class _Chooser(LogitsProcessor):
    """Chooses the next token with a random generator of its own, so that no other thread's numbers change it, and leaves only that one."""

    def __init__(self, sampling: Sampling, top: int) -> None:
        self._top = top
        self._seed = sampling.seed
        self._generator: torch.Generator | None = None
        self._greedy = sampling.temperature < COLDEST
        self._shapes: list[LogitsProcessor] = []
        if not self._greedy:
            self._shapes += [TemperatureLogitsWarper(sampling.temperature), TopPLogitsWarper(sampling.top_p)]
        self.step = Step(0, None)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = scores.argmax(dim=-1, keepdim=True) if self._greedy else self._drawn(input_ids, scores)
        self.step = next(_steps(scores, chosen[0], self._top))
        return torch.full_like(scores, -math.inf).scatter(1, chosen, 0.0)

    def _drawn(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self._generator is None:
            self._generator = torch.Generator(scores.device)
            if self._seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(self._seed)
        if not scores.isfinite().any():
            raise NonFiniteError(NOT_FINITE)
        for shape in self._shapes:
            scores = shape(input_ids, scores)
        return torch.multinomial(scores.softmax(dim=-1), 1, generator=self._generator)


class _Emitter(StoppingCriteria):
    """Hands every token on once, and nothing after the last: on a GPU ``generate`` looks a token late whether to stop."""

    def __init__(self, chooser: _Chooser, ends: frozenset[int], emit: Callable[[Step], bool]) -> None:
        self._chooser, self._ends, self._emit = chooser, ends, emit
        self._done = False

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        if not self._done:
            step = self._chooser.step
            self._done = self._emit(step) or step.token in self._ends
        return torch.full((len(input_ids),), self._done, device=input_ids.device)


NOT_FINITE = "the model's logits are NaN or infinite"


def _steps(logits: torch.Tensor, tokens: torch.Tensor, top: int) -> Iterator[Step]:
    """Steps of logits of shape (positions, vocabulary) and the tokens in their place, shape (positions,).

    Raises:
        NonFiniteError: the log-probability of a token is NaN, as it is where any logit is NaN or positive infinity.
    """
    logprobs = logits.float().log_softmax(dim=-1)
    own = logprobs.gather(1, tokens.to(logits.device)[:, None])[:, 0].tolist()
    if any(map(math.isnan, own)):
        raise NonFiniteError(NOT_FINITE)
    values, ids = (found.tolist() for found in logprobs.topk(min(top, logprobs.shape[1]), dim=-1))
    for token, logprob, best, scores in zip(tokens.tolist(), own, ids, values, strict=True):
        yield Step(token, logprob, tuple(map(Candidate, best, scores)))


@torch.no_grad()
def prompt_steps(model: PreTrainedModel, prompt: Sequence[int], top: int = 0) -> list[Step]:
    """A prompt's own tokens with their log-probabilities, in one pass.

    Raises:
        NonFiniteError: the logits of a token are NaN or infinite.
    """
    kv_cache.forget(model)
    ids = torch.tensor(list(prompt), device=model.device)
    found = [Step(int(ids[0]), None)]
    if len(ids) > 1:
        logits = model(input_ids=ids[None, :-1], use_cache=False).logits[0]
        for part, tokens in zip(logits.split(SCORED_POSITIONS), ids[1:].split(SCORED_POSITIONS), strict=True):
            found += _steps(part, tokens, top)
    return found
