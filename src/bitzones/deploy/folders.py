"""A folder that is there as a whole or not at all: written beside its place, and moved there when done.

It does not know what is written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bitzones.errors import OutputError

__all__ = ["replacing"]


@contextmanager
def replacing(folder: Path, *, marker: str, force: bool) -> Iterator[Path]:
    """A new, empty folder beside ``folder`` to write into; it takes that place when the block ends well, and is removed when it does not.

    What stands in ``folder`` is only touched when the new one is whole: it is moved aside, and moved back if the new one cannot follow.
    Two renames: between them there is, for an instant, no folder of that name, but never half of one.

    Args:
        folder: may be absent or empty.
        marker: file that an earlier folder of this kind holds. With ``force`` only such a folder is replaced, so that a slip of the
            keyboard (``-o ~``) does not cost a home.
        force: replace a folder that is not empty.

    Raises:
        OutputError: the place is taken, or cannot be written.
    """
    target = folder.resolve()
    _check_free(folder, target, marker, force=force)
    missing = [parent for parent in target.parents if not parent.exists()]
    beside, aside = (target.with_name(f".{target.name}.{os.getpid()}.{what}") for what in ("part", "old"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()
        yield beside
        _settle(beside)
        _swap(beside, target, aside)
    except BaseException as error:
        shutil.rmtree(beside, ignore_errors=True)
        with suppress(OSError):
            for parent in missing:  # the innermost first; what has become of use meanwhile is not empty, and stays
                parent.rmdir()
        if isinstance(error, OSError):
            raise OutputError(f"{folder}: cannot be written: {error.strerror or error}; nothing was changed there") from error
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _check_free(folder: Path, target: Path, marker: str, *, force: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise OutputError(f"{folder}: a file of that name is in the way")
    try:
        taken = any(target.iterdir())
    except OSError as error:
        raise OutputError(f"{folder}: cannot be read: {error.strerror}") from error
    if target.is_mount():  # it cannot be renamed: the volume of a container, for one
        raise OutputError(f"{folder}: a mount point, which cannot be replaced as a whole: name a folder inside it")
    if not taken:
        return
    if not (target / marker).is_file():
        raise OutputError(f"{folder}: not empty, and nothing that bitzones apply wrote (it has no {marker}): give another folder")
    if not force:
        raise OutputError(f"{folder}: not empty: give another folder, or --force to replace what an earlier bitzones apply wrote there")


def _settle(folder: Path) -> None:
    """Give all files the permissions that the user's umask gives, which safetensors does not, and wait until they are on the disk."""
    probe = folder / ".mode"
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _swap(beside: Path, target: Path, aside: Path) -> None:
    try:
        if target.exists():
            target.rename(aside)
        beside.rename(target)
    except BaseException:
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise
