"""Rows of blocks as GGUF files of llama.cpp hold them, rounded and read by llama.cpp's own code: libgguf, imported where it is called."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bitzones.backends.integers import Rounded
from bitzones.schema.errors import ModelError

__all__ = ["BlockWeight", "quantized", "row_bytes"]

Bytes = NDArray[np.uint8]


def row_bytes(width: str, columns: int) -> int:
    """Bytes of a row of so many weights."""
    import libgguf  # noqa: PLC0415  # an extra

    return int(libgguf.row_size(libgguf.GGMLQuantizationType[width], columns))


@dataclass(frozen=True, eq=False)
class BlockWeight:
    """A weight as rows of blocks; see `bitzones.backends.backend_protocol.Packed`.

    Args:
        format: its format without a method.
        width: the type, such as ``Q4_K``.
        shape: (rows, columns).
        blocks: uint8 of shape (rows, `row_bytes`), as they lie in a file.
        group_size: weights in a block; None if a whole row is one.
    """

    format: str
    width: str
    shape: torch.Size
    blocks: torch.Tensor
    group_size: int | None

    @property
    def device(self) -> torch.device:
        return self.blocks.device

    @property
    def stored_bytes(self) -> int:
        return self.blocks.nbytes

    def values(self, dtype: torch.dtype) -> torch.Tensor:
        """Computed in float32 on the CPU, by llama.cpp's own function."""
        import libgguf  # noqa: PLC0415  # an extra

        number = libgguf.GGMLQuantizationType[self.width]
        found: NDArray[np.float32] = libgguf.dequantize_rows(self.blocks.cpu().numpy(), number, self.shape[1])
        return torch.from_numpy(found).to(self.device, dtype)

    def parts(self) -> Rounded:
        raise ModelError(f"{self.format}: its blocks hold no integers with one scale and shift a group, and run in llama.cpp only")

    def to(self, device: torch.device) -> BlockWeight:
        return self if self.device == device else BlockWeight(self.format, self.width, self.shape, self.blocks.to(device), self.group_size)


def quantized(weight: torch.Tensor, width: str, importance: torch.Tensor | None = None) -> torch.Tensor:
    """Blocks of a weight, rounded as llama-quantize does.

    Args:
        weight: shape (rows, columns).
        width: the type.
        importance: of the squared error of every column, shape (columns,): the mean square of the input feature. llama.cpp's own rule
            where it is None.

    Returns:
        uint8 of shape (rows, `row_bytes`), on the weight's device.
    """
    import libgguf  # noqa: PLC0415  # an extra

    rows = np.ascontiguousarray(weight.detach().float().cpu().numpy())
    asked = None if importance is None else np.ascontiguousarray(importance.float().cpu().numpy())
    blocks: Bytes = libgguf.quantize_rows(rows, libgguf.GGMLQuantizationType[width], asked)
    return torch.from_numpy(blocks).to(weight.device)
