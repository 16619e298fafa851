"""Imports of packages that an extra installs: one that is missing is reported in one line that names the extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bitzones.schema.errors import MissingPackageError

__all__ = ["needs"]


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Import what ``extra`` installs inside this block.

    Raises:
        MissingPackageError: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "bitzones":  # a bug of ours, not a missing package
            raise
        raise MissingPackageError(f"this needs the package {error.name}: pip install 'bitzones[{extra}]'") from error
