"""Saved weights as quanto's loader needs them: tensors under the names of the model's own modules, at aligned offsets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from safetensors import safe_open
from transformers import PreTrainedModel

from bitzones.schema.files import beside

__all__ = ["ALIGNMENT", "align", "not_in_files", "own_names"]

ALIGNMENT = 64
"""Bytes of a cache line and of the widest vector register: no kernel requires more."""

_LENGTH_BYTES, _CHUNK_BYTES = 8, 1 << 20


@contextmanager
def own_names(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, ``model.save_pretrained`` keeps the tensor names of the model's modules, even when a library calls it.

    By default transformers 5 writes fused experts, and modules of some vision-language models, under the names of the original checkpoint
    and translates them when it loads the model.
    """
    model.__dict__["save_pretrained"] = partial(model.save_pretrained, save_original_format=False)
    try:
        yield
    finally:
        del model.__dict__["save_pretrained"]


def not_in_files(model: PreTrainedModel, folder: Path) -> list[str]:
    """Tensors of a model that are in no weights file of a folder, neither under their own name nor under that of a tied tensor."""
    held: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as handle:
            held.update(handle.keys())
    tensors = model.state_dict()
    shared = {tensor.data_ptr() for name, tensor in tensors.items() if name in held}
    return [name for name, tensor in tensors.items() if name not in held and tensor.numel() and tensor.data_ptr() not in shared]


def align(file: Path) -> None:
    """Rewrite a safetensors file so that every tensor is aligned to the largest power of two that divides its size, up to `ALIGNMENT`.

    safetensors aligns its data section to 8 bytes, and tensors are memory-mapped in place. torch's int8 kernel for AVX512 loads 16 bytes at
    a time from addresses that must be multiples of 16 and crashes the process otherwise, so int8 weights in an unaligned file crash as soon
    as they are used in bfloat16. Names, dtypes and values of the tensors do not change.

    Raises:
        OSError: the file cannot be read or written.
    """
    with file.open("rb") as source:
        length = int.from_bytes(source.read(_LENGTH_BYTES), "little")
        header = json.loads(source.read(length))
        metadata = {name: header.pop(name) for name in ("__metadata__",) if name in header}
        ordered = sorted(header.items(), key=lambda item: -_multiple(item[1]["data_offsets"]))
        placed, end = {}, 0
        for name, tensor in ordered:
            size = tensor["data_offsets"][1] - tensor["data_offsets"][0]
            placed[name], end = {**tensor, "data_offsets": [end, end + size]}, end + size
        text = json.dumps({**metadata, **placed}, separators=(",", ":")).encode()
        text += b" " * (-(_LENGTH_BYTES + len(text)) % ALIGNMENT)  # the format allows trailing spaces in the header
        with beside(file) as place, place.open("wb") as target:
            target.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
            for _, tensor in ordered:
                start, stop = tensor["data_offsets"]
                source.seek(_LENGTH_BYTES + length + start)
                _copy(source, target, stop - start)
            shutil.copymode(file, place)


def _multiple(offsets: tuple[int, int]) -> int:
    """The largest power of two up to `ALIGNMENT` that divides a tensor's size."""
    size = offsets[1] - offsets[0]
    return min(size & -size or ALIGNMENT, ALIGNMENT)


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    while size:
        chunk = source.read(min(size, _CHUNK_BYTES))
        if not chunk:
            raise OSError("the file is truncated")
        size -= target.write(chunk)
