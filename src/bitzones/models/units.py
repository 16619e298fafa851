"""The units of decision, found by structure: a decoder layer, a group of modules that serving engines fuse, or one module.

A plan that gives ``q`` and ``k`` of a layer different formats cannot be served with fused modules, so the granularity is configurable.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Literal, TypeAlias

import torch
from transformers import PreTrainedModel

from bitzones.models import streamed_weights, structure
from bitzones.schema.errors import ModelError
from bitzones.schema.sensitivity_cells import Unit

__all__ = ["Granularity", "fused_groups", "model_units"]

Granularity: TypeAlias = Literal["layer", "group", "module"]


def model_units(
    model: PreTrainedModel, granularity: Granularity = "layer", layers: Collection[int] | None = None, include: Sequence[str] = ()
) -> tuple[Unit, ...]:
    """The units of a model, in its order; ``reference_bytes`` are in the model's own dtype.

    Args:
        model: an unquantized model.
        granularity: ``layer``: all modules of a decoder layer; ``group``: modules that serving engines fuse (`fused_groups`); ``module``.
        layers: numbers of the decoder layers to include; all if None.
        include: modules outside the layers, each a unit after them (`structure.head`).

    Raises:
        ModelError: there is no layer of a given number, or nothing in these layers can be quantized.
    """
    return (*_inside(model, granularity, layers), *(_unit(model, name, None, None, (name,)) for name in include))


def _inside(model: PreTrainedModel, granularity: Granularity, layers: Collection[int] | None) -> tuple[Unit, ...]:
    modules, blocks = structure.quantizable_modules(model), list(structure.decoder_layers(model))
    if unknown := sorted(set(layers or ()) - set(range(len(blocks)))):
        raise ModelError(f"sensitivity.layers names layer {unknown[0]}, but the model has {len(blocks)}, numbered from 0")
    taken = {name: layer for name, layer in modules.items() if layers is None or layer in layers}
    if not taken:
        raise ModelError(f"nothing in layers {', '.join(map(str, sorted(layers or ())))} is quantizable")
    if granularity == "module":
        fused = {name: group for (_, group), names in fused_groups(model).items() for name in names}
        return tuple(
            _unit(model, name, layer, name.removeprefix(f"{blocks[layer]}."), (name,), fused.get(name)) for name, layer in taken.items()
        )
    if granularity == "group":
        groups = fused_groups(model)
        return tuple(
            _unit(model, f"{blocks[layer]}.{group}", layer, group, names)
            for (layer, group), names in groups.items()
            if layers is None or layer in layers
        )
    return tuple(
        _unit(model, blocks[number], number, None, tuple(name for name, layer in taken.items() if layer == number))
        for number in sorted(set(taken.values()))
    )


def _unit(
    model: torch.nn.Module, name: str, layer: int | None, group: str | None, modules: tuple[str, ...], fused: str | None = None
) -> Unit:
    weights = [model.get_parameter(f"{module}.weight").detach() for module in modules]
    kurtosis = _kurtosis(weights)
    if layer is not None:  # the first of many reads of a model that is streamed
        streamed_weights.let_go(list(structure.decoder_layers(model).values())[layer])
    return Unit(
        name=name,
        layer=layer,
        group=group,
        modules=modules,
        parameters=sum(w.numel() for w in weights),
        reference_bytes=sum(w.nbytes for w in weights),
        weight_kurtosis=kurtosis,
        fused=fused,
    )


def _kurtosis(weights: Sequence[torch.Tensor]) -> float | None:
    """Fourth standardized moment of all values together; None if they are constant."""
    count, scale = sum(w.numel() for w in weights), max(float(w.abs().max()) for w in weights)
    if scale == 0:
        return None
    mean = sum(float(w.sum(dtype=torch.float64)) for w in weights) / count / scale
    second, fourth = 0.0, 0.0
    for weight in weights:  # divided by the largest weight: kurtosis is scale-free, and fourth powers overflow
        squared = (weight.float() / scale - mean).square_()
        second += float(squared.sum(dtype=torch.float64))
        fourth += float(squared.square_().sum(dtype=torch.float64))
    return fourth * count / second**2 if second > 0 else None


@torch.no_grad()
def fused_groups(model: PreTrainedModel) -> dict[tuple[int, str], tuple[str, ...]]:
    """(layer, group) -> modules that serving engines fuse, in the order in which they run: those of a block that read the same tensor.

    Found by running one token and recording each module's input: ``q``, ``k`` and ``v`` read one tensor, and so do ``gate`` and ``up``.
    A block of two steps has the groups ``attn.qkv`` and ``attn.o``, or ``mlp.gate_up`` (``mlp.up`` without a gate) and ``mlp.down``; other
    groups are named after their modules. Modules in a list inside a layer are experts, of which a token visits only some: one group.
    """
    modules, blocks = structure.quantizable_modules(model), structure.decoder_layers(model)
    order: dict[str, torch.Tensor] = {}  # keeps the tensors alive, so that no address is reused

    def watch(name: str) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], None]:
        return lambda _module, args: order.__setitem__(name, args[0])

    handles = [model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in modules]
    try:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    in_order = [*order, *(name for name in modules if name not in order)]
    found: dict[tuple[int, str], tuple[str, ...]] = {}
    for number, (layer_name, layer) in enumerate(blocks.items()):
        read = {name.removeprefix(f"{layer_name}."): _address(order.get(name)) for name in in_order if modules[name] == number}
        for block in ("attn", "mlp"):
            steps: dict[object, list[str]] = {}
            for name, address in read.items():
                if _block(layer, name) == block:
                    steps.setdefault(_experts(layer, name) or address or name, []).append(name)
            for group, names in _step_names(layer, block, list(steps.items())).items():
                found[number, group] = tuple(f"{layer_name}.{name}" for name in names)
    return found


def _address(tensor: torch.Tensor | None) -> tuple[int, int] | None:
    return None if tensor is None else (tensor.data_ptr(), tensor.numel())


def _block(layer: torch.nn.Module, inner: str) -> str:
    """Attention is the child that takes a mask; everything else is the feed-forward block."""
    child = layer.get_submodule(inner.partition(".")[0])
    return "attn" if "attention_mask" in inspect.signature(child.forward).parameters else "mlp"


def _experts(layer: torch.nn.Module, inner: str) -> str | None:
    """Name of the module list that contains a module of a layer."""
    steps = inner.split(".")
    paths = (".".join(steps[:length]) for length in range(1, len(steps)))
    return next((path for path in paths if isinstance(layer.get_submodule(path), torch.nn.ModuleList)), None)


def _step_names(layer: torch.nn.Module, block: str, steps: list[tuple[object, list[str]]]) -> dict[str, list[str]]:
    if len(steps) == 2 and not any(isinstance(key, str) and "." in key for key, _ in steps):
        (_, first), (_, second) = steps
        if block == "attn":
            return {"attn.qkv": first, "attn.o": second}
        inner, outer = sum(_linear(layer, name).out_features for name in first), _linear(layer, second[0]).in_features
        return {"mlp.gate_up" if inner == 2 * outer else "mlp.up": first, "mlp.down": second}
    return {f"{block}.{_joined(key, names)}": names for key, names in steps}


def _linear(layer: torch.nn.Module, name: str) -> torch.nn.Linear:
    module = layer.get_submodule(name)
    assert isinstance(module, torch.nn.Linear)  # the only kind that is quantized
    return module


def _joined(key: object, names: list[str]) -> str:
    """``experts`` for a module list, else the names of the modules, as in ``q_a_proj+kv_a_proj``."""
    return key.rpartition(".")[2] if isinstance(key, str) and key not in names else "+".join(name.rpartition(".")[2] for name in names)
