"""The driver's library for tests, compiled from stub_nvml.c: pynvml itself is the real one, and so is the way that it finds the library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
UUID = "11111111-2222-3333-4444-555555555555"


def build(folder: Path) -> Path:
    """Compile the stub into a folder, and give the folder."""
    source = Path(__file__).with_name("stub_nvml.c")
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", folder / LIBRARY, source], check=True, timeout=60)
    return folder


def ask(folder: Path, script: str, *arguments: str, **environment: str) -> Any:
    """What a script prints as JSON, in an interpreter that finds the library in ``folder``: it looks when it starts, not later."""
    told = {**os.environ, "LD_LIBRARY_PATH": str(folder), "STUB_UUID": f"GPU-{UUID}", **environment}
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
