"""Progress callbacks of long work."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Progress", "silent"]

Progress: TypeAlias = Callable[[float], None]
"""Receives the share of the work that is done, from 0 to 1."""


def silent(done: float) -> None:
    """Listen to nothing: the default where nobody draws a bar."""
