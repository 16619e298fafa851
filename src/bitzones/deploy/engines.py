"""Engines that a plan can be exported for: a new one is a function of `Engine` and a row in `ENGINES`. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bitzones.deploy.plan_file import PlanFile
from bitzones.schema.errors import ArgumentError

if TYPE_CHECKING:
    import torch

    from bitzones.deploy.quanto_checkpoint import Applied

__all__ = ["ENGINES", "Engine", "engine"]


class Engine(Protocol):
    """Quantizes a fresh copy of the plan's model and writes it to a folder that the engine loads: all of it, or nothing."""

    def __call__(
        self,
        plan_file: PlanFile,
        output: Path,
        device: torch.device,
        *,
        source: str | None,
        trust_remote_code: bool,
        force: bool,
        notify: Callable[[str], None],
    ) -> Applied: ...


def _quanto() -> Engine:
    from bitzones.deploy.quanto_checkpoint import apply  # noqa: PLC0415  # torch only when something is exported

    return apply


ENGINES: Mapping[str, Callable[[], Engine]] = {"quanto": _quanto}
"""Name -> what imports the engine's export."""


def engine(name: str) -> Engine:
    """The export for an engine.

    Raises:
        ArgumentError: there is none of this name; the message lists those that there are.
    """
    if name not in ENGINES:
        raise ArgumentError(f"there is no export for the engine {name!r}; engines: {', '.join(ENGINES)}")
    return ENGINES[name]()
