"""The command line. Commands import what they need when they run, so that ``--help`` is fast."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from bitzones import __version__
from bitzones.cli import bundle_command, duet, monitor_command, regression, serve_command, sweep_commands, tune_command
from bitzones.cli import export as exporting
from bitzones.cli.plan_options import ModelSource, RunsCode
from bitzones.report.terminal.printing import make_printable
from bitzones.schema.errors import BitzonesError

__all__ = ["app", "main"]

EXIT_FAILED_CELLS = 1
"""The report was written, but some cells failed."""
EXIT_DIFFERS = 1
"""An export differs from what was written."""
EXIT_USER_ERROR = 2
"""A user's mistake, explained in one line."""
EXIT_INTERRUPTED = 130
"""Ctrl-C, as in shells: 128 plus the number of the signal."""

app = typer.Typer(
    name="bitzones",
    help="Which layers of a causal language model survive 2 bits? Quantize, measure, plan and compare.",
    epilog="Start with 'bitzones doctor', then 'bitzones run'. The same in two steps: "
    "'pytest bench/ --benchmark-json=run.json', then 'bitzones collect run.json -o report/'.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Output = Annotated[Path, typer.Option("-o", "--output", help="Folder of the report; created if missing.", metavar="FOLDER")]


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"bitzones {__version__}")
        raise typer.Exit


@app.command()
def run(
    name: Annotated[str, typer.Argument(metavar="PROFILE", help="An installed profile, or a TOML file.")] = "tiny",
    output: Output = Path("report"),
    data: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Data sets in the hub's layout: ai2_arc/, svamp/.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Items per task; overrides the profile.")] = None,
    by_task: Annotated[bool, typer.Option("--by-task", help="Also make a plan of the same size for each task.")] = False,
    by_domain: Annotated[bool, typer.Option("--by-domain", help="Also make one for each source of the sensitivity set.")] = False,
    effort: Annotated[
        Literal["full", "adaptive"] | None, typer.Option(help="Sequences of the sweep: all, or those that the plan needs.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted or failed run in FOLDER.")] = False,
    sweep: Annotated[
        Path | None, typer.Option("--sweep", metavar="SWEEP.json", help="Take the sensitivities from 'bitzones merge'.", readable=False)
    ] = None,
    ray: Annotated[
        str | None, typer.Option("--ray", metavar="ADDRESS", help="Measure the sensitivities on a Ray cluster; 'local' starts one here.")
    ] = None,
    ray_workers: Annotated[int | None, typer.Option(min=1, metavar="N", help="Most workers.  [as many as fit]")] = None,
    ray_cpus: Annotated[int, typer.Option(min=1, metavar="N", help="CPUs of a worker without a GPU.")] = 1,
    ray_gpus: Annotated[int, typer.Option(min=1, metavar="N", help="GPUs of a worker: as many as hold the model.")] = 1,
) -> None:
    """Measure a profile, analyze it and write the report.

    Writes FOLDER/run.json (every measurement), report.html and summary.md (read one of these first), two diagrams, analysis.json and, if
    there is a plan, plan.json. With --by-task or --by-domain it also writes plans/TASK.json, and the report says what each of these plans
    gains on its own task and costs on the others. Exits with 1 if cells failed: the report names them, and --resume retries them. Ctrl-C
    writes a partial report to FOLDER/interrupted/ and exits with 130.

    --sweep adopts sensitivities that several machines measured ('bitzones measure --shard'); --ray lets workers of a Ray cluster measure
    them, one model each: one per GPU (--ray-gpus), or per --ray-cpus CPUs.

    Examples: bitzones run tiny -o report/
    bitzones run smollm2 --data data/ --resume
    bitzones run tiny --by-task
    bitzones run smollm2 --ray local
    """
    from bitzones.run import garbage
    from bitzones.run.ray_options import RayOptions
    from bitzones.schema import profile_files
    from bitzones.schema.requirements import needs

    if by_task and by_domain:
        raise typer.BadParameter("give --by-task or --by-domain", param_hint="--by-domain")
    by: Literal["task", "domain"] | None = "task" if by_task else "domain" if by_domain else None
    if sweep is not None and ray is not None:
        raise typer.BadParameter("give --sweep or --ray: the sensitivities are measured once", param_hint="--ray")
    cluster = None if ray is None else RayOptions(ray, ray_workers, ray_cpus, ray_gpus, resume)
    if cluster is not None:
        cluster.require_package()
    profile_files.load(name).resolved(data, limit, by, effort)  # a mistake in the profile is said before torch is loaded
    with needs("measure"), garbage.suspended():
        from bitzones.run import runner

        gc.freeze()  # all of it stays to the end of the process: no search looks at it again, and pytest makes five when it is done
    with runner.alone(output):
        measured = runner.measure(name, output, data, limit, by=by, effort=effort, resume=resume, sweep=sweep, ray=cluster)
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
    run_files: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN.json...", readable=False, help="Written by 'bitzones run' or 'pytest bench/ --benchmark-json=RUN.json'."
        ),
    ],
    output: Output = Path("report"),
) -> None:
    """Analyze a run file and write the report. Needs no torch.

    Several run files, of different models or tasks, become one side-by-side report with a folder for each inside.

    Example: bitzones collect run.json -o report/
    bitzones collect arc.json svamp.json -o report/
    """
    _report(run_files, output)


