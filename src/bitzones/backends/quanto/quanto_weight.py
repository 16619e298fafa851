"""A weight of quanto's as the rooms know one (`bitzones.backends.backend_protocol.Packed`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bitzones.backends.integers import Rounded
from bitzones.backends.quanto import affine, packing

__all__ = ["QuantoWeight"]


@dataclass(frozen=True, eq=False)
class QuantoWeight:
    """A weight as quanto stores it; ``tensor`` is its own kind of tensor."""

    tensor: packing.Packed

    @property
    def format(self) -> str:
        return str(self.tensor.qtype.name)

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self.tensor.shape)

    @property
    def device(self) -> torch.device:
        return torch.device(self.tensor.device)

    @property
    def stored_bytes(self) -> int:
        return packing.stored_bytes(self.tensor)

    @property
    def group_size(self) -> int | None:
        return packing.group_size(self.tensor)

    def values(self, dtype: torch.dtype) -> torch.Tensor:
        return packing.dense(self.tensor, dtype)

    def parts(self) -> Rounded:
        return affine.parts(self.tensor)

    def to(self, device: torch.device) -> QuantoWeight:
        return self if self.device == device else QuantoWeight(packing.moved_to(self.tensor, device))
