"""One side of a duet as a live process: asked over its standard input, ended with everything that it started."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from bitzones.schema.errors import DuetError, MeasureError, NotMeasuredError

__all__ = ["SideProcess"]

PATIENCE_S = 5.0
"""For a process that was told to end, before it is killed."""

LONGEST_LINE = 1 << 30
"""Bytes of one answer: the cells of a large run take a few megabytes."""

CHUNK = 1 << 16


class SideProcess:
    """A side that runs.

    Args:
        name: OLD or NEW, for messages.
        command: what to start.
        environment: its variables.
        log: receives what it prints.
        stop: a command that ends what the process group does not hold, such as a container.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path, stop: Sequence[str] = ()) -> None:
        self.name, self._log, self._stop, self._rest = name, log, tuple(stop), b""
        try:
            with log.open("wb") as handle:
                self._process = subprocess.Popen(  # noqa: S603 (the user names the environment)
                    list(command),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=handle,
                    env=dict(environment),
                    start_new_session=True,
                )
        except OSError as error:
            raise DuetError(f"{name}: {command[0]} cannot be started: {error.strerror or error}") from error

    def ask(self, do: str, limit_s: float, **question: Any) -> dict[str, Any]:
        """The answer to a question.

        Raises:
            NotMeasuredError: the side cannot measure this; it lives on.
            MeasureError: it failed to measure this; it lives on.
            DuetError: it ended, it took longer than the limit, or it cannot measure at all.
        """
        self.tell(do, **question)
        return self.hear(do, limit_s)

    def tell(self, do: str, **question: Any) -> None:
        """Ask without waiting for the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **question}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended(do) from error

    def hear(self, do: str, limit_s: float) -> dict[str, Any]:
        """Wait for the answer to what was told, as `ask`."""
        line = self._line(do, limit_s)
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise DuetError(f"{self.name}: no line of the protocol: {line[:80].decode(errors='replace')!r}") from error
        if "error" not in answer:
            return answer
        said = f"{self.name}: {answer['error']}"
        if answer.get("status") == "unusable":
            raise DuetError(said)
        raise NotMeasuredError(said) if answer.get("status") == "not measured" else MeasureError(said)

    def _line(self, do: str, limit_s: float) -> bytes:
        assert self._process.stdout is not None
        until = monotonic() + limit_s
        with selectors.DefaultSelector() as ready:
            ready.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not ready.select(max(0.0, until - monotonic())):
                    raise DuetError(f"{self.name}: no answer to {do!r} within {limit_s:g} s; ended{self._last_words()}")
                chunk = os.read(self._process.stdout.fileno(), CHUNK)
                if not chunk or len(self._rest) > LONGEST_LINE:
                    raise self._ended(do)
                self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _ended(self, do: str) -> DuetError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE_S)
        code = self._process.returncode
        how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        return DuetError(f"{self.name}: its process ended {how} at {do!r}{self._last_words()}")

    def _last_words(self) -> str:
        with suppress(OSError):
            lines = [line.strip() for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            if lines:
                return f": {lines[-1][-200:]}"
        return ""

    def end(self) -> None:
        """End the process and its children; again is harmless."""
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                assert pipe is not None
                pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE_S)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._stop:
            subprocess.run(list(self._stop), capture_output=True, check=False, timeout=60)  # noqa: S603 (docker rm of its own container)
        self._process.wait()
