"""Runs a model whose decoder layers stay in their files, because it is larger than memory.

The layers' weights are mapped from safetensors as they are stored: the operating system reads a page when it is used and drops it when
memory is short. What computes is a copy of one layer's weights in the compute dtype, made when the layer is entered and freed when it is
left (`resident`). accelerate's offloading to disk works layer by layer too, but leaves meta tensors in the model between calls, which have
no bytes to count, round or hash. Everything outside the layers is in memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from huggingface_hub import parse_local_safetensors_file_metadata
from safetensors import safe_open
from transformers import PreTrainedModel

from bitzones.models import structure
from bitzones.models.offload import HOST, Placement, entered, weights_at
from bitzones.schema.errors import ModelError, NotMeasuredError

__all__ = ["computing", "is_streamed", "map_layers", "on_host", "other_dtypes", "refuse", "resident"]

_STORED = "_bitzones_streamed"
"""Attribute of a model whose layers are streamed: the dtype in which they are stored. A copy keeps it."""

_NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
"""What safetensors calls the dtypes of a profile."""


def other_dtypes(files: Sequence[Path], dtype: torch.dtype) -> list[str]:
    """The dtypes of matrices in some safetensors, other than the one asked for: reading these makes copies of them."""
    found = {info.dtype for file in files for info in parse_local_safetensors_file_metadata(file).tensors.values() if len(info.shape) > 1}
    return sorted(found - {_NAMES[dtype]})


def on_host(model: torch.nn.Module) -> Placement:
    """The placement of layers that are to be mapped."""
    return dict.fromkeys(structure.decoder_layers(model), HOST)


def map_layers(model: PreTrainedModel, files: Sequence[Path]) -> None:
    """Map every matrix of the decoder layers from its file, in place, and bring the layers into memory only while they run.

    Args:
        model: as read from these files, in the dtype in which they store it.
        files: safetensors.

    Raises:
        ModelError: a matrix of a layer does not stand in the files as the model computes with it, as fused experts do not, or has
            another name there.
    """
    inside = {
        f"{layer}.{name}": p for layer in structure.decoder_layers(model) for name, p in model.get_submodule(layer).named_parameters()
    }
    matrices = {name: parameter for name, parameter in inside.items() if parameter.ndim > 1}
    for file in files:  # each is mapped once for all of its tensors, and what transformers mapped is let go
        with safe_open(file, framework="pt") as mapped:
            stored = set(mapped.keys())
            places = {name: place for name in matrices if (place := _spelled(model, name, stored))}
            for name, place in places.items():
                found = mapped.get_tensor(place)
                if found.shape == matrices[name].shape and found.dtype == matrices[name].dtype:
                    matrices.pop(name).data = found
    if matrices:
        name, parameter = next(iter(matrices.items()))
        raise ModelError(
            f"its layers cannot be streamed: {name} is {tuple(parameter.shape)} in {str(parameter.dtype).removeprefix('torch.')}, and its "
            "files hold no such tensor: transformers renames it, or puts it together from others, when it reads the model"
        )
    for parameter in inside.values():
        if parameter.ndim == 1:
            parameter.data = parameter.data.clone()
    vars(model)[_STORED] = model.dtype
    _stream(model, model.dtype)


def _spelled(model: PreTrainedModel, name: str, stored: Container[str]) -> str | None:
    """A weight's name in a file, which may leave the prefix of the base model out; None where it is not there."""
    prefix = f"{model.base_model_prefix}."
    return next((spelled for spelled in (name, name.removeprefix(prefix), prefix + name) if spelled in stored), None)


def is_streamed(model: torch.nn.Module) -> bool:
    """Whether a model's layers are streamed from their files."""
    return _STORED in vars(model)


def refuse(model: torch.nn.Module, what: str) -> None:
    """Refuse a measurement that needs a whole model in memory.

    Raises:
        NotMeasuredError: the model is streamed.
    """
    if is_streamed(model):
        raise NotMeasuredError(
            f"{what} needs the whole model in memory, and its layers are streamed from their files: sensitivities and plans are measured"
        )


def computing(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy of a streamed model that computes in ``dtype``; its layers are in the same files."""
    stored = vars(model)[_STORED]
    layers = structure.decoder_layers(model).values()
    mapped = {id(weight): torch.nn.Parameter(weight.data, requires_grad=False) for layer in layers for weight in layer.parameters()}
    made = copy.deepcopy(model, mapped)
    inside = {id(module) for layer in structure.decoder_layers(made).values() for module in layer.modules()}
    for module in made.modules():
        if id(module) not in inside:
            module._apply(_cast(stored, dtype), recurse=False)
    _stream(made, dtype)
    return made.eval()


def _cast(stored: torch.dtype, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    """Cast what has the stored dtype; what a model keeps wider stays that wide (`quantizing.set_compute_dtype`)."""
    return lambda tensor: tensor.to(dtype) if tensor.dtype == stored else tensor


def _stream(model: PreTrainedModel, dtype: torch.dtype) -> None:
    for layer in structure.decoder_layers(model).values():  # a bound method, so that a deep copy of the layer runs the copy
        vars(layer)["forward"] = MethodType(partial(_run, vars(model)[_STORED], dtype), layer)


def _run(stored: torch.dtype, dtype: torch.dtype, layer: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run a layer where its inputs are; one that is resident already is not copied again."""
    with weights_at(layer, _bring(stored, dtype, entered(args, kwargs).device)):
        return type(layer).forward(layer, *args, **kwargs)


def _bring(stored: torch.dtype, dtype: torch.dtype, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    cast = _cast(stored, dtype)
    return lambda tensor: cast(tensor.to(device))


@contextmanager
def resident(model: torch.nn.Module, layer: torch.nn.Module) -> Iterator[None]:
    """Within the block, a layer of a streamed model has weights in memory, ready to compute; of another model it has them anyway."""
    forward = vars(layer).get("forward")
    if not is_streamed(model) or forward is None:
        yield
        return
    outside = next(model.get_input_embeddings().parameters()) if isinstance(model, PreTrainedModel) else next(model.parameters())
    stored, dtype = forward.__func__.args
    with weights_at(layer, _bring(stored, dtype, outside.device)):
        yield
