"""What GPTQModel computes with a folder of packed weights, by its kernel in plain torch on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from gptqmodel import BACKEND, GPTQModel

from bitzones.deploy.engines import Answering
from bitzones.schema.errors import ModelError

__all__ = ["opened"]


def opened(folder: Path, longest: int) -> Answering:  # other engines have to be told
    """The model in GPTQModel, in the dtype of its configuration.

    Raises:
        ModelError: GPTQModel does not load it.
    """
    try:
        model = GPTQModel.load(str(folder), device="cpu", backend=BACKEND.TORCH).model.eval()
    except (ValueError, RuntimeError, OSError, KeyError, TypeError, ImportError, AttributeError, NotImplementedError) as error:
        raise ModelError(f"{folder}: GPTQModel does not load this: {type(error).__name__}: {str(error)[:300]}") from error

    @torch.no_grad()
    def answer(token_ids: Sequence[int]) -> torch.Tensor:
        with torch.compiler.set_stance("force_eager"):  # it compiles each layer anew, which takes minutes
            logits: torch.Tensor = model(input_ids=torch.tensor([list(token_ids)]), use_cache=False).logits[0]
        return logits.float().log_softmax(-1)

    return answer
