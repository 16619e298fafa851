"""The only place that imports llama_cpp: what llama.cpp computes with an exported GGUF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from llama_cpp import Llama

from bitzones.deploy.engines import Answering
from bitzones.deploy.gguf_file import FILE
from bitzones.schema.errors import ModelError

__all__ = ["opened"]


def opened(folder: Path, longest: int) -> Answering:
    """The model in llama.cpp, on the CPU or where it was built for.

    Raises:
        ModelError: llama.cpp does not load it.
    """
    try:
        llama = Llama(str(folder / FILE), n_ctx=longest, n_batch=longest, logits_all=True, verbose=False)
    except (ValueError, RuntimeError, OSError) as error:
        raise ModelError(f"{folder / FILE}: llama.cpp does not load this: {str(error)[:300]}") from error

    def answer(token_ids: Sequence[int]) -> torch.Tensor:
        llama.reset()
        llama.eval(list(token_ids))
        return torch.from_numpy(np.array(llama.scores[: len(token_ids)], dtype=np.float32)).log_softmax(-1)

    return answer
