"""The command that bundles plans. Imports when it runs, so that ``--help`` is fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitzones.cli.export import say
from bitzones.cli.plan_options import ModelSource, QuantizingDevice, RunsCode

__all__ = ["bundle", "register"]


def bundle(
    plans: Annotated[
        list[str],
        typer.Argument(
            metavar="BASE.json [NAME=]TASK.json...",
            help="The base plan, then a plan for each task; or a bundle, to measure it (--measure).",
        ),
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder to create.", metavar="FOLDER")] = None,
    routes: Annotated[
        Path | None, typer.Option("--routes", metavar="ROUTES.toml", help="Rules that choose a task by prompt, system prompt or role.")
    ] = None,
    classify: Annotated[
        Path | None, typer.Option("--classify", metavar="RUN.json", help="Train a classifier of prompts on the train splits of its tasks.")
    ] = None,
    measure: Annotated[
        Path | None,
        typer.Option(
            "--measure", metavar="RUN.json", help="Measure memory, switches, speed, and quality beside one plan of the same memory."
        ),
    ] = None,
    keep_rounding: Annotated[
        bool, typer.Option("--keep-rounding", help="Share modules of equal format although calibrated plans round them differently.")
    ] = False,
    model: ModelSource = None,
    device: QuantizingDevice = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier bundle in FOLDER.")] = False,
    trust_remote_code: RunsCode = False,
) -> None:
    """Bundle plans: one model in memory whose precision follows the task.

    Writes the base plan's checkpoint and, for every other plan, the weights that differ. bitzones.serve.load and 'bitzones serve' load it.
    A task is named by its plan, or as NAME=PLAN.json. --measure also says whether the bundle is worth its memory.

    Example: bitzones bundle report/plan.json report/plans/*.json -o bundle/ --classify report/run.json
    bitzones bundle bundle/ --measure report/run.json
    """
    from bitzones.api.planning import DEVICE

    if not DEVICE.fullmatch(device):
        raise typer.BadParameter(f"{device!r} is not a device: cpu, cuda, cuda:N or auto", param_hint="--device")
    if output is None:
        if len(plans) != 1 or measure is None:
            raise typer.BadParameter("give plans and -o FOLDER, or a bundle and --measure RUN.json", param_hint="PLANS")
        output = Path(plans[0])
    else:
        _make(plans, output, routes, classify, model, device, keep_rounding=keep_rounding, force=force, trusted=trust_remote_code)
    if measure is not None:
        _measure(output, measure)


def _make(
    plans: list[str],
    output: Path,
    routes: Path | None,
    classify: Path | None,
    model: str | None,
    device: str,
    *,
    keep_rounding: bool,
    force: bool,
    trusted: bool,
) -> None:
    from bitzones import bundle as bundled

    base, *tasks = map(_named, plans)
    made = bundled(
        base[1],
        tasks,
        output,
        routes=routes,
        classify=classify,
        keep_rounding=keep_rounding,
        model=model,
        device=device,
        trust_remote_code=trusted,
        force=force,
        notify=say,
    )
    for line in made.lines():
        typer.echo(line)


def _named(given: str) -> tuple[str, Path]:
    """Name and path of ``NAME=PLAN.json``; the name is empty where there is none, or where a file has that very path."""
    name, is_named, path = given.partition("=")
    return ("", Path(given)) if not is_named or Path(given).exists() else (name, Path(path))


def _measure(folder: Path, run: Path) -> None:
    from bitzones import measure_bundle

    for line in measure_bundle(folder, run, notify=say).lines():
        typer.echo(line)


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command()(bundle)
