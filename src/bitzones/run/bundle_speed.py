"""How long a bundle's switches take, and how fast its plans write."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from time import perf_counter

import numpy as np
import torch
from transformers import PreTrainedModel

from bitzones.devices import device as devices
from bitzones.serve.cost_record import Switching
from bitzones.serve.served_model import ServedModel

__all__ = ["ONE_PLAN", "switching", "tokens_per_s"]

ONE_PLAN = "one plan"

SWITCHES = 1000
"""Enough for a 99th percentile from ten switches beyond it."""

PROMPT_TOKENS, NEW_TOKENS = 16, 32
"""A short prompt, so that a round is mostly steps of decoding."""

ROUNDS = 5
"""Their median ignores two that something else on the machine slowed down."""

_SEED = 0


def switching(served: ServedModel, modules: int, n: int = SWITCHES) -> Switching:
    """Time changes between random different plans; the plan before is restored.

    Args:
        served: of at least two plans.
        modules: the most that one switch changes, for the record.
        n: number of switches.
    """
    rng, before = random.Random(_SEED), served.task
    taken = []
    for _ in range(n):
        other = rng.choice([task for task in served.tasks if task != served.task])
        started = perf_counter()
        served.use(other)
        taken.append(perf_counter() - started)
    served.use(before)
    return Switching(n=n, median_s=statistics.median(taken), p99_s=float(np.quantile(taken, 0.99)), modules=modules)


def tokens_per_s(served: ServedModel, one: PreTrainedModel, prompt: Sequence[int]) -> dict[str, float]:
    """Plan -> tokens per second of greedy generation after the first tokens of a prompt.

    Plans take turns in every round, so that a machine that slows down slows all of them.
    """
    ids = torch.tensor([list(prompt[:PROMPT_TOKENS])], device=served.model.device)
    arms: dict[str, tuple[PreTrainedModel, Callable[[], AbstractContextManager[None]]]] = {
        name: (served.model, partial(served.precision, name)) for name in served.tasks
    }
    arms[ONE_PLAN] = (one, nullcontext)
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(ROUNDS + 1):
        for name, (model, within) in arms.items():
            with within():
                rate = _rate(model, ids)
            if number:  # the first round warms up
                rates[name].append(rate)
    return {name: statistics.median(found) for name, found in rates.items()}


def _rate(model: PreTrainedModel, ids: torch.Tensor) -> float:
    devices.synchronize(model.device)
    started = perf_counter()
    made = model.generate(  # type: ignore[operator]
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, pad_token_id=0
    )
    devices.synchronize(model.device)
    tokens: int = made.shape[1] - ids.shape[1]
    return tokens / (perf_counter() - started)
