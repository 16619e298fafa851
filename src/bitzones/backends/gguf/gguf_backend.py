"""llama.cpp's formats: ``gguf:Q4_K`` is a weight as ``llama-quantize`` rounds it; ``gguf:Q4_K:imatrix`` with an importance matrix too.

The importance of a column is the mean square of that input feature over the calibration set, in the reference: what ``llama-imatrix``
collects. It weighs the squared error of the column where llama.cpp searches the scales of a block; Q8_0 has nothing to search.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from bitzones.backends import backend_protocol
from bitzones.backends.dequantized import Dequantized
from bitzones.backends.gguf.block_types import BlockWeight, quantized, row_bytes
from bitzones.schema.formats import Format
from bitzones.schema.requirements import needs

__all__ = ["BLOCKS", "GGUF", "Gguf"]

_LEGACY, _SUPER = 32, 256
"""Weights in a block: of the types of llama.cpp's first years and IQ4_NL, and of K and other IQ types."""

BLOCKS: Mapping[str, int] = {
    "Q8_0": _LEGACY,
    "Q6_K": _SUPER,
    "Q5_K": _SUPER,
    "Q5_1": _LEGACY,
    "Q5_0": _LEGACY,
    "Q4_K": _SUPER,
    "Q4_1": _LEGACY,
    "Q4_0": _LEGACY,
    "IQ4_NL": _LEGACY,
    "IQ4_XS": _SUPER,
    "Q3_K": _SUPER,
    "IQ3_S": _SUPER,
    "Q2_K": _SUPER,
}
"""Type -> weights in a block."""

_UNWEIGHTED = ("Q8_0",)
"""Types whose rounding has no use for an importance."""


class Gguf(Dequantized):
    """The backend; see `bitzones.backends.backend_protocol.Backend` for every method."""

    name = "gguf"

    def check(self, format_: Format) -> None:
        """Widths are llama.cpp's types."""
        if format_.width not in BLOCKS or format_.method not in ("", "imatrix"):
            raise ValueError(f"gguf has {', '.join(BLOCKS)}, as in gguf:Q4_K, each but {_UNWEIGHTED[0]} also with :imatrix")
        if format_.method and format_.width in _UNWEIGHTED:
            raise ValueError(f"llama.cpp rounds {format_.width} to the nearest value and has no use for an importance matrix: gguf:Q8_0")
        with needs("gguf"):
            import libgguf  # noqa: F401, PLC0415  # an extra

    def group_size(self, format_: Format, columns: int) -> int | None:
        """Weights in a block; a row of one block is a row with one scale."""
        block = BLOCKS[format_.width]
        return None if columns == block else block

    def stored_bytes(self, format_: Format, rows: int, columns: int, dtype: torch.dtype) -> int:
        """Whole blocks; their scales are float16 whatever the model's dtype."""
        block = BLOCKS[format_.width]
        return rows * row_bytes(format_.width, -(-columns // block) * block)

    def why_not(self, format_: Format, rows: int, columns: int) -> str | None:
        """Blocks have to be whole; llama-quantize would take another type without a word."""
        block = BLOCKS[format_.width]
        if columns % block == 0:
            return None
        fits = [name for name, size in BLOCKS.items() if columns % size == 0 and Format.of(f"gguf:{name}").bits >= format_.bits]
        nearest = f"the nearest format that fits is gguf:{fits[-1]}" if fits else "no format of gguf fits"
        return f"its weight is {rows} x {columns}, and {columns} input features make no whole blocks of {block}; {nearest}"

    def quantize(self, weight: torch.Tensor, format_: Format) -> backend_protocol.Packed:
        """As ``llama-quantize`` does without an importance matrix."""
        return self._packed(weight, format_, None)

    def weigh(self, weight: torch.Tensor, importance: torch.Tensor, format_: Format) -> backend_protocol.Packed:
        """As ``llama-quantize`` does with one."""
        return self._packed(weight, format_, importance)

    def _packed(self, weight: torch.Tensor, format_: Format, importance: torch.Tensor | None) -> backend_protocol.Packed:
        blocks = quantized(weight, format_.width, importance)
        return BlockWeight(format_.plain, format_.width, weight.shape, blocks, self.group_size(format_, weight.shape[1]))


GGUF: backend_protocol.Backend = Gguf()
"""The backend, as `bitzones.backends.registry` finds it."""
