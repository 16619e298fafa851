"""How long work says how far it is, so that whoever runs it can draw a bar; it does not know who listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Progress", "silent"]

Progress: TypeAlias = Callable[[float], None]
"""Told the share of the work that is done, from 0 to 1."""


def silent(done: float) -> None:
    """Listen to nothing: the default where nobody draws a bar."""
