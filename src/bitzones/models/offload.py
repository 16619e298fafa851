"""Places the decoder layers of a model that is too large for its GPU on other GPUs or in host memory, and runs them from there.

Everything outside the layers is on the run's device, and so are the inputs and outputs of every layer, so that code that iterates over
layers, keeps hidden states or reads logits sees one device. A layer on another GPU runs there. A layer in host memory runs on the run's
device: its weights are copied there for each call and dropped afterwards. accelerate's offloading works the same way but leaves meta
tensors in the model between calls; here weights are always real tensors that can be swapped, rounded, quantized and deep-copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from types import MethodType
from typing import Any

import torch
from accelerate.utils import send_to_device

from bitzones.backends.linear import is_quantizable
from bitzones.backends.quantizing import expected_bytes
from bitzones.devices import device as devices
from bitzones.models import structure
from bitzones.schema.errors import ModelError

__all__ = [
    "HOST",
    "Placement",
    "entered",
    "held_bytes",
    "is_spread",
    "lies_elsewhere",
    "needed_bytes",
    "of",
    "place",
    "planned",
    "rooms",
    "said",
    "weights_at",
    "whole_bytes",
]

Placement = Mapping[str, torch.device]
"""Name of a decoder layer -> device of its weights."""

HOST = torch.device("cpu")

RESERVED = 0.2
"""Share of a GPU's free memory that is kept for logits, keys and values, and other activations of a batch."""


def rooms(device: torch.device, held_bytes: int = 0) -> dict[torch.device, int]:
    """Bytes available for weights on the run's GPU, on every other GPU, and on the host, which now holds ``held_bytes`` of the model."""
    gpus = {gpu: int(devices.free_bytes(gpu) * (1 - RESERVED)) for gpu in devices.gpus(device)}
    return {**gpus, HOST: devices.free_bytes(HOST) + held_bytes}


def needed_bytes(module: torch.nn.Module, formats: Sequence[str], copies: float = 1.0) -> int:
    """Memory that a layer needs during a run.

    These are its weights; the same packed in every format; once more in the largest format, for the variant that runs; and dense once more
    for the search (`bitzones.sensitivity.sweep`).

    Args:
        module: an unquantized layer.
        formats: formats beside the reference.
        copies: memory of the dense weights as a multiple of their stored bytes: above 1 if the reference computes in another dtype.
    """
    weights = [inner.get_parameter("weight") for inner in module.modules() if is_quantizable(inner)]
    packed = [sum(expected_bytes(w.shape[0], w.shape[1], w.dtype, name) for w in weights) for name in formats]
    again = sum(w.nbytes for w in weights) if formats else 0
    return int(copies * (held_bytes(module) + again)) + sum(packed) + max(packed, default=0)


def held_bytes(module: torch.nn.Module) -> int:
    """Bytes of a module's weights and buffers; tied ones count once."""
    return sum({id(tensor): tensor.nbytes for tensor in (*module.parameters(), *module.buffers())}.values())


def planned(model: torch.nn.Module, room: Mapping[torch.device, int], formats: Sequence[str] = (), copies: float = 1.0) -> Placement:
    """A placement that fills the devices in order with the layers in order; all layers are on the run's device if they fit.

    Args:
        model: an unquantized model, which may be on the meta device.
        room: bytes available on the run's device, the others and the host, in the order in which they are filled.
        formats: as in `needed_bytes`.
        copies: as in `needed_bytes`.

    Raises:
        ModelError: the model does not fit on all devices together.
    """
    device, *_ = room
    layers = structure.decoder_layers(model)
    sizes = {name: needed_bytes(layer, formats, copies) for name, layer in layers.items()}
    outside = _outside_bytes(model, layers, formats, copies)
    total = outside + sum(sizes.values())
    if total <= room[device]:
        return dict.fromkeys(layers, device)
    left = {**room, device: room[device] - outside - max(map(held_bytes, layers.values()))}  # room for one offloaded layer
    order, found = list(room) if left[device] >= 0 else [], {}
    for name, size in sizes.items():
        while order and left[order[0]] < size:
            order.pop(0)
        if not order:
            raise ModelError(_too_large(total, room))
        found[name] = order[0]
        left[order[0]] -= size
    return found


