"""Files of a saved model as quanto's loader needs them: the names of the model's own modules, and tensors at even addresses."""

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
"""Bytes of a cache line, and of the widest vector register: no kernel asks for more."""

_LENGTH_BYTES, _CHUNK_BYTES = 8, 1 << 20


@contextmanager
def own_names(model: PreTrainedModel) -> Iterator[None]:
    """Within the block ``model.save_pretrained``, also where others call it without options, leaves the names of tensors as they are.

    transformers 5 would write fused experts, and the units of some vision-language models, under the names of the original checkpoint, and
    translate them back when it loads.
    """
    model.__dict__["save_pretrained"] = partial(model.save_pretrained, save_original_format=False)
    try:
        yield
    finally:
        del model.__dict__["save_pretrained"]


def not_in_files(model: PreTrainedModel, folder: Path) -> list[str]:
    """Tensors of a model that no weights file of a folder holds, under their name or under that of one that shares their memory."""
    held: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as handle:
            held.update(handle.keys())
    tensors = model.state_dict()
    shared = {tensor.data_ptr() for name, tensor in tensors.items() if name in held}
    return [name for name, tensor in tensors.items() if name not in held and tensor.numel() and tensor.data_ptr() not in shared]


def align(file: Path) -> None:
    """Rewrite a safetensors file so that every tensor begins at a multiple of what its size is a multiple of, up to `ALIGNMENT`.

    safetensors aligns its data to 8 bytes, and tensors are read where they lie. torch's int8 kernel on AVX512 loads 16 bytes at a time from
    addresses that must be multiples of 16, and ends the process where they are not: the int8 weights of a file as it was written crash for
    whoever computes with them in bfloat16. The tensors, their names and their values stay as they are.

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
        text += b" " * (-(_LENGTH_BYTES + len(text)) % ALIGNMENT)  # the format allows spaces behind the header
        with beside(file) as place, place.open("wb") as target:
            target.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
            for _, tensor in ordered:
                start, stop = tensor["data_offsets"]
                source.seek(_LENGTH_BYTES + length + start)
                _copy(source, target, stop - start)
            shutil.copymode(file, place)


def _multiple(offsets: tuple[int, int]) -> int:
    """The largest power of two up to `ALIGNMENT` that a tensor's size is a multiple of."""
    size = offsets[1] - offsets[0]
    return min(size & -size or ALIGNMENT, ALIGNMENT)


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    while size:
        chunk = source.read(min(size, _CHUNK_BYTES))
        if not chunk:
            raise OSError("the file ends too early")
        size -= target.write(chunk)
