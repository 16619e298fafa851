"""What a terminal cannot encode is spelled in ASCII: no command ends in a traceback for it."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import make_run
import pytest

from bitzones.report.terminal.printing import make_printable


def printed(text: str, encoding: str) -> bytes:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    make_printable(stream)
    stream.write(text)
    stream.flush()
    return raw.getvalue()


@pytest.mark.parametrize(
    ("encoding", "text", "expected"),
    [
        ("ascii", "0.02 ± 0.01 → w4 × 3 … ≤ é 層", b"0.02 +/- 0.01 -> w4 x 3 ... <= e ?"),
        ("cp1252", "0.02 ± 0.01 → w4 × 3 … ≤ é 層", "0.02 ± 0.01 -> w4 × 3 … <= é ?".encode("cp1252")),
        ("latin-1", "█▁─│┼…", b"#_-|+..."),
        ("utf-8", "± → 層", "± → 層".encode()),
    ],
)
def test_only_what_the_encoding_lacks_is_replaced(encoding: str, text: str, expected: bytes) -> None:
    assert printed(text, encoding) == expected


def test_a_stream_that_cannot_be_changed_stays() -> None:
    stream = io.StringIO()
    make_printable(stream, None)
    stream.write("→")
    assert stream.getvalue() == "→"


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model whose name is not ASCII."""
    data = make_run.run_dict(make_run.planned())
    data["bitzones"]["model"]["source"] = "modèles/層-tiny"
    return make_run.write(tmp_path_factory.mktemp("printing"), data)


COMMANDS = {
    "show": lambda run, folder: [run],
    "compare": lambda run, folder: [run, shutil.copy(run, folder / "nouveau-→.json")],
    "collect": lambda run, folder: [run, "-o", folder / "層"],
}


@pytest.mark.parametrize(("command", "encoding"), [("show", "ascii"), ("show", "cp1252"), ("compare", "cp1252"), ("collect", "ascii")])
def test_commands_print_to_a_pipe_of_any_encoding(command: str, encoding: str, foreign: Path, tmp_path: Path) -> None:
    source = "import sys; from bitzones.cli.main import main; main()"
    arguments = [command, *map(str, COMMANDS[command](foreign, tmp_path))]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", source, *arguments], capture_output=True, env=environment, timeout=120, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert done.stdout.decode(encoding).strip()
