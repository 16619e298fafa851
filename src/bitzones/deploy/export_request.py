"""What an export is asked to do. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bitzones.deploy.plan_file import PlanFile

if TYPE_CHECKING:
    import torch

__all__ = ["ExportRequest", "Notify", "silent"]

Notify = Callable[[str], None]


def silent(message: str) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class ExportRequest:
    """A plan, and where and how it is written.

    Args:
        plan_file: from `plan_file.read_plan`.
        output: folder to create.
        device: where scales are searched for.
        source: of the model, if it is not where the plan says; its hash must be the same.
        trust_remote_code: the user, and not only the plan, allows the model's own code to run.
        force: replace the folder of an earlier export.
        notify: called with each step.
        recipe: write settings for the target's tool where packed weights could be written.
    """

    plan_file: PlanFile
    output: Path
    device: torch.device
    source: str | None = None
    trust_remote_code: bool = False
    force: bool = False
    notify: Notify = silent
    recipe: bool = False
