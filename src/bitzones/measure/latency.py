"""How long prefill and decode take, as callables whose rounds pytest-benchmark times: what is set up stays outside the timed part.

Prompts are random tokens: the time does not depend on what they say. This module does not keep or judge times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from bitzones import profile
from bitzones.errors import NotMeasuredError
from bitzones.measure import cache as caches
from bitzones.measure import device as devices
from bitzones.measure import quantizers, structure
from bitzones.records import LatencyCell

__all__ = ["Timed", "cell", "decode", "kernels", "prefill", "prepare"]


@dataclass(frozen=True)
class Timed:
    """One phase: each round is ``run(*setup())`` with only ``run`` timed; ``tokens`` is what a round processes or produces."""

    setup: Callable[[], tuple[Any, ...]]
    run: Callable[..., Any]
    tokens: int
    kernels: dict[str, int]


def prepare(phase: Literal["prefill", "decode"], model: PreTrainedModel, shape: profile.Latency, seed: int) -> Timed:
    """The phase at the profile's shape.

    Raises:
        NotMeasuredError: the weights are packed and this machine unpacks them by a stand-in, whose time says nothing.
    """
    failure = quantizers.extension_failure()
    if failure is not None and any(quantizers.needs_unpacking(module) for module in model.modules()):
        raise NotMeasuredError(f"latency of packed weights: {failure}")
    if phase == "prefill":
        return prefill(model, shape.batch, shape.prompt_tokens, seed)
    return decode(model, shape.batch, shape.prompt_tokens, shape.new_tokens, seed)


def cell(variant: str, phase: Literal["prefill", "decode"], shape: profile.Latency, timed: Timed, rounds_s: Sequence[float]) -> LatencyCell:
    """The record of timed rounds."""
    return LatencyCell(
        variant=variant,
        phase=phase,
        batch=shape.batch,
        prompt_tokens=shape.prompt_tokens,
        tokens=timed.tokens,
        warmup_rounds=shape.warmup_rounds,
        rounds_s=tuple(rounds_s),
        kernels=timed.kernels,
    )


def kernels(model: PreTrainedModel) -> dict[str, int]:
    """How many linear modules of the decoder layers each kind of weight, and so each kernel, computes."""
    layers = structure.decoder_layers(model).values()
    linear = (m for layer in layers for m in layer.modules() if isinstance(m, torch.nn.Linear))
    return dict(Counter(quantizers.kernel(module) for module in linear))


def _prompt(model: PreTrainedModel, batch: int, length: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, model.config.vocab_size, (batch, length), generator=generator).to(model.device)


def prefill(model: PreTrainedModel, batch: int, prompt_tokens: int, seed: int) -> Timed:
    """Reading a prompt: the key-value cache filled and the logits of the next token, shape (batch, 1, vocabulary)."""
    ids = _prompt(model, batch, prompt_tokens, seed)

    @torch.no_grad()
    def run(ids: torch.Tensor) -> Any:
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        devices.synchronize(model.device)
        return out

    return Timed(lambda: (ids,), run, batch * prompt_tokens, kernels(model))


def decode(model: PreTrainedModel, batch: int, prompt_tokens: int, new_tokens: int, seed: int) -> Timed:
    """Writing ``new_tokens`` tokens greedily after a prompt that is already read, without an early stop."""
    read = prefill(model, batch, prompt_tokens, seed)

    def setup() -> tuple[Any, ...]:
        out = read.run(*read.setup())
        return caches.of_output(out), out.logits[:, -1:].argmax(-1)

    @torch.no_grad()
    def run(cache: Any, token: torch.Tensor) -> torch.Tensor:
        for _ in range(new_tokens):
            out = model(input_ids=token, use_cache=True, logits_to_keep=1, **caches.as_argument(model, cache))
            token = out.logits[:, -1:].argmax(-1)
        devices.synchronize(model.device)
        return token

    return Timed(setup, run, batch * new_tokens, read.kernels)
