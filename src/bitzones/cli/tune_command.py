"""The command that tunes a plan. Imports when it runs, so that ``--help`` is fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitzones.cli.export import say
from bitzones.cli.plan_options import ModelSource, PlanFile, RunsCode

__all__ = ["register", "tune"]


def tune(
    plan: PlanFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="Plan to write; its weights are beside it.", metavar="TUNED.json")],
    text: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="SOURCE", help="A text file, data set or embedded:NAME; may be repeated. [the plan's sequences]"),
    ] = None,
    tokens: Annotated[int | None, typer.Option(metavar="N", help="Tokens of text to take.  [32768]")] = None,
    passes: Annotated[int | None, typer.Option(metavar="N", help="Most passes over the text.  [2]")] = None,
    batch: Annotated[int | None, typer.Option(metavar="N", help="Sequences of a step.  [4]")] = None,
    learning_rate: Annotated[float | None, typer.Option(metavar="RATE", help="In steps of a weight's grid.  [0.004]")] = None,
    norms: Annotated[bool, typer.Option("--norms", help="Train the parameters of normalization layers too.")] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the order of the sequences.")] = 0,
    model: ModelSource = None,
    device: Annotated[str, typer.Option(help="Where to train: cpu, cuda, cuda:N or auto.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Replace TUNED.json and its weights.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted tuning.")] = False,
    trust_remote_code: RunsCode = False,
) -> None:
    """Train a plan's scales and shifts towards the reference; its bytes stay.

    Writes TUNED.json and TUNED.safetensors, which 'bitzones apply' and 'bitzones export' need together. A tenth of the text is kept
    aside to stop early on. Measure the result on text that it was not tuned on: a profile with [tuning] does.

    Example: bitzones tune report/plan.json -o tuned.json --text c4.txt --text code.txt
    """
    from bitzones import tune as tuned

    made = tuned(
        plan,
        output,
        text=text or (),
        tokens=tokens,
        passes=passes,
        batch=batch,
        learning_rate=learning_rate,
        norms=norms,
        seed=seed,
        model=model,
        device=device,
        trust_remote_code=trust_remote_code,
        force=force,
        resume=resume,
        notify=say,
    )
    found = made.tuning
    assert found is not None
    typer.echo(
        f"{output}, {found.file}: KL {found.before:.3g} -> {found.after:.3g} nats/token on {found.validation_tokens:,} tokens kept aside, "
        f"{found.tokens:,} trained on; bytes unchanged"
    )


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command()(tune)
