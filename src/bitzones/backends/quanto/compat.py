"""Quanto in whatever release is installed: the few calls that every release has, and a word for what one of them lacks.

`quantizers` is the way to quantize, with its checks, and needs a recent release. This module is for finding out what a release does: it
asks as anybody would and reports what came out, also where that is not what was asked for. It does not know what is measured.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from optimum import quanto
from transformers import PreTrainedModel

from bitzones.schema.errors import NotMeasuredError
from bitzones.schema.profile import format_bits, format_optimizer

__all__ = ["SavingUnsupportedError", "quantize", "quantized_modules", "save_and_load", "stored_bytes"]

_OPTIMIZERS = {"hqq": "HqqOptimizer"}
"""Named in a format and not every release's default for its width."""


class SavingUnsupportedError(NotMeasuredError):
    """The release cannot save a model of transformers."""


def quantize(model: PreTrainedModel, format_name: str, names: Sequence[str]) -> None:
    """Quantize the named modules and freeze the model, in place.

    Raises:
        NotMeasuredError: the release does not have the format's optimizer.
    """
    options: dict[str, Any] = {"weights": getattr(quanto, f"qint{format_bits(format_name)}")}
    if (optimizer := _OPTIMIZERS.get(format_optimizer(format_name))) is not None:
        if not hasattr(quanto, optimizer):
            raise NotMeasuredError(f"this release of quanto has no {optimizer}")
        options["optimizer"] = getattr(quanto, optimizer)()
    if "include" in inspect.signature(quanto.quantize).parameters:
        quanto.quantize(model, include=list(names), **options)
    else:  # the first releases took the modules themselves
        quanto.quantize(model, modules=[model.get_submodule(name) for name in names], **options)
    quanto.freeze(model)


def quantized_modules(model: torch.nn.Module) -> list[str]:
    """Names of the modules whose weight came out quantized."""
    return [name for name, module in model.named_modules() if isinstance(getattr(module, "weight", None), quanto.QTensor)]


def stored_bytes(model: torch.nn.Module) -> int:
    """Bytes of every tensor that a file of the model would hold, tied ones once: in a state dict quanto's weights are plain tensors."""
    tensors = {value.data_ptr(): value for value in model.state_dict().values() if isinstance(value, torch.Tensor)}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def save_and_load(model: PreTrainedModel, folder: Path) -> torch.nn.Module:
    """The model as it comes back from a folder that quanto wrote.

    Raises:
        SavingUnsupportedError: the release has no class for it.
        Exception: whatever quanto and transformers raise where it does not work.
    """
    if (known := getattr(quanto, "QuantizedModelForCausalLM", None)) is None:
        raise SavingUnsupportedError("this release of quanto has no QuantizedModelForCausalLM, or it cannot be imported")
    known(model).save_pretrained(folder)
    loaded: torch.nn.Module = known.from_pretrained(folder)._wrapped
    return loaded.eval()
