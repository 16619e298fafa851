"""What plain transformers computes with an exported folder: a GGUF read back dense, or compressed-tensors by that package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GgufConfig

from bitzones.deploy.engines import Answering
from bitzones.deploy.gguf_file import FILE
from bitzones.schema.errors import ModelError

__all__ = ["opened"]


def opened(folder: Path, longest: int) -> Answering:  # other engines have to be told
    """The model in transformers, float32 where it comes from a GGUF.

    Raises:
        ModelError: transformers does not load it.
    """
    options: dict[str, Any] = {"local_files_only": True}
    if (folder / FILE).is_file():
        options |= {"gguf_file": FILE, "dtype": torch.float32, "quantization_config": GgufConfig(dequantize=True)}
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    except (ValueError, RuntimeError, OSError, KeyError, TypeError, ImportError, AttributeError) as error:
        raise ModelError(f"{folder}: transformers does not load this: {type(error).__name__}: {str(error)[:300]}") from error

    @torch.no_grad()
    def answer(token_ids: Sequence[int]) -> torch.Tensor:
        logits: torch.Tensor = model(input_ids=torch.tensor([list(token_ids)]), use_cache=False).logits[0]
        return logits.float().log_softmax(-1)

    return answer
