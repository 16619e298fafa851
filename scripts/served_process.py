"""`bitzones serve` in a process of its own, on a free port, with its log."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

import psutil

__all__ = ["ServedProcess"]

START_S = 120.0
"""Longest time to load and listen; torch and transformers take ten seconds on a busy core."""
STOP_S = 60.0


class ServedProcess:
    """A server that is there within the block.

    Raises:
        RuntimeError: it did not start; the message is what it wrote.
    """

    def __init__(self, model: str, *options: str) -> None:
        self._command = [sys.executable, "-m", "bitzones", "serve", model, "--port", "0", *options]

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self._out, self._err = Path(self._folder.name, "out"), Path(self._folder.name, "err")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(self._command, stdout=out, stderr=err)
        until = time.monotonic() + START_S
        while (found := re.search(r" at http://(127\.0\.0\.1):(\d+) ", self._out.read_text())) is None:
            if self.process.poll() is not None or time.monotonic() > until:
                self.process.kill()
                raise RuntimeError(self._err.read_text())
            time.sleep(0.05)
        self.host, self.port = found[1], int(found[2])
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()
        self._folder.cleanup()

    def resident_bytes(self) -> int:
        """Memory of the process."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def stop(self) -> str:
        """Send SIGTERM, wait for the end, and give the log."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(STOP_S)
        return self._err.read_text(encoding="utf-8")
