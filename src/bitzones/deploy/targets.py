"""What a plan can be exported to: a new target is a module with a `Target` and a row in `TARGETS`. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, TypeAlias, cast

from bitzones.schema.errors import ArgumentError

if TYPE_CHECKING:
    from bitzones.deploy.export_request import ExportRequest
    from bitzones.deploy.exported import Exported

__all__ = ["RECIPES", "TARGETS", "Target", "target"]


Target: TypeAlias = "Callable[[ExportRequest], Exported]"
"""Writes what a plan says to a folder, or nothing: a fresh copy of its model quantized by it, or a recipe for another tool.

It raises `PlanError` if the plan does not fit the model, or the target cannot hold a format (the message names the module, the format and
the nearest that fits); `ModelError` if the model cannot be loaded or quantized, or what was written is not what was quantized;
`OutputError` if the folder is taken or cannot be written.
"""

TARGETS: Mapping[str, str] = {
    "quanto": "bitzones.deploy.quanto_checkpoint:apply",
    "mlx": "bitzones.deploy.mlx_checkpoint:export",
    "gguf": "bitzones.deploy.gguf_file:export",
    "compressed-tensors": "bitzones.deploy.compressed_tensors_checkpoint:export",
    "llama-quantize": "bitzones.deploy.llama_quantize_recipe:export",
    "auto-round": "bitzones.deploy.auto_round_checkpoint:export",
    "gptq": "bitzones.deploy.gptq_checkpoint:export",
    "modelopt": "bitzones.deploy.modelopt_recipe:export",
    "llm-compressor": "bitzones.deploy.llm_compressor_recipe:export",
}
"""Name -> module and function, imported when it is asked for."""

RECIPES = ("llama-quantize", "auto-round", "gptq", "modelopt", "llm-compressor")
"""Targets that can be a recipe."""


def target(name: str, *, recipe: bool = False) -> Target:
    """The export to a target, which is to be a ``recipe`` if that is asked for.

    Raises:
        ArgumentError: there is none of this name, or it is never a recipe; the message lists those that there are.
    """
    if name not in TARGETS:
        raise ArgumentError(f"there is no export to {name!r}; targets: {', '.join(TARGETS)}")
    if recipe and name not in RECIPES:
        raise ArgumentError(f"an export to {name!r} is no recipe; recipes: {', '.join(RECIPES)}")
    module, _, function = TARGETS[name].partition(":")
    return cast("Target", getattr(import_module(module), function))
