"""Atomic file writes: a file is written next to its final path and then moved there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bitzones.schema.errors import OutputError

__all__ = ["beside", "write_text"]


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Where to write what is to become ``path``: moved there at the end of the block, and gone where the block raises; its folder is made.

    Raises:
        OSError: it cannot be made or moved.
    """
    place = path.with_name(f".{path.name}.{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield place
        place.replace(path)
    finally:
        place.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file; its folder is made, and an earlier file stays as it was until the new one is whole.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with beside(path) as place, place.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
