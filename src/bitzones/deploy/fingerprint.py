"""A model's outputs for a few fixed tokens, to compare two models, or one model on two machines."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel

from bitzones.schema.errors import ModelError, NonFiniteError

__all__ = ["Answers", "DtypeName", "answer", "fixed_tokens"]

SEQUENCES, TOKENS, SEED = 2, 16, 0
"""Few enough that a large model answers on a CPU in minutes; every module takes part in each answer."""

DtypeName = Literal["bfloat16", "float16", "float32"]
_NAMES: dict[torch.dtype, DtypeName] = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32"}


@dataclass(frozen=True)
class Answers:
    """What a model answers to fixed tokens. ``logits`` has shape (sequences, positions, vocabulary).

    ``dtype`` is that of the arithmetic: some models compute in 16 bits and widen their logits (Mamba).
    """

    token_ids: torch.Tensor
    logits: torch.Tensor
    dtype: DtypeName

    @property
    def sha256(self) -> str:
        """Of the bits of all logits."""
        return hashlib.sha256(self.logits.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()

    @property
    def log_probabilities(self) -> torch.Tensor:
        """Log-softmax over the vocabulary, nats, float32."""
        return self.logits.float().log_softmax(-1)


def fixed_tokens(model: PreTrainedModel) -> torch.Tensor:
    """Token ids drawn with a fixed seed, shape (`SEQUENCES`, `TOKENS`)."""
    draw, vocabulary = random.Random(SEED), _vocabulary(model)
    return torch.tensor([[draw.randrange(vocabulary) for _ in range(TOKENS)] for _ in range(SEQUENCES)])


def _vocabulary(model: PreTrainedModel) -> int:
    """Rows of the embeddings: what a token id must be below. Some are wider than the tokenizer."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight.shape[0]


@torch.no_grad()  # not inference_mode, which breaks in quanto's autograd function (LOG.md)
def answer(model: PreTrainedModel, token_ids: torch.Tensor) -> Answers:
    """What the model computes, brought to the CPU.

    Raises:
        ModelError: a token id is not one of the model's, or the model does not run.
        NonFiniteError: a logit is NaN.
    """
    if int(token_ids.max()) >= _vocabulary(model):
        raise ModelError(f"token id {int(token_ids.max())} is not one of the model's")
    try:
        logits = model(input_ids=token_ids.to(model.device), use_cache=False).logits.cpu()
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        raise ModelError(f"the model does not run: {type(error).__name__}: {str(error)[:300]}") from error
    if logits.isnan().any():
        raise NonFiniteError("the quantized model computes NaN: its dtype may be too narrow, or the model is damaged")
    return Answers(token_ids, logits, _NAMES[model.dtype])
