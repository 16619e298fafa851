"""Where the decoder layers of a model lie that is too large for its GPU, and how they are run there.

Whatever is outside the layers lies on the run's device, and so does all that enters or leaves a layer: what walks over layers, keeps hidden
states or reads logits sees one device. A layer of another GPU is run on that one. A layer in the host's memory is run on the run's device,
where arithmetic is fast: its weights are brought for each call and dropped after it. accelerate's offloading does as much and leaves meta
tensors in the model meanwhile; here weights are real wherever they lie, to be swapped, rounded, quantized and deep-copied like any other.
This module does not know what is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from types import MethodType
from typing import Any

import torch
from accelerate.utils import send_to_device

from bitzones.backends.quanto import quantizers
from bitzones.devices import device as devices
from bitzones.models import structure
from bitzones.schema.errors import ModelError

__all__ = ["HOST", "Placement", "held_bytes", "is_spread", "lies_elsewhere", "needed_bytes", "of", "place", "planned", "rooms", "said"]

Placement = Mapping[str, torch.device]
"""Name of a decoder layer -> where its weights lie."""

HOST = torch.device("cpu")

RESERVED = 0.2
"""Share of what a GPU has free that is left for logits, keys and values, and whatever else a batch makes."""


def rooms(device: torch.device, held_bytes: int = 0) -> dict[torch.device, int]:
    """Bytes that may be filled: of the run's GPU, then of every other one, then of the host, which holds so many bytes of the model now."""
    gpus = {gpu: int(devices.free_bytes(gpu) * (1 - RESERVED)) for gpu in devices.gpus(device)}
    return {**gpus, HOST: devices.free_bytes(HOST) + held_bytes}


def needed_bytes(module: torch.nn.Module, formats: Sequence[str], copies: float = 1.0) -> int:
    """What a layer takes during a run.

    That is its weights, the same packed in every format, in the widest of them once more, which is the variant that runs, and dense as the
    search gives them back (`bitzones.sensitivity.sweep`).

    Args:
        module: not quantized.
        formats: beside the reference.
        copies: how often the weights lie there as they are, in bytes as stored: above 1 where the reference computes in another type.
    """
    weights = [inner.get_parameter("weight") for inner in module.modules() if quantizers.is_quantizable(inner)]
    packed = [sum(quantizers.expected_bytes(w.shape[0], w.shape[1], w.dtype, name) for w in weights) for name in formats]
    again = sum(w.nbytes for w in weights) if formats else 0
    return int(copies * (held_bytes(module) + again)) + sum(packed) + max(packed, default=0)


def held_bytes(module: torch.nn.Module) -> int:
    """Of its weights and buffers, tied ones once."""
    return sum({id(tensor): tensor.nbytes for tensor in (*module.parameters(), *module.buffers())}.values())


def planned(model: torch.nn.Module, room: Mapping[torch.device, int], formats: Sequence[str] = (), copies: float = 1.0) -> Placement:
    """Layers in their order, each on the first device that still has room: all on the run's own where they fit.

    Args:
        model: not quantized; may lie on the meta device.
        room: bytes of the run's device, of the others, and of the host, in the order in which they are filled.
        formats: as in `needed_bytes`.
        copies: likewise.

    Raises:
        ModelError: it does not fit on all of them together.
    """
    device, *_ = room
    layers = structure.decoder_layers(model)
    sizes = {name: needed_bytes(layer, formats, copies) for name, layer in layers.items()}
    outside = int((copies + bool(formats)) * (held_bytes(model) - sum(map(held_bytes, layers.values()))))  # every variant has its own
    total = outside + sum(sizes.values())
    if total <= room[device]:
        return dict.fromkeys(layers, device)
    left = {**room, device: room[device] - outside - max(map(held_bytes, layers.values()))}  # where a layer is brought to
    order, found = list(room) if left[device] >= 0 else [], {}
    for name, size in sizes.items():
        while order and left[order[0]] < size:
            order.pop(0)
        if not order:
            raise ModelError(_too_large(total, room))
        found[name] = order[0]
        left[order[0]] -= size
    return found


