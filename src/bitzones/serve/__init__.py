"""Plans that follow the task: bundles of plans in memory, routing between them, and a server for people who try a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitzones.serve.served_loader import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """`load`, whose module loads torch when it is imported (PEP 562)."""
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bitzones.serve.served_loader import load  # noqa: PLC0415

    return load
