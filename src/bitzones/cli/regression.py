"""The commands that compare runs. They only read run files; none needs torch.

Commands import what they need when they run, so that ``--help`` is fast.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitzones.schema.errors import RunFileError

if TYPE_CHECKING:
    from bitzones import KeptRun, RunFile

__all__ = ["compare", "export_metrics", "list_", "matrix", "register", "save", "show", "trend"]

STORAGE = Path(".benchmarks")
"""pytest-benchmark's own folder."""

PROJECT = Path("pyproject.toml")
"""Its ``[tool.bitzones.gate]`` is read by default, if it exists."""


def compare(
    old: Annotated[
        Path,
        typer.Argument(metavar="OLD.json", readable=False, help="The baseline run; with --against, the run to judge; or a duet, alone."),
    ],
    new: Annotated[Path | None, typer.Argument(metavar="[NEW.json]", readable=False, help="The run to judge.")] = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Compare with the newest run in FOLDER of the same profile, model and machine."),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Earlier runs, four or more of one release: they show how far times drift between runs of this machine, and changes of "
            "time are judged by that drift. Default: the folder of --against.",
        ),
    ] = None,
    duet: Annotated[
        Path | None,
        typer.Option(metavar="DUET.json", help="A duet of both runs' releases ('bitzones duet'): its verdicts on times replace theirs."),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="DELTA.md", help="Write Markdown for a pull request.")] = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="DELTA.json", help="Write the same as JSON.")] = None,
    fail_on: Annotated[
        str | None,
        typer.Option(
            metavar="WORDS", help="Exit 1 on any of worse,missing,failed (the default), inconclusive, incomparable, new, moved; or none."
        ),
    ] = None,
    project: Annotated[
        Path | None, typer.Option(metavar="PYPROJECT.toml", help="Read [tool.bitzones.gate] from this file instead of ./pyproject.toml.")
    ] = None,
) -> None:
    """Compare two runs cell by cell: worse, same, better, inconclusive, missing, new or incomparable.

    Exits with 0 if nothing is worse, missing or failed, with 1 if something is, and with 2 if nothing can be compared. Needs no torch.

    Examples: bitzones compare old.json new.json -o delta.md
    bitzones compare new.json --against .benchmarks
    bitzones compare duet.json
    """
    import bitzones
    from bitzones.regression import gate as gates
    from bitzones.schema.files import write_text

    gates.fail_on(fail_on)  # a mistake in it is reported before a run is read
    place = project if project is not None else PROJECT if PROJECT.is_file() else None
    if new is None and against is None and _is_duet(old):
        played = bitzones.read_duet(old)
        comparison = played.comparison(gates.tolerances(played.gate, place))
    else:
        past = history if history is not None else against
        kept = bitzones.list_baselines(past) if past is not None else ()
        base, judged = _two_runs(old, new, against)
        _name_faults(kept)
        gate = gates.tolerances(judged.run.profile.gate, place)
        comparison = bitzones.compare(base, judged, gate=gate, history=[item.run for item in kept if item.run is not None], duet=duet)
    code = comparison.exit_code(fail_on)
    if output is not None:
        write_text(output, comparison.to_markdown(fail_on))
    if json is not None:
        write_text(json, comparison.to_json())
    for line in comparison.lines(fail_on):
        typer.echo(line)
    if code:
        raise typer.Exit(code)


def _is_duet(path: Path) -> bool:
    from bitzones.regression.duet_changes import is_duet

    return path.is_file() and is_duet(path.read_bytes())


def _two_runs(old: Path, new: Path | None, against: Path | None) -> tuple[RunFile, RunFile]:
    """The baseline and the run to judge."""
    import bitzones

    if against is not None and new is None:
        judged = bitzones.read_run(old)
        base = bitzones.find_baseline(judged, against)
        typer.echo(f"against {base.path}")
        return base, judged
    if new is None or against is not None:
        raise typer.BadParameter("give OLD.json and NEW.json, or NEW.json and --against FOLDER", param_hint="NEW.json")
    base, judged = bitzones.read_run(old), bitzones.read_run(new)
    if old.resolve() == new.resolve():
        raise RunFileError(f"{old}: compared with itself")
    return base, judged