def _report(run_files: Sequence[Path], output: Path) -> None:
    from bitzones import write_report

    gc.disable()  # a run is kept to the end: looking for garbage in it takes a twentieth of the time and finds next to none
    report = write_report(run_files, output)
    for line in report.analyses[0].headline if len(run_files) == 1 else ():
        typer.echo(line)
    typer.echo(f"report: {report.path}")


@app.command()
def show(run_file: Annotated[Path, typer.Argument(metavar="RUN.json", readable=False, help="A run file.")]) -> None:
    """Show a run in the terminal: answer, layer map, plan and verdicts.

    Plain text when piped. Writes no files and needs no torch.

    Example: bitzones show report/run.json
    """
    from rich.console import Console

    from bitzones import analyze

    analyze(run_file).show(Console())


@app.command()
def verify(
    what: Annotated[
        Path,
        typer.Argument(metavar="RUN.json|MODEL", readable=False, help="A run that measured whole plans; with --in, an exported folder."),
    ],
    plan: Annotated[
        Path | None, typer.Option("--plan", metavar="OTHER.json", help="A JSON object of module name or pattern to format, or a plan.json.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--in", metavar="ENGINE", help="Load MODEL in this engine: mlx, llama.cpp, gptqmodel or transformers.")
    ] = None,
    run_file: Annotated[
        Path, typer.Option("--run", metavar="RUN.json", help="With --in: the run that the plan of MODEL comes from.")
    ] = Path("report/run.json"),
    tolerance: Annotated[
        float | None, typer.Option(min=0, metavar="NATS", help="With --in: exit 1 if the engine's share of the KL is larger.")
    ] = None,
    output: Output = Path("report"),
) -> None:
    """Measure a plan from another tool beside a run's own plans, or an exported model in its engine.

    --plan measures on the run's held-out sequences and items, and writes FOLDER/run.json, a copy of the run with the plan added, and its
    report; the plan is named after its file, and RUN.json is not changed unless it is FOLDER/run.json. --in feeds the run's held-out tokens
    to an engine and prints the KL to the reference: quantization's share, the engine's share and the total.

    Example: bitzones verify report/run.json --plan other.json -o verified/
    bitzones verify model-gguf/ --in llama.cpp --run report/run.json
    """
    from bitzones import measure_plan

    if (plan is None) == (engine is None):
        raise typer.BadParameter("give RUN.json and --plan OTHER.json, or MODEL and --in ENGINE", param_hint="--plan")
    if engine is not None:
        exporting.verify_in(what, engine, run_file, tolerance)
    elif plan is not None:
        measure_plan(what, plan, place := output / "run.json", notify=exporting.say)
        _report([place], output)


