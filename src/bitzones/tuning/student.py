"""A copy of the reference that computes with a plan's weights and can be trained: their integers fixed, what is stored beside them free.

Offsets are in steps of a weight's own grid, so that one learning rate serves all layers and models: with s and t as rounded, c the middle
of the integers, and offsets a and b, a weight is ``integer * s * (1 + a / c) - (t + s * (a + b))``, which moves the outermost integers by a
steps apart and all of them by b. Every pass computes with scales and shifts rounded to the dtype that stores them; their gradients pass
the rounding unchanged (straight-through, arXiv:1308.3432).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from bitzones.backends.integers import Rounded
from bitzones.data.sequences import Batch
from bitzones.evaluation import kl
from bitzones.schema.formats import format_bits
from bitzones.tuning import packed_weights
from bitzones.tuning.packed_weights import Packed

__all__ = ["Student", "TunedLinear", "tunable_student"]


def _values(integers: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """The dequantized weights, shape (rows, columns), in the dtype of the scales."""
    grouped = integers.to(scale.dtype).unflatten(1, (scale.shape[1], -1))
    values: torch.Tensor = (grouped * scale[..., None] - shift[..., None]).flatten(1)
    return values


class _Product(torch.autograd.Function):
    """``inputs @ weight.T`` that keeps no dense weight between the passes: both of them make it anew from the integers."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, integers: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(inputs, integers, scale, shift)
        return functional.linear(inputs, _values(integers, scale, shift).to(inputs.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, None, torch.Tensor, torch.Tensor]:
        inputs, integers, scale, shift = ctx.saved_tensors
        (gradient,) = gradients
        below = gradient @ _values(integers, scale, shift).to(inputs.dtype) if ctx.needs_input_grad[0] else None
        weights = (gradient.flatten(0, -2).T @ inputs.flatten(0, -2)).to(scale.dtype).unflatten(1, (scale.shape[1], -1))
        scales = (weights * integers.to(scale.dtype).unflatten(1, (scale.shape[1], -1))).sum(-1)
        return below, None, scales, -weights.sum(-1)


def _as_stored(master: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rounded to the dtype that stores it, with the gradient of the unrounded value."""
    return master + (master.detach().to(dtype).float() - master.detach())


class TunedLinear(torch.nn.Module):
    """A linear layer whose weight has fixed integers and trainable scales and shifts.

    Args:
        rounded: the weight as it is rounded; scales and shifts in their stored dtype.
        bits: of an integer.
        bias: of the layer, which is not trained.
    """

    integers: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, rounded: Rounded, bits: int, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.bits, self.stored_dtype = bits, rounded.scale.dtype
        self.middle = (2**bits - 1) / 2
        self.out_features, self.in_features = rounded.integers.shape
        for name, value in {"integers": rounded.integers, "scale": rounded.scale.float(), "shift": rounded.shift.float()}.items():
            self.register_buffer(name, value, persistent=False)
        self.bias = None if bias is None else torch.nn.Parameter(bias, requires_grad=False)
        self.spread = torch.nn.Parameter(torch.zeros_like(self.scale))
        self.offset = torch.nn.Parameter(torch.zeros_like(self.scale))

    def stored(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales and shifts, float32 of shape (rows, groups), with the values that are stored."""
        scale = self.scale * (1 + self.spread / self.middle)
        shift = self.shift + self.scale * (self.spread + self.offset)
        return _as_stored(scale, self.stored_dtype), _as_stored(shift, self.stored_dtype)

    def rounded(self) -> Rounded:
        """The weight as it is stored now."""
        scale, shift = (part.detach().to(self.stored_dtype) for part in self.stored())
        return Rounded(self.integers, scale, shift)

    @property
    def weight(self) -> torch.Tensor:
        """The dense weight, for a model that multiplies by it without running the layer."""
        return _values(self.integers, *self.stored())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = _Product.apply(inputs, self.integers, *self.stored())  # type: ignore[no-untyped-call]
        return product if self.bias is None else product + self.bias


@dataclass(frozen=True)
class _Norm:
    """A parameter of a normalization layer; ``offset`` is in units of its own root mean square."""

    owner: torch.nn.Module
    name: str
    first: torch.Tensor
    unit: torch.Tensor
    offset: torch.nn.Parameter
    stored_dtype: torch.dtype

    @classmethod
    def of(cls, owner: torch.nn.Module, name: str, stored_dtype: torch.dtype) -> _Norm:
        """Take a parameter out of its layer, which `set` gives it back as it is then."""
        first = owner._parameters.pop(name)
        assert first is not None
        wide = first.detach().float()
        unit = wide.square().mean().sqrt()
        made = cls(owner, name, wide, unit if unit > 0 else torch.ones_like(unit), torch.nn.Parameter(torch.zeros_like(wide)), stored_dtype)
        made.set(first.dtype)
        return made

    def stored(self) -> torch.Tensor:
        """The parameter, float32, with the values that are stored."""
        return _as_stored(self.first + self.offset * self.unit, self.stored_dtype)

    def set(self, dtype: torch.dtype) -> None:
        """Let the next pass compute with it."""
        setattr(self.owner, self.name, self.stored().to(dtype))


class Student:
    """The reference with a plan's weights, as one model that can be trained.

    Args:
        reference: in its compute dtype; not modified. Weights that are not trained are shared with it.
        weights: module -> packed weight, of every module that the plan quantizes.
        bits: module -> bits, of the modules to tune; the others keep the values of their packed weight.
        norms: train the parameters of normalization layers too.
        stored_dtype: of what is stored densely.
    """

    def __init__(
        self, reference: PreTrainedModel, weights: Mapping[str, Packed], bits: Mapping[str, int], *, norms: bool, stored_dtype: torch.dtype
    ) -> None:
        shared = {id(parameter): torch.nn.Parameter(parameter.detach(), requires_grad=False) for parameter in reference.parameters()}
        self.model: PreTrainedModel = copy.deepcopy(reference, shared | {id(buffer): buffer for buffer in reference.buffers()})
        self.bits = dict(bits)
        self.linears = {name: self._tuned(name, weight) for name, weight in weights.items() if name in bits}
        for name in set(weights) - set(bits):
            self.model.get_submodule(name).weight = torch.nn.Parameter(packed_weights.dense(weights[name], self.model.dtype), False)
        self._norms = {name: _Norm.of(owner, own, stored_dtype) for name, owner, own in _norms(self.model)} if norms else {}
        self.model.eval()

    def _tuned(self, name: str, weight: Packed) -> TunedLinear:
        owner, _, own = name.rpartition(".")
        bias = self.model.get_submodule(name).bias
        made = TunedLinear(packed_weights.parts(weight), self.bits[name], bias if isinstance(bias, torch.Tensor) else None)
        setattr(self.model.get_submodule(owner), own, made)
        return made

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Name -> what is trained, all float32, in a fixed order."""
        found = {f"{name}.{kind}": getattr(linear, kind) for name, linear in self.linears.items() for kind in ("spread", "offset")}
        return found | {name: norm.offset for name, norm in self._norms.items()}

    def logits(self, batch: Batch) -> torch.Tensor:
        """Logits of one pass with everything as it would be stored now, shape (sequences, length, vocabulary)."""
        for norm in self._norms.values():
            norm.set(self.model.dtype)
        return kl.logits_of(self.model, batch)

    def weights(self) -> dict[str, Packed]:
        """Module -> packed weight of every tuned module, as it would be stored now."""
        return {name: packed_weights.pack(linear.rounded(), self.bits[name]) for name, linear in self.linears.items()}

    def norms(self) -> dict[str, torch.Tensor]:
        """Name -> tuned parameter of a normalization layer, in its stored dtype."""
        return {name: norm.stored().detach().to(norm.stored_dtype) for name, norm in self._norms.items()}


def tunable_student(
    reference: PreTrainedModel, weights: Mapping[str, Packed], formats: Mapping[str, str], *, norms: bool, stored_dtype: torch.dtype
) -> Student:
    """The student of a plan: modules in ``formats`` of at most 4 bits are trained, the others keep their values."""
    bits = {name: format_bits(form) for name, form in formats.items() if packed_weights.tunable(form)}
    return Student(reference, weights, bits, norms=norms, stored_dtype=stored_dtype)


def _norms(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module, str]]:
    """Name, owner and the owner's name of the weight of every normalization layer."""
    return [
        (f"{name}.{own}", module, own)
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        for own, parameter in module.named_parameters(recurse=False)
        if own == "weight" and parameter.ndim == 1
    ]
