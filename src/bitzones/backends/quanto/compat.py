"""Calls that work with every release of quanto, to find out what a release does.

`quantizers` checks what it does and needs a recent release. This module calls quanto the way any user would and reports the outcome, also
when it is not what was requested.
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
from bitzones.schema.formats import Format, format_bits

__all__ = ["SavingUnsupportedError", "quantize", "quantized_modules", "save_and_load", "stored_bytes"]

_OPTIMIZERS = {"hqq": "HqqOptimizer"}
"""Method of a format -> quanto's optimizer, for methods that are not the default of every release."""


class SavingUnsupportedError(NotMeasuredError):
    """This release cannot save transformers models."""


def quantize(model: PreTrainedModel, format_name: str, names: Sequence[str]) -> None:
    """Quantize the named modules in place and freeze the model.

    Raises:
        NotMeasuredError: this release lacks the format's optimizer.
    """
    options: dict[str, Any] = {"weights": getattr(quanto, f"qint{format_bits(format_name)}")}
    if (optimizer := _OPTIMIZERS.get(Format.of(format_name).method)) is not None:
        if not hasattr(quanto, optimizer):
            raise NotMeasuredError(f"this release of quanto has no {optimizer}")
        options["optimizer"] = getattr(quanto, optimizer)()
    if "include" in inspect.signature(quanto.quantize).parameters:
        quanto.quantize(model, include=list(names), **options)
    else:  # the first releases take modules instead of names
        quanto.quantize(model, modules=[model.get_submodule(name) for name in names], **options)
    quanto.freeze(model)


def quantized_modules(model: torch.nn.Module) -> list[str]:
    """Names of the modules whose weight is quantized."""
    return [name for name, module in model.named_modules() if isinstance(getattr(module, "weight", None), quanto.QTensor)]


def stored_bytes(model: torch.nn.Module) -> int:
    """Bytes of all tensors in the model's state dict, where quanto's weights are plain tensors; tied tensors count once."""
    tensors = {value.data_ptr(): value for value in model.state_dict().values() if isinstance(value, torch.Tensor)}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def save_and_load(model: PreTrainedModel, folder: Path) -> torch.nn.Module:
    """The model after quanto has saved it to a folder and loaded it back.

    Raises:
        SavingUnsupportedError: this release has no class for it.
        Exception: whatever quanto or transformers raise when it fails.
    """
    if (known := getattr(quanto, "QuantizedModelForCausalLM", None)) is None:
        raise SavingUnsupportedError("this release of quanto has no QuantizedModelForCausalLM, or it cannot be imported")
    known(model).save_pretrained(folder)
    loaded: torch.nn.Module = known.from_pretrained(folder)._wrapped
    return loaded.eval()
