"""Packed weights of a streamed model, made for one layer at a time: in all formats together they are as large as the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

import torch

from bitzones.backends.backend_protocol import Packed
from bitzones.backends.integers import Rounded
from bitzones.backends.quantizing import quantized_alone
from bitzones.rounding.layerwise import Calibrated
from bitzones.schema.formats import is_calibrated

__all__ = ["OfFormat", "WeightsByLayer"]

ByLayer: TypeAlias = Iterator[Mapping[str, Calibrated]]
"""Format -> weights of a layer, layer after layer."""


@dataclass
class WeightsByLayer:
    """Makes a weight when something of it is first asked for, and keeps it until a weight of another layer is asked for.

    Args:
        stored: the model as stored.
        layer_of: module -> layer; modules outside the layers are missing.
        device: where weights are quantized.
        calibrated: starts to round calibrated formats anew. They are rounded in the order of the layers: a layer that is behind starts it.
    """

    stored: torch.nn.Module
    layer_of: Mapping[str, int]
    device: torch.device
    calibrated: Callable[[], ByLayer]
    _layer: int | None = None
    _made: dict[tuple[str, str], Packed] = field(default_factory=dict)
    _rounding: ByLayer | None = None
    _rounded: int = -1

    def of(self, names: Sequence[str], format_: str) -> OfFormat:
        """Module -> weight in a format, none of them made yet."""
        return OfFormat(self, tuple(names), format_)

    def made(self, name: str, format_: str) -> Packed:
        """The weight of a module in a format."""
        layer = self.layer_of.get(name)
        if layer != self._layer:
            self._made.clear()
            self._layer = layer
        if (name, format_) not in self._made:
            if layer is not None and is_calibrated(format_):
                self._round(layer)
            else:
                self._made[name, format_] = quantized_alone(self.dense(name), format_, self.device)
        return self._made[name, format_]

    def dense(self, name: str) -> torch.Tensor:
        """The weight of a module as stored."""
        return self.stored.get_parameter(f"{name}.weight").detach()

    def _round(self, layer: int) -> None:
        """Round a layer in every calibrated format."""
        if self._rounding is None or layer <= self._rounded:
            self._rounding, self._rounded = self.calibrated(), -1
        found = next(islice(self._rounding, layer - self._rounded - 1, None))
        self._rounded = layer
        for format_, calibrated in found.items():
            self._made |= {(name, format_): weight for name, weight in calibrated.weights.items()}


@dataclass(frozen=True)
class OfFormat(Mapping[str, Packed]):
    """Module -> weight in one format; the weights are made when they are used."""

    source: WeightsByLayer
    names: tuple[str, ...]
    format: str

    def __getitem__(self, name: str) -> Packed:
        if name not in self.names:
            raise KeyError(name)
        return _Unmade(self.source, name, self.format)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class _Unmade:
    """A packed weight that is made when it is used."""

    source: WeightsByLayer
    name: str
    asked: str

    @property
    def _made(self) -> Packed:
        return self.source.made(self.name, self.asked)

    @property
    def shape(self) -> torch.Size:
        return self.source.dense(self.name).shape

    @property
    def format(self) -> str:
        return self._made.format

    @property
    def device(self) -> torch.device:
        return self._made.device

    @property
    def stored_bytes(self) -> int:
        return self._made.stored_bytes

    @property
    def group_size(self) -> int | None:
        return self._made.group_size

    def values(self, dtype: torch.dtype) -> torch.Tensor:
        return self._made.values(dtype)

    def parts(self) -> Rounded:
        return self._made.parts()

    def to(self, device: torch.device) -> Packed:
        return self._made.to(device)
