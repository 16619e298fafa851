"""The commands that watch a served model. `canary` and `shadow` run models; `monitor` needs no torch."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitzones.cli.export import say

if TYPE_CHECKING:
    from bitzones.monitor.canary_watch import CanaryWatch
    from bitzones.monitor.overview import Overview
    from bitzones.schema.errors import ServerError

__all__ = ["canary", "dashboards", "monitor", "register", "shadow"]

EXIT_ALARM = 1
EXIT_NO_ANSWER = 3
"""The server did not answer: nothing is known of the model."""
EXIT_INTERRUPTED = 130

KEY = "BITZONES_API_KEY"
"""Environment variable of the key that the server asks for."""

EVERY = re.compile(r"(\d+(?:\.\d+)?)(s|m|h)?")
SECONDS = {None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}

RunFile = Annotated[Path, typer.Argument(metavar="RUN.json", readable=False, help="The run whose plan is served.")]
Canary = Annotated[Path | None, typer.Option("--canary", metavar="CANARY.json", help="The record.  [canary.json beside RUN.json]")]
StateFile = Annotated[
    Path | None, typer.Option("--state", metavar="FILE", help="Where everything is kept.  [monitor.sqlite beside RUN.json]")
]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="FOLDER", help="For monitor.html and monitor.md.  [beside RUN.json]")
]


def canary(
    run_file: RunFile,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="CANARY.json", help="File to write.  [beside RUN.json]")] = None,
    plan: Annotated[Path | None, typer.Option("--plan", metavar="PLAN.json", help="The plan that is served.  [the run's own]")] = None,
    model: Annotated[Path | None, typer.Option("--model", metavar="FOLDER", help="The folder that is served, instead of a plan.")] = None,
    task: Annotated[str | None, typer.Option("--task", metavar="NAME", help="With --model: a task of the bundle.  [its base]")] = None,
    prompts: Annotated[int, typer.Option(min=1, metavar="N", help="Prompts to pin.")] = 200,
) -> None:
    """Record what a plan's model predicts, so that whoever serves it can be watched.

    Pins beginnings of the run's held-out sequences, with the 20 likeliest next tokens of the plan's model and of the reference, how far the
    plan's model deviates from itself in another dtype, and what the sensitivity set looks like. 'bitzones monitor' needs this file and no
    model.

    Examples: bitzones canary report/run.json
    bitzones canary report/run.json --model bundle/ --task svamp -o svamp-canary.json
    """
    from bitzones import make_canary

    place = output or run_file.parent / "canary.json"
    made = make_canary(run_file, place, plan=plan, model=model, task=task, prompts=prompts, notify=say)
    typer.echo(f"wrote {place}: {len(made.prompts)} prompts, {made.top} log-probabilities each; KL {made.kl_nats:.3g} nats/token")


def monitor(
    run_file: RunFile,
    server: Annotated[str, typer.Option("--server", metavar="URL", help="An OpenAI-compatible server that gives logprobs.")],
    canary: Canary = None,
    state: StateFile = None,
    requests: Annotated[Path | None, typer.Option("--requests", metavar="LOG.jsonl", help="A log of requests that grows.")] = None,
    activations: Annotated[
        Path | None, typer.Option("--activations", metavar="FILE.json", help="What 'bitzones.watch_activations' writes.")
    ] = None,
    output: Output = None,
    once: Annotated[bool, typer.Option("--once", help="One round, for cron.")] = False,
    every: Annotated[str, typer.Option("--every", metavar="TIME", help="Pause between rounds: 30s, 15m, 2h.")] = "15m",
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="The model's name there.  [the first it lists]")] = None,
    prompts: Annotated[int, typer.Option(min=1, metavar="N", help="Prompts of a check.")] = 50,
    tolerance: Annotated[
        float | None,
        typer.Option(min=1e-9, metavar="NATS", help="Mean deviation from the record that a good engine may have.  [from the record]"),
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(min=1e-9, metavar="NATS", help="Least mean deviation between two answers that is noise.  [from enrolling]"),
    ] = None,
    enroll: Annotated[bool, typer.Option("--enroll", help="Take the server as it is now for good, and begin the canary again.")] = False,
    metrics_file: Annotated[Path | None, typer.Option(metavar="FILE.prom", help="Metrics for node_exporter's textfile collector.")] = None,
    metrics_port: Annotated[int | None, typer.Option(min=1, max=65535, metavar="PORT", help="Serve metrics on 127.0.0.1.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Longest wait for one answer.")] = 60.0,
) -> None:
    """Watch a served model: does it still answer as the plan's model does, and do requests look like what it was measured on?

    The first check enrolls the server: every prompt twice. Everything is kept in one SQLite file, so that a restart loses nothing. Writes
    monitor.html and monitor.md. A server's key is read from BITZONES_API_KEY. Exit codes of --once: 0 fine, 1 alarm, 2 a mistake that you
    can mend, 3 the server does not answer, which is no alarm. Without --once it goes on until Ctrl-C.

    Examples: bitzones monitor report/run.json --server http://127.0.0.1:8000 --once
    bitzones monitor report/run.json --server http://gpu1:8000/v1 --requests log.jsonl --every 5m --metrics-port 9109
    """
    from bitzones.monitor.canary import Tolerance
    from bitzones.monitor.canary_choice import canary_of
    from bitzones.schema.requirements import needs

    pause, folder = _seconds(every), output or run_file.parent
    record = canary_of(run_file, canary)
    place = state or run_file.parent / "monitor.sqlite"
    with needs("monitor"):
        from bitzones.monitor import prometheus_metrics
        from bitzones.monitor.canary_watch import CanaryWatch
        from bitzones.monitor.completions import Completions
        from bitzones.monitor.state import opened
    with opened(place) as kept, Completions(server, model, os.environ.get(KEY) or None, timeout, task=record.task) as asked:
        watch = CanaryWatch(record, kept, asked, prompts, Tolerance(tolerance, noise), say)
        if enroll:
            watch.enroll_again()
        with prometheus_metrics.served(place, metrics_port):
            while True:
                found, failed = _round(watch, requests, activations, folder)
                if metrics_file is not None:
                    prometheus_metrics.write(place, metrics_file)
                if once:
                    break
                time.sleep(pause)
    if failed is not None:
        raise typer.Exit(EXIT_NO_ANSWER)
    if found.alarms:
        raise typer.Exit(EXIT_ALARM)


def _round(watch: CanaryWatch, requests: Path | None, activations: Path | None, folder: Path) -> tuple[Overview, ServerError | None]:
    from bitzones.monitor.once import round_of, write
    from bitzones.monitor.words import lines

    found, failed = round_of(watch, requests, activations)
    write(found, folder)
    for line in lines(found):
        typer.echo(line)
    if failed is not None:
        typer.echo(f"bitzones: {failed}", err=True)
    return found, failed


def shadow(
    run_file: RunFile,
    requests: Annotated[Path, typer.Argument(metavar="LOG.jsonl", readable=False, help="A log of requests with their prompts.")],
    model: Annotated[Path, typer.Option("--model", metavar="FOLDER", help="What is served: a bundle, or a folder of 'bitzones apply'.")],
    task: Annotated[str | None, typer.Option("--task", metavar="NAME", help="Of a bundle.  [as its router chooses]")] = None,
    rate: Annotated[float, typer.Option(min=1e-6, max=1.0, metavar="SHARE", help="Share of the requests to compute.")] = 0.01,
    canary: Canary = None,
    state: StateFile = None,
    output: Output = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:N or auto.")] = "cpu",
) -> None:
    """Compute a sample of the requests with the served model and with the reference: the true KL by domain.

    Offline and in batches: each call goes on in the log where the last one stopped. A domain on which the KL is above what the run measured
    is to be calibrated on again. Exit codes: 0 fine, 1 alarm, 2 a mistake that you can mend.

    Example: bitzones shadow report/run.json requests.jsonl --model bundle/ --rate 0.005
    """
    from bitzones.monitor.canary_choice import canary_of
    from bitzones.monitor.once import write
    from bitzones.monitor.overview import overview
    from bitzones.monitor.words import lines
    from bitzones.schema.requirements import needs

    record = canary_of(run_file, canary)
    with needs("measure"):
        from bitzones.monitor.state import opened
        from bitzones.run import shadow as shadowing
    with opened(state or run_file.parent / "monitor.sqlite") as kept:
        shadowing.batch(run_file, record, kept, requests, model, task, rate, device, say)
        found = overview(kept)
    write(found, output or run_file.parent)
    for line in lines(found):
        typer.echo(line)
    if found.shadows and found.shadows[-1].alarm:
        raise typer.Exit(EXIT_ALARM)


def dashboards(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where to write.")] = Path("dashboards"),
) -> None:
    """Write a Grafana dashboard and Prometheus alert rules for what 'bitzones monitor' exports.

    Example: bitzones dashboards -o dashboards/
    """
    from bitzones.monitor.dashboards import write_assets

    for place in write_assets(output):
        typer.echo(f"wrote {place}")


def _seconds(text: str) -> float:
    found = EVERY.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise typer.BadParameter(f"{text!r} is no time: 30s, 15m or 2h", param_hint="--every")
    return float(found[1]) * SECONDS[found[2]]


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    for command in (canary, monitor, shadow, dashboards):
        app.command()(command)
