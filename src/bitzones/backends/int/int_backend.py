"""Portable formats: ``int:4g128`` is 4 bits in groups of 128 with an integer zero point, ``int:4`` has a scale and a zero for each row.

A weight is ``(integer - zero) * scale``. The name is that of AutoRound's ``data_type`` and of compressed-tensors' ``type``, whose
checkpoints and GPTQ's hold these weights exactly, and the width is written as mlx's. With ``:gptq``, calibrated.
"""

from __future__ import annotations

import re

import torch

from bitzones.backends import backend_protocol, whole_zeros
from bitzones.backends.dequantized import Dequantized
from bitzones.backends.int.int_weight import IntWeight
from bitzones.backends.integers import Rounded
from bitzones.schema.formats import Format

__all__ = ["BITS", "GROUPS", "INT", "Int", "nearest"]

BITS, GROUPS = (2, 3, 4, 8), (32, 64, 128)
"""What AutoRound, GPTQModel and compressed-tensors all hold."""

MULTIPLE = 32
"""Rows and columns come in this many: integers and zeros then fill whole 32-bit words of an AutoRound or GPTQ checkpoint."""

_WIDTH = re.compile(r"[2348](?:g(32|64|128))?")


def _group(format_: Format) -> int | None:
    """Columns that share a scale; None if a whole row does."""
    group = format_.width.partition("g")[2]
    return int(group) if group else None


def nearest(bits: int, columns: int) -> str:
    """The format of the fewest bits that are no fewer, with the longest group that divides the columns.

    >>> nearest(4, 576), nearest(6, 1024), nearest(2, 100)
    ('int:4g64', 'int:8g128', 'int:2')
    """
    group = next((f"g{size}" for size in reversed(GROUPS) if columns % size == 0), "")
    return f"int:{min(width for width in BITS if width >= bits)}{group}"


class Int(Dequantized):
    """The backend; see `bitzones.backends.backend_protocol.Backend` for every method."""

    name = "int"
    whole_zeros = True

    def check(self, format_: Format) -> None:
        """Widths are BITS or BITSgGROUP."""
        if not _WIDTH.fullmatch(format_.width) or format_.method not in ("", "gptq"):
            raise ValueError(
                f"int has {', '.join(map(str, BITS))} bits in groups of {', '.join(map(str, GROUPS))}, as in int:4g128, or with a scale a "
                "row, as in int:4, each also with :gptq"
            )

    def group_size(self, format_: Format, columns: int) -> int | None:
        """As the width says; a row of one group is a row with one scale."""
        return None if columns == _group(format_) else _group(format_)

    def stored_bytes(self, format_: Format, rows: int, columns: int, dtype: torch.dtype) -> int:
        """Words of integers, and for each group of columns a scale of two bytes a row and words of zeros."""
        groups = columns // (_group(format_) or columns)
        return rows * columns * format_.bits // 8 + groups * rows * (whole_zeros.stored_dtype(dtype).itemsize * 8 + format_.bits) // 8

    def why_not(self, format_: Format, rows: int, columns: int) -> str | None:
        """Groups have to be whole, and words full."""
        if rows % MULTIPLE or columns % MULTIPLE:
            return (
                f"its weight is {rows} x {columns}, no multiples of {MULTIPLE}, which fill the words of a checkpoint; no format of int fits"
            )
        if columns % (group := _group(format_) or columns):
            return (
                f"its weight is {rows} x {columns}, and {columns} input features make no whole groups of {group}; "
                f"the nearest format that fits is {nearest(format_.bits, columns)}"
            )
        return None

    def quantize(self, weight: torch.Tensor, format_: Format) -> IntWeight:
        """Scale and zero of each group by squared error, every weight to the nearest."""
        group, levels = _group(format_) or weight.shape[1], 2.0**format_.bits - 1
        grouped = weight.float().unflatten(1, (-1, group))
        columns = grouped.flatten(0, 1).T.contiguous()
        even, most = columns.new_ones(group), torch.full_like(columns[0], levels)
        scale, zero = (found.unflatten(0, grouped.shape[:2]) for found in whole_zeros.fit(columns, even, most, weight.dtype))
        integers = ((grouped / scale[..., None]).round() + zero[..., None]).clamp(0, levels).to(torch.uint8).flatten(1)
        return self.pack(Rounded(integers, scale.to(weight.dtype), scale * zero), format_)

    def pack(self, rounded: Rounded, format_: Format) -> IntWeight:
        """Shifts are whole numbers of scales, as `whole_zeros` asks of whoever rounded."""
        return IntWeight.of(rounded, format_.plain, format_.bits)


INT: backend_protocol.Backend = Int()
"""The backend, as `bitzones.backends.registry` finds it."""
