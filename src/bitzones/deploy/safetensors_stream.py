"""A safetensors file written one tensor at a time, so that no more than one is in memory.

The format: eight bytes with the length of a JSON header, the header, then the tensors one behind the other. Sizes are known beforehand, so
the header is written first and each tensor is made when its turn comes. Layout: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from bitzones.backends.checkpoint_files import ALIGNMENT
from bitzones.schema.errors import ModelError

__all__ = ["Entry", "write"]

_NAMES = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.uint32: "U32",
}


@dataclass(frozen=True)
class Entry:
    """A tensor to be written: ``make`` gives it when its turn comes, on any device."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], torch.Tensor]

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor) -> Entry:
        """A tensor that is there already."""
        return cls(name, tensor.dtype, tuple(tensor.shape), lambda: tensor)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return prod(self.shape) * self.dtype.itemsize


def write(file: Path, entries: Sequence[Entry]) -> int:
    """Write a file; every tensor begins at a multiple of what its size is a multiple of, up to a cache line. Returns the file's bytes.

    Raises:
        ModelError: a tensor is of a dtype that the format does not have, or is not made as it was announced.
        OSError: the file cannot be written.
    """
    ordered = sorted(entries, key=lambda entry: -min(entry.size & -entry.size or ALIGNMENT, ALIGNMENT))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in ordered:
        if entry.dtype not in _NAMES:
            raise ModelError(f"tensor {entry.name!r} is {entry.dtype}, which safetensors does not hold")
        header[entry.name] = {"dtype": _NAMES[entry.dtype], "shape": entry.shape, "data_offsets": [end, end + entry.size]}
        end += entry.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)  # the format allows spaces behind the header
    with file.open("wb") as target:
        target.write(len(text).to_bytes(8, "little") + text)
        for entry in ordered:
            tensor = entry.make()
            if tensor.dtype != entry.dtype or tuple(tensor.shape) != entry.shape:
                raise ModelError(f"tensor {entry.name!r} came as {tensor.dtype} {tuple(tensor.shape)}, not as {entry.dtype} {entry.shape}")
            target.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return 8 + len(text) + end
