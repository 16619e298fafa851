"""Commands run in processes of their own that find torch already imported: a fork of a clean server, since an import takes seconds.

A child starts with nothing of bitzones and nothing of the tests loaded, its own working folder and environment, as a new process would.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

PRELOADED = tuple(
    """torch transformers.models.llama.modeling_llama transformers.generation transformers.models.auto.modeling_auto
    transformers.models.auto.tokenization_auto optimum.quanto pyarrow.parquet pandas scipy.stats scipy.optimize pydantic rich.progress
    typer hypothesis""".split()
)
LONGEST_S = 150
"""Where quanto's extension is not built yet the first child compiles it, which takes about a minute."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


@cache
def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def _child(kind: str, arguments: Sequence[str], folder: str, environment: Mapping[str, str], out: str, err: str) -> None:
    gc.freeze()  # a search for garbage would write into every object that was imported before, and so copy the memory that a fork shares
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    os.chdir(folder)
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:  # a worker's: pytest-benchmark would time nothing
        del os.environ[name]
    os.environ.update(environment)
    sys.argv = [kind, *(["-p", "bitzones.plugin"] if kind == "pytest" else []), *arguments]  # also where no entry point is installed
    try:
        if kind == "pytest":
            runpy.run_module("pytest", run_name="__main__", alter_sys=True)
        else:
            from bitzones.cli.main import main

            main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


@dataclass(frozen=True)
class Running:
    """A command on its way."""

    process: ForkServerProcess
    place: tempfile.TemporaryDirectory[str]
    asked: str

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def ended(self) -> Done:
        """Wait until it ends."""
        out, err = (Path(self.place.name, name) for name in ("out", "err"))
        self.process.join(LONGEST_S)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"{self.asked} did not end in {LONGEST_S} s:\n{out.read_text()}\n{err.read_text()}")
        with self.place:
            return Done(self.process.exitcode, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))


def start(kind: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> Running:
    """Start ``bitzones`` or ``pytest`` with arguments, in a folder."""
    place = tempfile.TemporaryDirectory()
    out, err = (str(Path(place.name, name)) for name in ("out", "err"))
    process = _server().Process(target=_child, args=(kind, tuple(arguments), str(folder), dict(environment or {}), out, err))
    process.start()
    return Running(process, place, f"{kind} {' '.join(arguments)}")


def run(kind: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> Done:
    """Run ``bitzones`` or ``pytest`` with arguments, in a folder."""
    return start(kind, arguments, folder, environment).ended()
