"""What a plan can be exported to: a new target is a module with a `Target` and a row in `TARGETS`. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from bitzones.schema.errors import ArgumentError

if TYPE_CHECKING:
    import torch

    from bitzones.deploy.exported import Exported
    from bitzones.deploy.plan_file import PlanFile

__all__ = ["TARGETS", "Target", "target"]


class Target(Protocol):
    """Writes what a plan says to a folder, or nothing: a fresh copy of its model quantized by it, or a recipe for another tool.

    Raises:
        PlanError: the plan does not fit the model, or the target cannot hold a format: the message names the module, the format and the
            nearest that fits.
        ModelError: the model cannot be loaded or quantized, or what was written is not what was quantized.
        OutputError: the folder is taken or cannot be written.
    """

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
    ) -> Exported: ...


TARGETS: Mapping[str, str] = {
    "quanto": "bitzones.deploy.quanto_checkpoint:apply",
    "mlx": "bitzones.deploy.mlx_checkpoint:export",
    "gguf": "bitzones.deploy.gguf_file:export",
    "compressed-tensors": "bitzones.deploy.compressed_tensors_checkpoint:export",
    "llama-quantize": "bitzones.deploy.llama_quantize_recipe:export",
    "auto-round": "bitzones.deploy.auto_round_recipe:export",
    "gptq": "bitzones.deploy.gptqmodel_recipe:export",
    "modelopt": "bitzones.deploy.modelopt_recipe:export",
    "llm-compressor": "bitzones.deploy.llm_compressor_recipe:export",
}
"""Name -> module and function, imported when it is asked for."""


def target(name: str) -> Target:
    """The export to a target.

    Raises:
        ArgumentError: there is none of this name; the message lists those that there are.
    """
    if name not in TARGETS:
        raise ArgumentError(f"there is no export to {name!r}; targets: {', '.join(TARGETS)}")
    module, _, function = TARGETS[name].partition(":")
    return cast("Target", getattr(import_module(module), function))
