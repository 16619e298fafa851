"""The command that turns a plan into what another engine or tool loads. Imports when it runs, so that ``--help`` is fast."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bitzones.cli.plan_options import ModelSource, PlanFile, QuantizingDevice, RunsCode
from bitzones.deploy.targets import TARGETS

__all__ = ["export", "register", "say", "verify_in"]

EXIT_EXCEEDS = 1
"""The engine costs more than the tolerance."""


def export(
    plan: PlanFile,
    to: Annotated[str, typer.Option("--to", help=f"What is to load it: {', '.join(TARGETS)}.", metavar="TARGET")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to create.", metavar="FOLDER")],
    model: ModelSource = None,
    device: QuantizingDevice = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export in FOLDER.")] = False,
    recipe: Annotated[
        bool, typer.Option("--recipe", help="Settings for the tool, also where auto-round or gptq could have the weights of int formats.")
    ] = False,
    trust_remote_code: RunsCode = False,
) -> None:
    """Export a plan for another engine or tool.

    Weights are stored with the same integers, scales and shifts, read back, and loaded by the engine where it is installed. What a target
    cannot hold is refused with the module, its format and the nearest that fits; nothing is rounded to something else.

    Example: bitzones export report/plan.json --to mlx -o model-mlx/
    """
    from bitzones import export as exported
    from bitzones.api.planning import DEVICE

    if not DEVICE.fullmatch(device):
        raise typer.BadParameter(f"{device!r} is not a device: cpu, cuda, cuda:N or auto", param_hint="--device")
    made = exported(
        plan, output, to=to, model=model, device=device, trust_remote_code=trust_remote_code, force=force, recipe=recipe, notify=say
    )
    for line in made.lines():
        typer.echo(line)


def verify_in(folder: Path, engine: str, run_file: Path, tolerance: float | None) -> None:
    """Print what an exported model computes in its engine, and exit with 1 where the engine's share exceeds the tolerance."""
    from bitzones import measure_export

    found = measure_export(folder, run_file, engine=engine, tolerance=tolerance, notify=say)
    for line in found.lines():
        typer.echo(line)
    if found.exceeds:
        raise typer.Exit(EXIT_EXCEEDS)


def say(message: str) -> None:
    """Progress, if a terminal is attached."""
    if sys.stderr.isatty():
        typer.echo(message, err=True)


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command()(export)
