"""MLX's affine formats: ``mlx:3g64`` is 3 bits in groups of 64, rounded as MLX does; ``mlx:3g64:gptq`` has the integers of our GPTQ."""

from __future__ import annotations

import re

import torch

from bitzones.backends import backend_protocol
from bitzones.backends.affine_weight import AffineWeight
from bitzones.backends.dequantized import Dequantized
from bitzones.backends.integers import Rounded
from bitzones.backends.mlx.mlx_rounding import round_rows
from bitzones.schema.formats import Format

__all__ = ["BITS", "GROUPS", "MLX", "Mlx"]

BITS, GROUPS = (2, 3, 4, 6, 8), (32, 64, 128)
"""What mlx-lm has kernels for, 5 bits aside."""

_WIDTH = re.compile(r"([23468])g(32|64|128)")


def _group(format_: Format) -> int:
    """Columns that share a scale."""
    return int(format_.width.partition("g")[2])


class Mlx(Dequantized):
    """The backend; see `bitzones.backends.backend_protocol.Backend` for every method."""

    name = "mlx"

    def check(self, format_: Format) -> None:
        """Widths are BITSgGROUP."""
        if not _WIDTH.fullmatch(format_.width) or format_.method not in ("", "gptq"):
            raise ValueError(
                f"mlx has {', '.join(map(str, BITS))} bits in groups of {', '.join(map(str, GROUPS))}, as in mlx:4g64, each also with :gptq"
            )

    def group_size(self, format_: Format, columns: int) -> int | None:
        """As the width says; a row of one group is a row with one scale."""
        return None if columns == _group(format_) else _group(format_)

    def stored_bytes(self, format_: Format, rows: int, columns: int, dtype: torch.dtype) -> int:
        """Words of integers, a scale and a bias a group."""
        return rows * columns * format_.bits // 8 + 2 * rows * (columns // _group(format_)) * dtype.itemsize

    def why_not(self, format_: Format, rows: int, columns: int) -> str | None:
        """Groups have to be whole."""
        group = _group(format_)
        if columns % group == 0:
            return None
        fits = next((size for size in reversed(GROUPS) if columns % size == 0), None)
        nearest = f"the nearest format that fits is mlx:{format_.bits}g{fits}" if fits else "no format of mlx fits"
        return f"its weight is {rows} x {columns}, and {columns} input features make no whole groups of {group}; {nearest}"

    def quantize(self, weight: torch.Tensor, format_: Format) -> AffineWeight:
        """As ``mx.quantize``."""
        return self.pack(round_rows(weight, format_.bits, _group(format_)), format_)

    def pack(self, rounded: Rounded, format_: Format) -> AffineWeight:
        """MLX's biases are the negatives of the shifts."""
        return AffineWeight.of(rounded, format_.plain, format_.bits)


MLX: backend_protocol.Backend = Mlx()
"""The backend, as `bitzones.backends.registry` finds it."""
