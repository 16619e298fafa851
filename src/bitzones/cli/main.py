"""The command line: measure, decide, show. Commands import what they need when they run, so that ``--help`` answers at once."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bitzones import __version__
from bitzones.cli import regression
from bitzones.report.terminal.printing import make_printable
from bitzones.schema.errors import BitzonesError

__all__ = ["app", "main"]

EXIT_FAILED_CELLS = 1
"""The report is there, but some cells did not come out."""
EXIT_DIFFERS = 1
"""A deployed folder is not what it was when it was made."""
EXIT_USER_ERROR = 2
"""Something the user can mend, said in one line."""
EXIT_INTERRUPTED = 130
"""Ctrl-C, as shells have it: 128 and the number of the signal."""

app = typer.Typer(
    name="bitzones",
    help="Which layers of a causal language model survive 2 bits? Measured, not guessed.",
    epilog="First time: 'bitzones doctor', then 'bitzones run'. The same in two steps: "
    "'pytest bench/ --benchmark-json=run.json', then 'bitzones collect run.json -o report/'.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Output = Annotated[Path, typer.Option("-o", "--output", help="Folder of the report; made if it is not there.", metavar="FOLDER")]


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        typer.echo(f"bitzones {__version__}")
        raise typer.Exit


@app.command()
def run(
    name: Annotated[str, typer.Argument(metavar="PROFILE", help="A profile that comes with bitzones, or a TOML file.")] = "tiny",
    output: Output = Path("report"),
    data: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Published data sets in the hub's layouts: ai2_arc/, svamp/.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Items of every task, instead of the profile's limits.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier run into FOLDER ended, however it ended.")] = False,
) -> None:
    """Measure a profile, decide, and write the report: the whole chain.

    Writes FOLDER/run.json (every measurement), FOLDER/summary.md (read this first), two diagrams, analysis.json and, where there is a plan,
    plan.json. Exits with 1 where cells failed: the report is written and names them; --resume tries them again. Ctrl-C leaves what there is
    in FOLDER/interrupted/ and exits with 130.

    Examples: bitzones run tiny -o report/
    bitzones run smollm2 --data data/ --limit 1000
    bitzones run smollm2 --data data/ --limit 1000 --resume
    """
    from bitzones.api.requirements import needs
    from bitzones.schema import profile

    profile.load(name).resolved(data, limit)  # a mistake in the profile is said before torch is loaded
    with needs("measure"):
        from bitzones.run import runner
    with runner.alone(output):
        measured = runner.measure(name, output, data, limit, resume=resume)
        _report([measured.run_file], measured.run_file.parent)
        measured.settle()
    if measured.interrupted:
        typer.echo(f"interrupted: {measured.finished} of {measured.cells} cells were finished; --resume goes on from there", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    if measured.failed:
        typer.echo(f"{measured.failed} cells failed: the report names them, {measured.log} has the details", err=True)
        raise typer.Exit(EXIT_FAILED_CELLS)


@app.command()
def collect(
    run_files: Annotated[list[Path], typer.Argument(metavar="RUN.json...", help="What 'pytest bench/ --benchmark-json=RUN.json' wrote.")],
    output: Output = Path("report"),
) -> None:
    """Decide and show: turn a run file into a page, a summary, two diagrams, a plan and analysis.json. Needs no torch.

    Several run files, of models or of tasks, become one report that sets them side by side, and one folder each inside it.

    Example: bitzones collect run.json -o report/
    bitzones collect arc.json svamp.json -o report/
    """
    gc.disable()  # a run is kept to the end: looking for garbage in it takes a twentieth of the time and finds next to none
    _report(run_files, output)


def _report(run_files: Sequence[Path], output: Path) -> None:
    from bitzones import write_report

    report = write_report(run_files, output)
    for line in report.analyses[0].headline if len(run_files) == 1 else ():
        typer.echo(line)
    typer.echo(f"report: {report.path}")


@app.command()
def show(run_file: Annotated[Path, typer.Argument(metavar="RUN.json", help="What a run wrote.")]) -> None:
    """Show a run in the terminal: the answer, the layer map, the plan, the verdicts. Plain text when piped; writes nothing, needs no torch.

    Example: bitzones show report/run.json
    """
    from rich.console import Console

    from bitzones import analyze

    analyze(run_file).show(Console())


@app.command()
def verify(
    run_file: Annotated[Path, typer.Argument(metavar="RUN.json", help="A run that measured whole plans.")],
    plan: Annotated[Path, typer.Option("--plan", metavar="OTHER.json", help="Module name or pattern to format, or a plan.json.")],
    output: Output = Path("report"),
) -> None:
    """Measure a plan that was made elsewhere beside those of a run: same held-out sequences, same items.

    Writes FOLDER/run.json, a copy of the run with that plan in it, and the report on it. The run's own file stays as it is, unless it is
    FOLDER/run.json. The plan is named by its file.

    Example: bitzones verify report/run.json --plan other.json -o verified/
    """
    from bitzones import measure_plan

    measure_plan(run_file, plan, place := output / "run.json", notify=_say)
    _report([place], output)


@app.command()
def apply(
    plan: Annotated[Path | None, typer.Argument(metavar="PLAN.json", help="What 'bitzones collect' or 'bitzones run' wrote.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder to make.", metavar="FOLDER")] = None,
    check: Annotated[
        Path | None, typer.Option("--check", help="Make nothing: is this folder what it was when it was made?", metavar="FOLDER")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Where the plan's model is now, if not where the plan says.", metavar="SOURCE")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto: where to quantize and to compare.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Replace the folder of an earlier 'bitzones apply'.")] = False,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Let the model's own code run, if the plan asks.")] = False,
) -> None:
    """Deploy: quantize the plan's model and write a folder that any user of quanto can load, reloaded and compared before it is there.

    With --check: exits with 1 where the folder is not what it was, or computes something else, and with 2 where that cannot be told.

    Example: bitzones apply report/plan.json -o model/
    """
    from bitzones import export
    from bitzones.api.planning import DEVICE

    if not DEVICE.fullmatch(device):
        raise typer.BadParameter(f"{device!r} is not a device: cpu, cuda, cuda:N or auto", param_hint="--device")
    if check is not None:
        if plan is not None or output is not None:
            raise typer.BadParameter("--check makes nothing: it goes without PLAN.json and -o", param_hint="--check")
        _check(check, device)
    elif plan is None or output is None:
        raise typer.BadParameter("give PLAN.json and -o FOLDER, or --check FOLDER", param_hint="PLAN.json")
    else:
        made = export(plan, output, model=model, device=device, trust_remote_code=trust_remote_code, force=force, notify=_say)
        for line in made.lines():
            typer.echo(line)


def _check(folder: Path, device: str) -> None:
    from bitzones import verify_export

    if (difference := verify_export(folder, device=device, notify=_say)) is not None:
        typer.echo(f"bitzones: {difference}", err=True)
        raise typer.Exit(EXIT_DIFFERS)
    typer.echo(f"{folder}: as it was made: files, formats, group sizes and what it computes")


@app.command()
def release(
    name: Annotated[str, typer.Argument(metavar="PROFILE", help="Its model, tasks and formats are measured, on the CPU.")] = "releases",
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.", metavar="RUN.json")] = Path("release.json"),
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Items of every task, instead of the profile's limits.")] = None,
) -> None:
    """Measure what the releases of quanto and transformers that are installed make of a model; older ones too, back to quanto 0.2.1.

    Writes a run file: answers, KL and stored bytes of every format, what was quantized, and whether a saved model comes back the same.
    'bitzones compare' sets two of them side by side, 'bitzones matrix' any number.

    Example: bitzones release -o releases/quanto-0.2.7.json
    """
    import json

    from bitzones.api.requirements import needs
    from bitzones.schema import profile
    from bitzones.schema.files import write_text

    chosen = profile.load(name).resolved(None, limit)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # the older ones warn of the tokenizer that the newer ones wrote
    with needs("measure"):
        from bitzones.run import release as measuring
    write_text(output, json.dumps(measuring.measure(chosen, _say), indent=1) + "\n")
    typer.echo(f"wrote {output}")


def _say(message: str) -> None:
    """How far it is, where somebody is looking."""
    if sys.stderr.isatty():
        typer.echo(message, err=True)


regression.register(app)


@app.command()
def doctor(
    build: Annotated[bool, typer.Option("--build", help="Only build quanto's extensions; exit 1 where one cannot be built.")] = False,
) -> None:
    """Say what this machine can measure, and what to do where it cannot.

    Prints versions, devices and whether quanto's C++ extension can be built, building it if need be (about a minute, once). With
    --build, as in the making of an image, the CUDA extension too: without a GPU for those of TORCH_CUDA_ARCH_LIST.
    """
    from bitzones.cli import doctor as examination

    failed = False
    for finding in examination.build() if build else examination.examine():
        failed = failed or (build and bool(finding.advice))
        typer.echo(f"{finding.what:<20} {finding.found}")
        if finding.advice:
            typer.echo(f"{'':<20} -> {finding.advice}")
    if failed:
        raise typer.Exit(EXIT_FAILED_CELLS)


@app.command()
def profiles() -> None:
    """List the profiles that come with bitzones."""
    from bitzones.schema import profile

    for name in profile.available():
        typer.echo(f"{name:<16} {profile.load(name).description}")


def main() -> None:
    """Entry point: an error that the user can mend is one line on standard error and exit code 2."""
    make_printable()
    try:
        app()
    except BitzonesError as error:
        sys.stderr.write(f"bitzones: {error}\n")
        sys.exit(EXIT_USER_ERROR)