def _too_large(total: int, room: Mapping[torch.device, int]) -> str:
    has = ", ".join(f"{size / 1e9:.1f} GB on {_name(device)}" for device, size in room.items())
    return f"it takes {total / 1e9:.1f} GB with what is made of it in every format, and there is room for {has}: name fewer formats"


def _name(device: torch.device) -> str:
    return "the host" if device == HOST else str(device)


def place(model: torch.nn.Module, device: torch.device, placement: Placement) -> None:
    """Put every layer where it is to lie and all else on the run's device, in place; copies of the model are then run as it is.

    Raises:
        ModelError: a layer has no place: the layers of a model without weights were guessed, and wrongly.
    """
    layers = structure.decoder_layers(model)
    if strays := [name for name in layers if name not in placement]:
        raise ModelError(f"{strays[0]} is a decoder layer, and without weights {next(iter(placement), 'nothing')} was taken for the first")
    inside = {id(module) for layer in layers.values() for module in layer.modules()}
    for name, layer in layers.items():
        torch.nn.Module.to(layer, placement[name])
        if placement[name] != device:  # bound, so that a deep copy of the layer runs the copy
            vars(layer)["forward"] = MethodType(_brought if placement[name] == HOST else _sent, layer)
    for module in model.modules():
        if id(module) not in inside:
            module._apply(lambda tensor: tensor.to(device), recurse=False)


def of(model: torch.nn.Module) -> Placement:
    """Where each layer lies, read off its weights."""
    return {name: next(layer.parameters()).device for name, layer in structure.decoder_layers(model).items()}


def is_spread(model: torch.nn.Module) -> bool:
    """Whether some layers lie elsewhere than all else."""
    return any(map(lies_elsewhere, structure.decoder_layers(model).values()))


def lies_elsewhere(layer: torch.nn.Module) -> bool:
    """Whether a decoder layer's weights lie elsewhere than on the run's device."""
    return "forward" in vars(layer)


def said(model: torch.nn.Module) -> dict[str, str]:
    """Range of layers, both ends counted, -> device; empty where all lie together.

    Such as ``{"0-17": "cuda:0", "18-31": "cpu"}``.
    """
    if not is_spread(model):
        return {}
    found: dict[str, str] = {}
    for device, numbers in groupby(enumerate(of(model).values()), key=lambda pair: pair[1]):
        within = [number for number, _ in numbers]
        found[f"{within[0]}-{within[-1]}" if len(within) > 1 else str(within[0])] = str(device)
    return found


def _sent(layer: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The layer's own forward where its weights lie, on what is sent there; what comes out is sent back."""
    home = next(layer.parameters()).device
    out = type(layer).forward(layer, *send_to_device(args, home), **send_to_device(kwargs, home))
    return send_to_device(out, _entered(args, kwargs).device)


def _brought(layer: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The layer's own forward where its inputs are, with its weights brought there."""
    with _weights_at(layer, _entered(args, kwargs).device):
        return type(layer).forward(layer, *args, **kwargs)


def _entered(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
    hidden = args[0] if args else kwargs["hidden_states"]
    assert isinstance(hidden, torch.Tensor)
    return hidden


@contextmanager
def _weights_at(layer: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Other tensors in the place of the layer's own, and its own back afterwards: a graph that was built meanwhile keeps the others."""
    stores: list[dict[str, Any]] = [store for module in layer.modules() for store in (module._parameters, module._buffers)]
    own = [(store, name, tensor) for store in stores for name, tensor in store.items() if tensor is not None]
    try:
        for store, name, tensor in own:
            moved = tensor.detach().to(device)
            store[name] = torch.nn.Parameter(moved, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else moved
        yield
    finally:
        for store, name, tensor in own:
            store[name] = tensor
