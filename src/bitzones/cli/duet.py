"""The command that measures two environments in turn. It needs no torch itself; its sides do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitzones.cli.regression import PROJECT

if TYPE_CHECKING:
    from bitzones.duets.watch import DuetWatch

__all__ = ["duet", "register"]

EXIT_STOPPED = 2
"""A side failed; what was measured is in the file."""
EXIT_INTERRUPTED = 130


def duet(
    old: Annotated[
        str,
        typer.Argument(
            metavar="OLD",
            help="The baseline: a virtual environment, a wheel or checkout of bitzones, requirements such as 'optimum-quanto==0.2.4', "
            "git:REF (a commit of bitzones), docker:IMAGE, or 'this'.",
        ),
    ],
    new: Annotated[str, typer.Argument(metavar="[NEW]", help="What is judged, named in the same way.")] = "this",
    profile: Annotated[str, typer.Argument(metavar="[PROFILE]", help="An installed profile, or a TOML file.")] = "duet",
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DUET.json", help="File to write.")] = Path("duet.json"),
    markdown: Annotated[Path | None, typer.Option(metavar="DELTA.md", help="Write Markdown for a pull request.")] = None,
    aa: Annotated[bool, typer.Option("--aa", help="Measure NEW against itself: false alarms, and the smallest change seen.")] = False,
    minutes: Annotated[float, typer.Option(min=0.01, help="Most minutes a cell; undecided by then, it is inconclusive.")] = 15.0,
    round_limit: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="A round that takes longer hangs.")] = 120.0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each side, on as many cores, which both share.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of the rounds.")] = 0,
    only: Annotated[str, typer.Option(metavar="NAME", help="Time only cells with this in their name, such as 'w4 decode'.")] = "",
    times: Annotated[bool, typer.Option("--times", help="Times only: no accuracy, divergence and memory.")] = False,
    in_turn: Annotated[
        bool, typer.Option("--in-turn", help="Hold one model in memory at a time: slower, pairs lie further apart.")
    ] = False,
    instructions: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN.json", readable=False, help="Count instructions instead of times: of collect, report and compare on a run."
        ),
    ] = None,
    fail_on: Annotated[str | None, typer.Option(metavar="WORDS", help="As in 'bitzones compare'.")] = None,
    project: Annotated[
        Path | None, typer.Option(metavar="PYPROJECT.toml", help="Read [tool.bitzones.gate] from this file instead of ./pyproject.toml.")
    ] = None,
) -> None:
    """Measure two environments against each other, round by round in turn, until it is known what became slower.

    Both sides see the same machine, so a busy one makes a duet longer, not wrong. Exit codes as in 'bitzones compare'; 2 if a side fails.

    Examples: bitzones duet optimum-quanto==0.2.6 this -o duet.json
    bitzones duet last-release.whl . --markdown delta.md
    bitzones duet git:v0.1.0 . --instructions run.json
    """
    import bitzones
    from bitzones.regression import gate as gates
    from bitzones.schema import profile_files
    from bitzones.schema.files import write_text

    gates.fail_on(fail_on)
    chosen = profile_files.load(profile).resolved()
    gate = gates.tolerances(chosen.gate, project if project is not None else PROJECT if PROJECT.is_file() else None)
    with _watched() as watch:
        try:
            found = bitzones.duet(
                new if aa else old, new, chosen, gate=gate, cell_limit_s=60 * minutes, round_limit_s=round_limit, threads=threads,
                seed=seed, checks=not times, select=only, in_turn=in_turn, instructions=instructions, watch=watch,
            )  # fmt: skip
        except bitzones.NotMeasuredError as error:
            if instructions is None:
                raise
            typer.echo(str(error))  # a machine without a counter is no mistake, and closes no gate
            return
    write_text(output, found.to_json())
    comparison = found.comparison()
    if markdown is not None:
        write_text(markdown, comparison.to_markdown(fail_on))
    for line in (*(found.false_alarms() if found.aa else ()), *comparison.lines(fail_on), f"wrote {output}"):
        typer.echo(line)
    if found.stopped:
        typer.echo(f"bitzones: {found.stopped}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED if found.stopped == "interrupted" else EXIT_STOPPED)
    if code := comparison.exit_code(fail_on):
        raise typer.Exit(code)


@contextmanager
def _watched() -> Iterator[DuetWatch]:
    """Progress on standard error: a line a step, and on a terminal what is going on between them."""
    from rich.console import Console

    from bitzones.duets.watch import DuetWatch

    console = Console(stderr=True)
    if not console.is_terminal:
        yield DuetWatch(say=_line)
        return
    with console.status("starting both sides") as status:
        yield DuetWatch(say=lambda line: console.print(line, markup=False, highlight=False), live=status.update)


def _line(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command()(duet)
