"""What all recipes have in common: a plan as the settings of a tool that quantizes by itself, from the original weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeAlias

import torch
from transformers import PreTrainedModel

from bitzones import __version__
from bitzones.deploy import folders, manifest, prepared, verify
from bitzones.deploy.export_request import ExportRequest
from bitzones.deploy.exported import Exported
from bitzones.deploy.model_card import escaped
from bitzones.deploy.plan_file import PlanFile
from bitzones.deploy.targets import Target
from bitzones.models import structure
from bitzones.schema.formats import format_bits

__all__ = ["GROUPS", "Recipe", "Setting", "exporter", "group_for", "settings"]

GROUPS = (128, 64, 32)
"""Weights that share a scale in the kernels of these tools."""


@dataclass(frozen=True)
class Setting:
    """What a tool is told of a module: ``group`` is -1 where a row shares a scale; only 8 bits are symmetric."""

    bits: int
    group: int

    @property
    def symmetric(self) -> bool:
        """Whether there is no zero point."""
        return self.bits == 8


def group_for(columns: int, group: int | None) -> int:
    """The largest usual group that divides quanto's; -1, a whole row, where none does.

    >>> group_for(576, 96), group_for(4096, 128), group_for(576, None)
    (32, 128, -1)
    """
    return -1 if group is None else next((size for size in GROUPS if group % size == 0), -1)


def settings(model: PreTrainedModel, plan_file: PlanFile) -> dict[str, Setting]:
    """Module -> what a tool is told of it; modules that stay as they are, are absent."""
    plan_file.check_backends("this recipe", "quanto", "mlx", "int")
    return {
        name: Setting(format_bits(format_), group_for(model.get_parameter(f"{name}.weight").shape[1], plan_file.group_sizes[name]))
        for name, format_ in plan_file.formats.items()
    }


class Recipe(Protocol):
    """The settings of a tool."""

    name: str
    tool: str
    """In Markdown, with a link."""

    def files(self, model: PreTrainedModel, plan_file: PlanFile) -> dict[str, str]:
        """File name -> text.

        Raises:
            PlanError: the tool cannot do what the plan asks; the message names the module, its format and the nearest that fits.
        """

    def usage(self, plan_file: PlanFile) -> str:
        """How to use them, as a block of Markdown."""


Also: TypeAlias = Callable[[PreTrainedModel, PlanFile, Path, torch.device], None]
"""Writes what takes a pass over the model to the folder."""


def exporter(recipe: Recipe, also: Also | None = None) -> Target:
    """The export that `bitzones.deploy.targets` offers."""
    return partial(_export, recipe, also)


def _export(recipe: Recipe, also: Also | None, request: ExportRequest) -> Exported:
    """Write a recipe to a folder: all of it, or nothing.

    Raises:
        PlanError, ModelError, OutputError: as `bitzones.deploy.targets.Target`.
    """
    plan_file, output = request.plan_file, request.output
    with folders.replacing(output, marker=manifest.MANIFEST, force=request.force) as folder, prepared.no_bars():
        _, loaded = prepared.opened(request)
        files = recipe.files(loaded.model, plan_file)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        if also is not None:
            request.notify("collecting what the tool needs of the model")
            also(loaded.model, plan_file, folder, request.device)
        (folder / verify.PLAN_FILE).write_text(plan_file.text, encoding="utf-8")
        (folder / "README.md").write_text(_readme(recipe, plan_file), encoding="utf-8")
        manifest.write(folder, recipe.name)
        counts = dict(Counter(plan_file.plan.assignment.values()).most_common())
        unnamed = len(set(structure.quantizable_modules(loaded.model)) - set(plan_file.plan.assignment))
    checked = "a recipe: its tool quantizes by itself, so measure what comes out"
    return Exported(output, 0, 0, counts, unnamed, checked, f"Use {', '.join(files)} as README.md there says")


def _readme(recipe: Recipe, plan_file: PlanFile) -> str:
    return f"""\
# {escaped(plan_file.model.source)}: a recipe for {recipe.tool}

{recipe.usage(plan_file)}

The tool rounds weights in its own way, so what bitzones measured in other formats than the tool's is no measurement of the result. Which
modules can take few bits is measured; measure what comes out too.

Made by bitzones {__version__} from `plan.json` in this folder, for weights with the SHA-256 {escaped(plan_file.model.sha256)}.
"""
