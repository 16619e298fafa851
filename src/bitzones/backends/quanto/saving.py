"""Saves quantized models in quanto's layout and loads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from optimum import quanto
from optimum.quanto.nn import QModuleMixin
from optimum.quanto.tensor import WeightQBytesTensor
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel

from bitzones.backends import checkpoint_files
from bitzones.backends.quanto.extensions import extension_failure
from bitzones.backends.quanto.packing import as_stored
from bitzones.schema.errors import ModelError

__all__ = ["check_reloadable", "read_module", "reload", "repack_as_reloaded", "save"]


def check_reloadable(model: PreTrainedModel) -> None:
    """See that quanto's loader makes a model of this class from its configuration: it asks for causal models only.

    Raises:
        ModelError: it makes none, or one of another class.
    """
    found: Any = AutoModelForCausalLM._model_mapping.get(type(model.config), ())
    if type(model) not in (found if isinstance(found, tuple | list) else (found,)):
        raise ModelError(
            f"quanto's loader makes no {type(model).__name__} from a checkpoint, only causal models of text; "
            "bitzones.apply quantizes it in memory"
        )


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write a quantized model in quanto's layout: safetensors, ``config.json``, ``quanto_qmap.json``, and a README.md if there is none.

    Tensors keep the names of the model's modules, because quanto's loader does not translate names of an original checkpoint.

    Raises:
        ModelError: the model has no quantized module.
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
    """Load a folder with ``QuantizedModelForCausalLM.from_pretrained``, on the CPU and without running code from the folder.

    quanto loads with ``strict=False``, which leaves a tensor that is in no file uninitialized. So every tensor must be in a file, and the
    result must be compared with `verify` and by its outputs.

    Raises:
        ModelError: quanto cannot load it, or a tensor of the model is in no file.
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
        if weight._data.data_ptr() % checkpoint_files.ALIGNMENT:  # a file that `align` did not write
            weight._data = weight._data.clone()
    return model.requires_grad_(requires_grad=False)


def repack_as_reloaded(model: torch.nn.Module) -> None:
    """Give every weight, in place and on its device, the packing that it has after saving and `reload`.

    TinyGemm's packing can lose some bits of a shift each time, if all values of a group have the same sign. A freshly quantized model has
    been packed once, a reloaded one twice; after this call both have been packed twice.
    """
    for module in model.modules():
        if isinstance(module, QModuleMixin) and isinstance(module.weight, quanto.QTensor):
            device = module.weight.device
            module.weight = torch.nn.Parameter(as_stored(module.weight.data).to("cpu").optimize().to(device), requires_grad=False)


def read_module(like: torch.nn.Module, tensors: Mapping[str, torch.Tensor], bits: int) -> torch.nn.Module:
    """A frozen module from tensors of a checkpoint; see `bitzones.backends.backend_protocol.Checkpoints.read_module`.

    quanto itself sets the weight, as it does when it loads a whole model, so that the packing is the same.
    """
    assert isinstance(like, torch.nn.Linear)
    dtype = tensors["input_scale"].dtype if "input_scale" in tensors else like.weight.dtype
    bias = like._parameters["bias"]
    empty = torch.nn.Linear(like.in_features, like.out_features, bias=bias is not None, device="meta", dtype=dtype)
    made: torch.nn.Module = quanto.QLinear.from_module(empty, weights=f"qint{bits}")
    given = {**tensors, **({} if bias is None else {"bias": bias})}
    try:
        left = made.load_state_dict(given, strict=False, assign=True)
    except (KeyError, ValueError, RuntimeError, AssertionError) as error:
        shape = f"{like.out_features} x {like.in_features}"
        raise ModelError(f"its tensors make no qint{bits} weight of {shape}: {str(error)[:300]}") from error
    if odd := left.missing_keys or sorted(given.keys() ^ made.state_dict().keys()):
        raise ModelError(f"its tensors are not those of a qint{bits} module: {odd[0]!r} is missing or has no place")
    return made.eval().requires_grad_(requires_grad=False)
