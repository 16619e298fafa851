"""The command that serves a model over HTTP. Imports when it runs, so that ``--help`` is fast."""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from bitzones.cli.export import say
from bitzones.schema.errors import ArgumentError
from bitzones.serve.limits import Limits

__all__ = ["register", "serve"]

KEY = "BITZONES_API_KEY"
"""Environment variable of the key: an argument would be seen by every user of the machine."""

HIGHEST_PORT = 65535


def serve(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A bundle, a folder that 'bitzones apply' wrote, or a model: a folder, hub id or embedded:tiny."
        ),
    ],
    port: Annotated[int, typer.Option(min=0, max=HIGHEST_PORT, metavar="N", help="Port to listen on; 0 is any that is free.")] = 8000,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:N or auto.")] = "cpu",
    queue: Annotated[int, typer.Option(min=0, metavar="N", help="Requests that may wait; one more gets 429.")] = Limits.waiting,
    tokens: Annotated[
        int, typer.Option("--max-tokens", min=2, metavar="N", help="Most tokens of a prompt and its answer, up to the model's positions.")
    ] = Limits.tokens,
    timeout: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Longest time for one request, waiting included.")
    ] = Limits.timeout_s,
    drain: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Longest time to finish after Ctrl-C or SIGTERM.")
    ] = Limits.drain_s,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run the code of an unquantized model.")] = False,
    watch: Annotated[
        Path | None, typer.Option(metavar="RUN.json", readable=False, help="Watch the thresholds that this run has for activations.")
    ] = None,
    watch_rate: Annotated[
        float, typer.Option(metavar="SHARE", help="Of the prompts that are watched; 0.01 costs about 2% of the time.")
    ] = 0.01,
    activations: Annotated[
        Path, typer.Option(metavar="FILE.json", help="Where --watch writes, for 'bitzones monitor --activations'.")
    ] = Path("activations.json"),
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not log requests.")] = False,
) -> None:
    """Serve a model over HTTP as OpenAI's API does, to try a plan.

    Answers /v1/completions and /v1/chat/completions (with log-probabilities, echo and streaming), /v1/models, /healthz and /metrics. It
    answers one request at a time and batches nothing: for many users, export the plan and serve it with vLLM or llama.cpp
    ('bitzones export').

    Of a bundle, a request chooses a task's plan as "model": "NAME:TASK" or "task": "TASK"; without one the router chooses. The answer's
    "model" is the plan that answered.

    Only this machine can connect unless --host says otherwise. Set BITZONES_API_KEY to ask clients for a key. The log has a line per
    request, without its text. Ctrl-C stops after what is in flight; a second one at once.

    Example: bitzones serve bundle/
    bitzones serve bundle/ --watch report/run.json
    BITZONES_API_KEY=$(openssl rand -hex 16) bitzones serve model/ --host 0.0.0.0 --port 9000
    """
    from bitzones.api.monitoring import watch_activations
    from bitzones.api.planning import DEVICE
    from bitzones.schema.requirements import needs

    if not DEVICE.fullmatch(device):
        raise typer.BadParameter(f"{device!r} is not a device: cpu, cuda, cuda:N or auto", param_hint="--device")
    key = _key()
    with needs("measure"):
        from bitzones.serve import load
    with needs("serve"):
        from bitzones.serve.http import server
    with server.bind(host, port) as bound:
        served = load(model, device=device, trust_remote_code=trust_remote_code, notify=say)
        bound.listen()  # from here on whoever connects waits at most a moment
        _log(quiet=quiet)
        _announce(served.name, served.tasks, server.url_of(bound), key)
        if key is None and not server.is_loopback(bound):
            typer.echo(f"anyone who reaches this port can use the model: set {KEY} to ask for a key", err=True)
        limits = Limits(tokens=tokens, waiting=queue, timeout_s=timeout, drain_s=drain)
        with watch_activations(served.model, watch, rate=watch_rate, path=activations) if watch is not None else nullcontext():
            server.run(served, bound, api_key=key, limits=limits)
    typer.echo("stopped", err=True)


def _key() -> str | None:
    """The key from the environment.

    Raises:
        ArgumentError: it is set and empty, or holds what no header can.
    """
    key = os.environ.get(KEY)
    if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key != ""):
        raise ArgumentError(f"{KEY} is empty or has characters that no header can hold: set it to printable ASCII, or unset it")
    return key


def _log(*, quiet: bool) -> None:
    """One line per request on standard error; warnings of uvicorn come there by themselves."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("bitzones.serve")
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)


def _announce(name: str, tasks: tuple[str, ...], url: str, key: str | None) -> None:
    """Where it is, and a line to paste."""
    plans = f", plans {', '.join(tasks)}" if len(tasks) > 1 else ""
    typer.echo(f"serving {name}{plans} at {url} until Ctrl-C; one request at a time. Try it:\n")
    bearer = f' -H "Authorization: Bearer ${KEY}"' if key is not None else ""
    body = json.dumps({"prompt": "Tom has 3 apples. He buys", "max_tokens": 16, "temperature": 0})
    typer.echo(f"curl {url}/v1/completions -H 'Content-Type: application/json'{bearer} -d '{body}'\n")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)
