"""A folder that is there as a whole or not at all: written beside its place, and moved there when done.

A process that is killed leaves the folder that it wrote into. Each such folder holds a lock, which ends with its process however that ends:
the next one that writes to the same place removes what nobody holds, and moves back what was moved aside and never replaced.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from bitzones.schema.errors import OutputError

__all__ = ["replacing"]

_FRESH, _ASIDE, _LOCK = "fresh", "aside", "lock"
"""What lies in a private folder: the new folder, the one that it replaces, and the lock of the process that owns both."""


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
    _clean(target)
    _check_free(folder, target, marker, force=force)
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        private = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
        with FileLock(private / _LOCK, timeout=0):
            try:
                fresh, aside = private / _FRESH, private / _ASIDE
                fresh.mkdir()
                yield fresh
                _settle(fresh)
                _check_free(folder, target, marker, force=force)
                _swap(fresh, target, aside if force else None)
            except BaseException:
                _remove(private)
                raise
            shutil.rmtree(private, ignore_errors=True)
    except BaseException as error:
        with suppress(OSError):
            for parent in missing:  # the innermost first; what has become of use meanwhile is not empty, and stays
                parent.rmdir()
        if isinstance(error, OSError):
            raise OutputError(f"{folder}: cannot be written: {error.strerror or error}; nothing was changed there") from error
        raise


def _clean(target: Path) -> None:
    """Remove what killed processes left beside a place; where one was killed between its two renames, the folder aside is moved back."""
    made_here = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}\.part")  # as `tempfile.mkdtemp` draws names
    with suppress(OSError):
        for private in list(target.parent.iterdir()):
            if made_here.fullmatch(private.name) and not private.is_symlink() and (private / _LOCK).is_file():
                with suppress(OSError, Timeout), FileLock(private / _LOCK, timeout=0):
                    if (private / _ASIDE).exists() and not target.exists():
                        (private / _ASIDE).rename(target)
                    shutil.rmtree(private, ignore_errors=True)


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
        raise OutputError(f"{folder}: not empty, and no export of bitzones (it has no {marker}): give another folder")
    if not force:
        raise OutputError(f"{folder}: not empty: give another folder, or --force to replace what an earlier export wrote there")


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


def _swap(fresh: Path, target: Path, aside: Path | None) -> None:
    """Without ``aside`` only an empty folder is replaced: the system refuses to rename onto another."""
    try:
        if aside is not None and target.exists():
            target.rename(aside)
        fresh.rename(target)
    except BaseException:
        if aside is not None and aside.exists() and not target.exists():
            aside.rename(target)
        raise


def _remove(private: Path) -> None:
    """Everything but a folder that was moved aside and could not be moved back: that is somebody's only copy."""
    shutil.rmtree(private / _FRESH, ignore_errors=True)
    if not (private / _ASIDE).exists():
        shutil.rmtree(private, ignore_errors=True)
