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
from dataclasses import dataclass
from functools import partial
from itertools import groupby
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

__all__ = ["computing", "is_streamed", "let_go", "map_layers", "on_host", "other_dtypes", "refuse", "resident"]

_STORED = "_bitzones_streamed"
"""Attribute of a model whose layers are streamed: the dtype in which they are stored. A copy keeps it."""

_PLACES, _RESIDENT, _FORWARD = "_bitzones_places", "_bitzones_resident", "forward"
"""Attributes of a layer: where its matrices are, whether they are in memory, and what runs it."""

_NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
"""What safetensors calls the dtypes of a profile."""


def other_dtypes(files: Sequence[Path], dtype: torch.dtype) -> list[str]:
    """The dtypes of matrices in some safetensors, other than the one asked for: reading these makes copies of them."""
    found = {info.dtype for file in files for info in parse_local_safetensors_file_metadata(file).tensors.values() if len(info.shape) > 1}
    return sorted(found - {_NAMES[dtype]})


def on_host(model: torch.nn.Module) -> Placement:
    """The placement of layers that are to be mapped."""
    return dict.fromkeys(structure.decoder_layers(model), HOST)


@dataclass
class _Mapped:
    """Where a layer's matrices are: parameter of the layer -> file and name there, and the address at which it is mapped now."""

    places: dict[str, tuple[Path, str]]
    addresses: dict[str, int]


def map_layers(model: PreTrainedModel, files: Sequence[Path]) -> None:
    """Map every matrix of the decoder layers from its file, in place, and bring the layers into memory only while they run.

    Args:
        model: as read from these files, in the dtype in which they store it.
        files: safetensors.

    Raises:
        ModelError: a matrix of a layer does not stand in the files as the model computes with it, as fused experts do not, or has
            another name there.
    """
    stored = {name: (file, info) for file in files for name, info in parse_local_safetensors_file_metadata(file).tensors.items()}
    for name, layer in structure.decoder_layers(model).items():
        places = {}
        for inner, parameter in layer.named_parameters():
            key = _spelled(model, f"{name}.{inner}", stored)
            if parameter.ndim == 1:
                parameter.data = parameter.data.clone()  # what transformers mapped is let go
            elif key is None or tuple(stored[key][1].shape) != parameter.shape or stored[key][1].dtype != _NAMES[parameter.dtype]:
                raise ModelError(
                    f"its layers cannot be streamed: {name}.{inner} is {tuple(parameter.shape)} in {_NAMES[parameter.dtype]}, and its "
                    "files hold no such tensor: transformers renames it, or puts it together from others, when it reads the model"
                )
            else:
                places[inner] = stored[key][0], key
        vars(layer)[_PLACES] = _Mapped(places, {inner: layer.get_parameter(inner).data_ptr() for inner in places})
        let_go(layer)
    vars(model)[_STORED] = model.dtype
    _stream(model, model.dtype)


def let_go(layer: torch.nn.Module) -> None:
    """Map a streamed layer anew, so that its pages that were read do not count as this process's memory any longer."""
    mapped: _Mapped | None = vars(layer).get(_PLACES)
    if mapped is None or vars(layer).get(_RESIDENT):
        return
    for file, places in groupby(mapped.places.items(), key=lambda item: item[1][0]):
        with safe_open(file, framework="pt") as tensors:
            for inner, (_, key) in places:
                parameter = layer.get_parameter(inner)
                if parameter.data_ptr() == mapped.addresses[inner]:  # else it is swapped for another at present
                    parameter.data = tensors.get_tensor(key)
                    mapped.addresses[inner] = parameter.data_ptr()


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
    """A copy of a streamed model that computes in ``dtype``; the weights of its layers are the same ones."""
    stored = vars(model)[_STORED]
    layers = structure.decoder_layers(model).values()
    shared = [*(weight for layer in layers for weight in layer.parameters()), *(vars(layer)[_PLACES] for layer in layers)]
    made: PreTrainedModel = copy.deepcopy(model, {id(item): item for item in shared})
    inside = {id(module) for layer in structure.decoder_layers(made).values() for module in layer.modules()}
    for module in made.modules():
        if id(module) not in inside:
            module._apply(_cast(stored, dtype), recurse=False)
    _stream(made, dtype)
    made.eval()
    return made


def _cast(stored: torch.dtype, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    """Cast what has the stored dtype; what a model keeps wider stays that wide (`quantizing.set_compute_dtype`)."""
    return lambda tensor: tensor.to(dtype) if tensor.dtype == stored else tensor


def _stream(model: PreTrainedModel, dtype: torch.dtype) -> None:
    for layer in structure.decoder_layers(model).values():  # a bound method, so that a deep copy of the layer runs the copy
        vars(layer)[_FORWARD] = MethodType(partial(_run, vars(model)[_STORED], dtype), layer)


def _run(stored: torch.dtype, dtype: torch.dtype, layer: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run a layer where its inputs are; one that is resident is there already."""
    with _brought(layer, stored, dtype, entered(args, kwargs).device):
        return type(layer).forward(layer, *args, **kwargs)


@contextmanager
def _brought(layer: torch.nn.Module, stored: torch.dtype, dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    if vars(layer).get(_RESIDENT):
        yield
        return
    cast = _cast(stored, dtype)
    try:
        with weights_at(layer, lambda tensor: cast(tensor.to(device))):
            vars(layer)[_RESIDENT] = True
            yield
    finally:
        vars(layer).pop(_RESIDENT, None)
        let_go(layer)


@contextmanager
def resident(model: torch.nn.Module, layer: torch.nn.Module) -> Iterator[None]:
    """Within the block, a layer of a streamed model has weights in memory, ready to compute; of another model it has them anyway."""
    if not isinstance(model, PreTrainedModel) or not is_streamed(model):
        yield
        return
    stored, dtype = vars(layer)[_FORWARD].__func__.args
    with _brought(layer, stored, dtype, next(model.get_input_embeddings().parameters()).device):
        yield