def _name_faults(kept: Iterable[KeptRun]) -> None:
    """Name the files of a storage that cannot be used, on standard error."""
    for item in kept:
        if item.fault is not None:
            typer.echo(f"left out: {item.fault}", err=True)


baselines = typer.Typer(help="Keep runs to compare later ones with.", no_args_is_help=True, rich_markup_mode=None)

Storage = Annotated[Path, typer.Option("--storage", metavar="FOLDER", help="Folder of kept runs.")]


@baselines.command()
def save(
    run_file: Annotated[Path, typer.Argument(metavar="RUN.json", readable=False, help="The run to keep.")],
    name: Annotated[str | None, typer.Option(help="Part of the file name; default: the time of the measurement.")] = None,
    storage: Storage = STORAGE,
) -> None:
    """Copy a run to where 'bitzones compare --against' finds it."""
    import bitzones

    typer.echo(f"kept: {bitzones.save_baseline(run_file, name=name, storage=storage)}")


@baselines.command("list")
def list_(storage: Storage = STORAGE) -> None:
    """List the kept runs, oldest first."""
    import bitzones
    from bitzones.report.regression.baseline_list import baseline_lines

    for line in baseline_lines(bitzones.list_baselines(storage)):
        typer.echo(line)


@baselines.command()
def show(
    run_file: Annotated[Path, typer.Argument(metavar="RUN.json", readable=False, help="The run to judge.")],
    storage: Storage = STORAGE,
) -> None:
    """Show which kept run this one would be compared with: the newest of the same profile, model and machine."""
    import bitzones

    typer.echo(bitzones.find_baseline(run_file, storage).path)


def trend(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", readable=False, help="A folder of run files, such as pytest-benchmark's storage.")
    ] = STORAGE,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="TREND.html", help="File to write.")] = Path("trend.html"),
) -> None:
    """Plot every figure over releases on one page, with intervals and change points.

    Example: bitzones trend .benchmarks -o trend.html
    """
    import bitzones
    from bitzones.schema.files import write_text

    kept = bitzones.list_baselines(folder)
    _name_faults(kept)
    found = bitzones.trend([item.run for item in kept if item.run is not None])
    write_text(output, found.to_html())
    typer.echo(f"{len(found.runs)} runs, {len(found.changes)} change points: {output}")


def export_metrics(
    run_file: Annotated[Path, typer.Argument(metavar="RUN.json", readable=False, help="A run file, or a duet.")],
    form: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="github-action-benchmark or bencher.")
    ] = "github-action-benchmark",
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Folder to write to.")] = Path("metrics"),
) -> None:
    """Write a run's figures for benchmark-plotting tools, which read only times from pytest-benchmark files.

    Writes customSmallerIsBetter.json and customBiggerIsBetter.json, or bencher.json, into FOLDER.

    Example: bitzones export-metrics run.json --format bencher -o metrics/
    """
    import bitzones

    try:
        written = bitzones.export_metrics(run_file, output, format=form)
    except bitzones.ArgumentError as error:
        raise typer.BadParameter(str(error), param_hint="--format") from None
    for path in written:
        typer.echo(f"wrote {path}")


def matrix(
    run_files: Annotated[
        list[Path], typer.Argument(metavar="RUN.json...", readable=False, help="Written by 'bitzones release', one file per release.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.md", help="File to write.")] = Path("releases.md"),
    baseline: Annotated[
        str | None, typer.Option(metavar="NAME", help="File to judge the others against, without .json; default: the last.")
    ] = None,
) -> None:
    """Tabulate releases of quanto and transformers against one of them: worse, same, better or inconclusive.

    Example: bitzones matrix releases/*.json -o docs/releases.md
    """
    import bitzones
    from bitzones.schema.files import write_text

    found = bitzones.compare_releases(run_files, baseline=baseline)
    write_text(output, found.to_markdown())
    for line in found.lines():
        typer.echo(line)


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command()(compare)
    app.command()(trend)
    app.command()(matrix)
    app.command("export-metrics")(export_metrics)
    app.add_typer(baselines, name="baseline")
