"""Texts that are whole or not there: written beside their place, flushed, then moved.

This module does not know what stands in them.
"""

from __future__ import annotations

import os
from pathlib import Path

from bitzones.errors import OutputError

__all__ = ["write_text"]


def write_text(path: Path, text: str) -> None:
    """Write a text file; its folder is made, and an earlier file stays as it was until the new one is whole.

    Raises:
        OutputError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