@app.command()
def apply(
    plan: Annotated[
        Path | None, typer.Argument(metavar="PLAN.json", readable=False, help="Written by 'bitzones run' or 'bitzones collect'.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder to create.", metavar="FOLDER")] = None,
    check: Annotated[Path | None, typer.Option("--check", help="Verify an existing export.", metavar="FOLDER")] = None,
    model: ModelSource = None,
    device: Annotated[str, typer.Option(help="Where to quantize and compare: cpu, cuda, cuda:N or auto.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export in FOLDER.")] = False,
    trust_remote_code: RunsCode = False,
) -> None:
    """Quantize the plan's model and write a checkpoint that optimum-quanto loads.

    The folder is reloaded and its logits compared before it appears. --check exits with 1 if the export differs from what was written, and
    with 2 if that cannot be checked here.

    Example: bitzones apply report/plan.json -o model/
    """
    from bitzones import export
    from bitzones.api.planning import DEVICE

    if not DEVICE.fullmatch(device):
        raise typer.BadParameter(f"{device!r} is not a device: cpu, cuda, cuda:N or auto", param_hint="--device")
    if check is not None:
        if plan is not None or output is not None:
            raise typer.BadParameter("--check takes neither PLAN.json nor -o", param_hint="--check")
        _check(check, device)
    elif plan is None or output is None:
        raise typer.BadParameter("give PLAN.json and -o FOLDER, or --check FOLDER", param_hint="PLAN.json")
    else:
        made = export(plan, output, model=model, device=device, trust_remote_code=trust_remote_code, force=force, notify=exporting.say)
        for line in made.lines():
            typer.echo(line)


def _check(folder: Path, device: str) -> None:
    from bitzones import verify_export

    if (difference := verify_export(folder, device=device, notify=exporting.say)) is not None:
        typer.echo(f"bitzones: {difference}", err=True)
        raise typer.Exit(EXIT_DIFFERS)
    typer.echo(f"{folder}: verified: hashes, formats, group sizes and outputs match the export")


sweep_commands.register(app)
tune_command.register(app)
exporting.register(app)
serve_command.register(app)
bundle_command.register(app)


@app.command()
def release(
    name: Annotated[str, typer.Argument(metavar="PROFILE", help="The model, tasks and formats to measure, on the CPU.")] = "releases",
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.", metavar="RUN.json")] = Path("release.json"),
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Items per task; overrides the profile.")] = None,
) -> None:
    """Measure the installed releases of quanto (0.2.1 and later) and transformers.

    Writes a run file: answers, KL and stored bytes of every format, which modules were quantized, and whether a saved model reloads
    unchanged. 'bitzones compare' compares two such files, 'bitzones matrix' any number.

    Example: bitzones release -o releases/quanto-0.2.7.json
    """
    import json

    from bitzones.schema import profile_files
    from bitzones.schema.files import write_text
    from bitzones.schema.requirements import needs

    chosen = profile_files.load(name).resolved(None, limit)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # the older ones warn of the tokenizer that the newer ones wrote
    with needs("measure"):
        from bitzones.run import release as measuring
    write_text(output, json.dumps(measuring.measure(chosen, exporting.say), indent=1) + "\n")
    typer.echo(f"wrote {output}")


regression.register(app)
duet.register(app)
monitor_command.register(app)


@app.command()
def doctor(
    build: Annotated[bool, typer.Option("--build", help="Only build quanto's extensions; exit 1 if one fails.")] = False,
) -> None:
    """Report what this machine can measure, and how to fix what it cannot.

    Prints versions, devices and the state of quanto's C++ extension, which is built if missing (about a minute, once). --build also builds
    the CUDA extension, for use in an image; without a GPU, for the architectures in TORCH_CUDA_ARCH_LIST.
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
    """List the installed profiles."""
    from bitzones.schema import profile_files

    for name in profile_files.available():
        typer.echo(f"{name:<16} {profile_files.load(name).description}")


def main() -> None:
    """Entry point: a user's mistake is one line on standard error and exit code 2."""
    make_printable()
    try:
        app()
    except BitzonesError as error:
        sys.stderr.write(f"bitzones: {error}\n")
        sys.exit(EXIT_USER_ERROR)
