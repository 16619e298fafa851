"""The only place that imports mlx: what mlx-lm makes of an exported folder."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from mlx_lm.utils import MODEL_REMAPPING, load_model
from transformers import PreTrainedModel

from bitzones.backends.quantizing import set_compute_dtype
from bitzones.backends.weights import packed_weights
from bitzones.deploy import fingerprint
from bitzones.deploy.engines import Answering
from bitzones.schema.errors import ModelError

__all__ = ["check", "check_architecture", "load", "log_probabilities", "opened"]

TOLERANCE_NATS = 1e-3
"""Largest |difference| of log-probabilities in float32 between two engines with the same weights. It was 1.4e-5 on the embedded model."""


def check_architecture(kind: str) -> None:
    """Refuse what mlx-lm has no model for.

    Raises:
        ModelError: there is none of this ``model_type``, under this name or another.
    """
    if not find_spec(f"mlx_lm.models.{MODEL_REMAPPING.get(kind, kind)}"):
        raise ModelError(f"mlx-lm has no architecture {kind!r}")


def load(folder: Path) -> Any:
    """The model as mlx-lm loads it, no tensor missing and none left over.

    Raises:
        ModelError: mlx-lm does not load it.
    """
    try:
        model, _ = load_model(folder, lazy=True, strict=True)
    except (ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
        raise ModelError(f"{folder}: mlx-lm does not load this: {type(error).__name__}: {str(error)[:300]}") from error
    return model


def log_probabilities(model: Any, token_ids: torch.Tensor) -> torch.Tensor:
    """Log-softmax over the vocabulary, nats, float32, shape (sequences, positions, vocabulary)."""
    logits = model(mx.array(token_ids.numpy())).astype(mx.float32)
    return torch.from_numpy(np.array(logits)).log_softmax(-1)


def opened(folder: Path, longest: int) -> Answering:  # other engines have to be told
    """The model in mlx, in the dtype of its own scales.

    Raises:
        ModelError: mlx-lm does not load it.
    """
    model = load(folder)
    return lambda token_ids: log_probabilities(model, torch.tensor([list(token_ids)]))[0]


def check(folder: Path, quantized: PreTrainedModel) -> float:
    """Compare an exported folder, loaded by mlx-lm, with the model that was exported; leaves that one in float32.

    Returns:
        Largest |difference| of log-probabilities on fixed tokens in float32, nats.

    Raises:
        ModelError: mlx-lm does not load it, a weight differs, or the two compute something else.
    """
    model = load(folder)
    model.set_dtype(mx.float32)
    modules = dict(model.named_modules())
    for name, weight in packed_weights(quantized).items():
        _compare(name, modules.get(name), weight.parts().values())
    set_compute_dtype(quantized, torch.float32)
    expected = fingerprint.answer(quantized, fingerprint.fixed_tokens(quantized))
    apart = float((log_probabilities(model, expected.token_ids) - expected.log_probabilities).abs().max())
    if not apart <= TOLERANCE_NATS:
        raise ModelError(
            f"mlx-lm computes something else than was quantized: log-probabilities up to {apart:.2g} nats off in float32, "
            f"and {TOLERANCE_NATS:g} is allowed; nothing was written"
        )
    return apart


def _compare(name: str, module: Any, expected: torch.Tensor) -> None:
    if module is None or "scales" not in module:
        raise ModelError(f"mlx-lm has no quantized module {name!r}: it gives this architecture other names; nothing was written")
    values = mx.dequantize(module.weight, module.scales, module.biases, module.group_size, module.bits)
    if not torch.equal(torch.from_numpy(np.array(values)), expected):
        raise ModelError(f"mlx-lm reads module {name!r} with other weights than were quantized; nothing was written")
