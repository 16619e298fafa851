"""Arguments that every command takes which makes something of a plan: apply, bundle, export, tune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["ModelSource", "PlanFile", "QuantizingDevice", "RunsCode"]

PlanFile = Annotated[Path, typer.Argument(metavar="PLAN.json", readable=False, help="Written by 'bitzones run' or 'bitzones collect'.")]
ModelSource = Annotated[str | None, typer.Option(help="The plan's model, if it has moved.", metavar="SOURCE")]
QuantizingDevice = Annotated[str, typer.Option(help="Where to quantize: cpu, cuda, cuda:N or auto.")]
RunsCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run the model's own code if the plan needs it.")]
