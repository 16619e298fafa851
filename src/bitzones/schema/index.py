"""Positions of names in an array."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["index_of"]


def index_of(names: Iterable[str]) -> dict[str, int]:
    """Name -> position; for a duplicate name, the last one.

    >>> index_of(["qint8", "qint4"])
    {'qint8': 0, 'qint4': 1}
    """
    return {name: place for place, name in enumerate(names)}