def whole_bytes(model: torch.nn.Module, formats: Sequence[str] = (), copies: float = 1.0) -> int:
    """Memory that all of a model needs during a run, arguments as in `needed_bytes`."""
    layers = structure.decoder_layers(model)
    inside = sum(needed_bytes(layer, formats, copies) for layer in layers.values())
    return _outside_bytes(model, layers, formats, copies) + inside


def _outside_bytes(model: torch.nn.Module, layers: Mapping[str, torch.nn.Module], formats: Sequence[str], copies: float) -> int:
    """What lies outside the layers, of which every variant has a copy."""
    return int((copies + bool(formats)) * (held_bytes(model) - sum(map(held_bytes, layers.values()))))


def _too_large(total: int, room: Mapping[torch.device, int]) -> str:
    has = ", ".join(f"{size / 1e9:.1f} GB on {_name(device)}" for device, size in room.items())
    return f"it needs {total / 1e9:.1f} GB with a copy in every format, and there is room for {has}: use fewer formats"


def _name(device: torch.device) -> str:
    return "the host" if device == HOST else str(device)


def place(model: torch.nn.Module, device: torch.device, placement: Placement) -> None:
    """Move every layer to its device and everything else to the run's device, in place; copies of the model keep this behavior.

    Raises:
        ModelError: a layer has no device, because the layers of a model without weights were guessed wrongly.
    """
    layers = structure.decoder_layers(model)
    if strays := [name for name in layers if name not in placement]:
        raise ModelError(f"{strays[0]} is a decoder layer, and without weights {next(iter(placement), 'nothing')} was taken for the first")
    inside = {id(module) for layer in layers.values() for module in layer.modules()}
    for name, layer in layers.items():
        torch.nn.Module.to(layer, placement[name])
        if placement[name] != device:  # a bound method, so that a deep copy of the layer runs the copy
            vars(layer)["forward"] = MethodType(_brought if placement[name] == HOST else _sent, layer)
    for module in model.modules():
        if id(module) not in inside:
            module._apply(lambda tensor: tensor.to(device), recurse=False)


def of(model: torch.nn.Module) -> Placement:
    """The device of each layer, read off its weights."""
    return {name: next(layer.parameters()).device for name, layer in structure.decoder_layers(model).items()}


def is_spread(model: torch.nn.Module) -> bool:
    """Whether some layers are not on the run's device."""
    return any(map(lies_elsewhere, structure.decoder_layers(model).values()))


def lies_elsewhere(layer: torch.nn.Module) -> bool:
    """Whether a decoder layer's weights are not on the run's device."""
    return "forward" in vars(layer)


def said(model: torch.nn.Module) -> dict[str, str]:
    """Inclusive range of layers -> device, such as ``{"0-17": "cuda:0", "18-31": "cpu"}``; empty if all are on one device."""
    if not is_spread(model):
        return {}
    found: dict[str, str] = {}
    for device, numbers in groupby(enumerate(of(model).values()), key=lambda pair: pair[1]):
        within = [number for number, _ in numbers]
        found[f"{within[0]}-{within[-1]}" if len(within) > 1 else str(within[0])] = str(device)
    return found


def _sent(layer: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run the layer on the device of its weights: send the inputs there and the outputs back."""
    home = next(layer.parameters()).device
    out = type(layer).forward(layer, *send_to_device(args, home), **send_to_device(kwargs, home))
    return send_to_device(out, entered(args, kwargs).device)


def _brought(layer: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run the layer on the device of its inputs: copy the weights there."""
    device = entered(args, kwargs).device
    with weights_at(layer, lambda tensor: tensor.to(device)):
        return type(layer).forward(layer, *args, **kwargs)


def entered(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """The hidden states that a layer is called with."""
    hidden = args[0] if args else kwargs["hidden_states"]
    assert isinstance(hidden, torch.Tensor)
    return hidden


@contextmanager
def weights_at(layer: torch.nn.Module, bring: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Within the block, the layer's tensors are what ``bring`` gives for them. An autograd graph that is built meanwhile keeps these."""
    stores: list[dict[str, Any]] = [store for module in layer.modules() for store in (module._parameters, module._buffers)]
    own = [(store, name, tensor) for store in stores for name, tensor in store.items() if tensor is not None]
    try:
        for store, name, tensor in own:
            moved = bring(tensor.detach())
            store[name] = torch.nn.Parameter(moved, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else moved
        yield
    finally:
        for store, name, tensor in own:
            store[name] = tensor
