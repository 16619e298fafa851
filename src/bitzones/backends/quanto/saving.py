"""Saves quantized models in quanto's own layout, and loads them back."""

from __future__ import annotations

from pathlib import Path

import torch
from optimum import quanto
from optimum.quanto.nn import QModuleMixin
from optimum.quanto.tensor import WeightQBytesTensor
from safetensors import SafetensorError
from transformers import PreTrainedModel

from bitzones.backends import checkpoint_files
from bitzones.backends.quanto.extensions import extension_failure
from bitzones.backends.quanto.packing import as_stored
from bitzones.schema.errors import ModelError

__all__ = ["reload", "repack_as_reloaded", "save"]


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write a quantized model as quanto does: safetensors, ``config.json`` and ``quanto_qmap.json``, and a README.md where there is none.

    Tensors keep the names that the model's modules have: quanto's loader does not translate those of an original checkpoint.

    Raises:
        ModelError: no module of the model is quantized.
        OSError: the folder cannot be written.
    """
    try:
        with checkpoint_files.own_names(model):
            quanto.QuantizedModelForCausalLM(model).save_pretrained(folder)
        for file in sorted(folder.glob("*.safetensors")):
            checkpoint_files.align(file)
    except ValueError as error:
        raise ModelError(f"quanto cannot save the model: {str(error)[:300]}") from error


def reload(folder: Path) -> PreTrainedModel:
    """The model that ``QuantizedModelForCausalLM.from_pretrained(folder)`` gives anybody, on the CPU; no code in the folder is run.

    quanto loads with ``strict=False``: a tensor that no file holds is left with whatever was in memory. So every tensor of the model has to
    be in a file, and what comes back has to be compared, with `verify` and by what it computes.

    Raises:
        ModelError: quanto cannot load it, or no file holds one of the model's tensors.
    """
    extension_failure()
    try:
        model = quanto.QuantizedModelForCausalLM.from_pretrained(folder, trust_remote_code=False, local_files_only=True)._wrapped
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder}: quanto cannot load this: {str(error)[:300]}") from error
    assert isinstance(model, PreTrainedModel)
    if absent := checkpoint_files.not_in_files(model, folder):
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise ModelError(f"{folder}: no file holds the model's tensor {absent[0]!r}{more}: quanto would leave it with arbitrary values")
    for weight in (m.weight for m in model.modules() if isinstance(m, QModuleMixin) and isinstance(m.weight, WeightQBytesTensor)):
        if weight._data.data_ptr() % checkpoint_files.ALIGNMENT:  # files that were not aligned are read as they lie
            weight._data = weight._data.clone()
    return model.requires_grad_(requires_grad=False)


def repack_as_reloaded(model: torch.nn.Module) -> None:
    """Give every weight, in place, the packing that it has after a save and a `reload`, on the device where it is.

    A kernel's packing (TinyGemm) can lose a little of a shift each time it is made, where the values of a group lie on one side of zero. A
    model that was just quantized has been through it once, a reloaded one twice; after this both have.
    """
    for module in model.modules():
        if isinstance(module, QModuleMixin) and isinstance(module.weight, quanto.QTensor):
            device = module.weight.device
            module.weight = torch.nn.Parameter(as_stored(module.weight.data).to("cpu").optimize().to(device), requires_grad=False)
