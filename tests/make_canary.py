"""A canary record of a small language model of numpy: a bigram model whose next token depends on the last two."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np

from bitzones.monitor.deviation import deviation
from bitzones.schema.canary_record import CanaryPrompt, CanaryRecord, Predicted, TrafficRecord, TrafficSequence

VOCABULARY, PROMPTS, TOP, LENGTH = 60, 20, 20, 5

TEXTS = {token: f"t{token} " for token in range(VOCABULARY)} | {58: "same ", 59: "same "}
"""Two tokens are written alike."""


@cache
def _weights() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    return rng.normal(size=(VOCABULARY, VOCABULARY)) * 2, rng.normal(size=(VOCABULARY, VOCABULARY))


def predict(ids: tuple[int, ...], scale: float = 1.0, noise: np.random.Generator | None = None, size: float = 0.0) -> Mapping[int, float]:
    """Log-probabilities; ``scale`` multiplies one of the two weights, ``size`` is the deviation of noise on the logits."""
    first, second = _weights()
    logits = scale * first[ids[-1]] + second[ids[-2]]
    if noise is not None:
        logits = logits + size * noise.normal(size=VOCABULARY)
    found = logits - np.log(np.exp(logits).sum())
    return dict(enumerate(found.tolist()))


def encode(text: str) -> tuple[int, ...]:
    """The tokens of a text of `TEXTS`."""
    return (0, *(int(word[1:]) for word in text.split()))


def listed(values: Mapping[int, float], top: int = TOP) -> dict[int, float]:
    return dict(sorted(values.items(), key=lambda item: -item[1])[:top])


def record(prompts: int = PROMPTS, noise_nats: float = 1e-4) -> CanaryRecord:
    """What the model predicts after random prompts; its reference is the same with a scale of 1.02."""
    rng = np.random.default_rng(1)
    rows = [(0, *(int(token) for token in rng.integers(1, 58, size=LENGTH))) for _ in range(prompts)]
    return CanaryRecord(
        bitzones="0.1.0",
        made_at="2026-11-30T12:00:00+00:00",
        source="embedded:tiny",
        model_sha256="0" * 64,
        served="plan",
        dtype="float32",
        noise_dtype="bfloat16",
        top=TOP,
        seed=0,
        prompts=tuple(
            CanaryPrompt(
                prompt_ids=row,
                text="".join(TEXTS[token] for token in row[1:]),
                plan=predicted(predict(row)),
                reference=predicted(predict(row, 1.02)),
                noise_nats=noise_nats,
            )
            for row in rows
        ),
        tokens={str(token): (text, f"vocabulary{token}") for token, text in TEXTS.items()},
        kl_nats=0.04,
        kl_high_nats=0.05,
        traffic=TrafficRecord(
            sequences=tuple(
                TrafficSequence(
                    domain=("arc", "svamp")[n % 2], characters=80 + n, tokens=20 + n // 3, nll_nats=1 + n / 70, entropy_nats=2.0
                )
                for n in range(70)
            )
        ),
    )


def predicted(values: Mapping[int, float]) -> Predicted:
    found = listed(values)
    return Predicted(token_ids=tuple(found), logprobs=tuple(found.values()))


def mean_deviation(made: CanaryRecord, scale: float) -> float:
    """Of the model with another scale from the record, by hand."""
    numbers = [
        deviation(dict(zip(prompt.plan.token_ids, prompt.plan.logprobs, strict=True)), listed(predict(prompt.prompt_ids, scale)))
        for prompt in made.prompts
    ]
    return sum(numbers) / len(numbers)
