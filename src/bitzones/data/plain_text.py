"""Documents of a plain text file, read piece by piece: a file of any size, or one that is no text, takes a document's memory at most."""

from __future__ import annotations

from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from bitzones.schema.errors import TaskError

__all__ = ["documents", "require_text"]

LONGEST_LINE = 1 << 20
"""Characters of the longest line that is text: above it, a file is a dump without line ends, and one line may be all of it."""

LONGEST_DOCUMENT = 1 << 15
"""Characters after which a document ends at the next line end: a file without blank lines, such as one of a document a line, is not one
document, of which one set would take all."""

PROBED_BYTES = 1 << 16
"""Of a file that are looked at for what no text has."""


def documents(path: Path) -> Iterator[str]:
    """Documents of a ``.txt`` file, one or more blank lines between them.

    Raises:
        TaskError: the file is empty, binary, not UTF-8 or has a line without end, or it cannot be read.
    """
    require_text(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _documents(path, file)
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise TaskError(f"{path}: cannot be read: {error.strerror}") from error


def require_text(path: Path, *, lines: bool = True, binary: bool = False) -> None:
    """Refuse a file that no reader should be given: it is empty, binary, or opens with a line longer than `LONGEST_LINE`.

    Args:
        path: the file.
        lines: whether it is read line by line.
        binary: whether it may hold anything.

    Raises:
        TaskError: as said, or the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            found = file.read(PROBED_BYTES)
            line = found if b"\n" in found else found + file.read(4 * LONGEST_LINE)
    except OSError as error:
        raise TaskError(f"{path}: cannot be read: {error.strerror}") from error
    if not found.strip():
        raise TaskError(f"{path}: the file is empty")
    if b"\0" in found and not binary:
        raise TaskError(f"{path}: binary, not text: byte {found.index(0)} is 0")
    if lines and b"\n" not in line and len(line) > LONGEST_LINE:
        _endless(path, 1)


def _documents(path: Path, file: TextIOWrapper) -> Iterator[str]:
    lines, length, number = list[str](), 0, 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            _endless(path, number)
        if line.strip():
            lines.append(line)
            length += len(line)
        if lines and (not line.strip() or length >= LONGEST_DOCUMENT):
            yield "".join(lines).rstrip("\n")
            lines, length = [], 0
    if lines:
        yield "".join(lines).rstrip("\n")


def _endless(path: Path, number: int) -> None:
    raise TaskError(f"{path}: line {number} is longer than {LONGEST_LINE:,} characters: text needs line ends, or a file of JSON lines")
