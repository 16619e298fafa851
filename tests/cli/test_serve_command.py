"""`bitzones serve` as a user meets it: what it prints works as pasted, mistakes are one line, and signals end it well."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest
from typer.testing import CliRunner

from bitzones.cli.main import app, main

pytest.importorskip("torch", reason="serving runs a model")
pytest.importorskip("fastapi", reason="the serve extra is not installed")

START_S = 60.0
GOLDEN = Path(__file__).parents[1] / "golden" / "run.json"


def said_by(running: processes.Running) -> str:
    """Standard output, once the server listens."""
    out = Path(running.place.name, "out")
    end = time.monotonic() + START_S
    while "curl" not in (text := out.read_text(encoding="utf-8") if out.exists() else ""):
        assert time.monotonic() < end, Path(running.place.name, "err").read_text(encoding="utf-8")
        time.sleep(0.05)
    return text


@pytest.mark.parametrize(
    ("options", "number", "key", "log"),
    [
        (["--watch", str(GOLDEN), "--watch-rate", "1"], signal.SIGTERM, None, r"POST /v1/completions 200 \d+\.\d{3} s\nstopped\n$"),
        (["--quiet"], signal.SIGINT, "a key's $HOME", r"^stopped\n$"),
    ],
)
def test_the_line_it_prints_works_as_pasted_and_a_signal_ends_it(
    tmp_path: Path, options: list[str], number: signal.Signals, key: str | None, log: str
) -> None:
    environment = {} if key is None else {"BITZONES_API_KEY": key}
    running = processes.start("bitzones", ["serve", "embedded:tiny", "--port", "0", *options], tmp_path, environment)
    said = said_by(running)
    (line,) = (line for line in said.splitlines() if line.startswith("curl"))
    shell = ["sh", "-c", line.replace("curl", "curl -sS", 1)]
    pasted = subprocess.run(shell, capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin:/bin", **environment}, check=True)
    assert json.loads(pasted.stdout)["choices"][0]["text"]
    assert key is None or key not in said
    running.send(number)
    done = running.ended()
    assert done.code == 0
    assert re.search(log, done.err)
    written = tmp_path / "activations.json"
    assert (json.loads(written.read_text(encoding="utf-8"))["sampled"] if "--watch" in options else not written.exists()) == 1


@pytest.mark.parametrize(
    ("arguments", "key", "said"),
    [
        (["embedded:tiny", "--port", "{taken}"], None, "cannot listen on 127.0.0.1, port {taken}: Address already in use; choose another"),
        (["embedded:tiny", "--host", "no.such.host.invalid"], None, "no.such.host.invalid is no address of this machine: "),
        (["embedded:tiny", "--host", "a" * 70], None, f"{'a' * 70} is no address of this machine: "),
        (["embedded:tiny", "--host", "192.0.2.1", "--port", "0"], None, "cannot listen on 192.0.2.1, port 0: "),
        (["embedded:tiny", "--port", "0"], "", "BITZONES_API_KEY is empty"),
        (["embedded:tiny", "--port", "0"], "schlüssel", "BITZONES_API_KEY is empty or has characters"),
        (["nowhere", "--port", "0"], None, "model source 'nowhere'"),
        (["empty", "--port", "0"], None, "model 'empty': "),
        (["file.txt", "--port", "0"], None, "model source 'file.txt'"),
        (["embedded:tiny", "--port", "0", "--device", "cuda:99"], None, "device 'cuda:99'"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], key: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    if key is not None:
        monkeypatch.setenv("BITZONES_API_KEY", key)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        monkeypatch.setattr(sys, "argv", ["bitzones", "serve", *(argument.format(taken=port) for argument in arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    found = capsys.readouterr()
    assert (ended.value.code, found.out) == (2, "")
    assert found.err.startswith(f"bitzones: {said.format(taken=port)}")
    assert found.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["embedded:tiny", "--port", "65536"], "--port"),
        (["embedded:tiny", "--queue", "-1"], "--queue"),
        (["embedded:tiny", "--device", "tpu"], "--device"),
        (["embedded:tiny", "--timeout", "0"], "--timeout"),
        ([], "MODEL"),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_anything_is_loaded(arguments: list[str], named: str) -> None:
    done = CliRunner().invoke(app, ["serve", *arguments])
    assert done.exit_code == 2
    assert named in done.output


def test_the_help_says_what_it_is_not() -> None:
    said = " ".join(CliRunner().invoke(app, ["serve", "--help"]).output.split())
    assert "vLLM" in said
    assert "BITZONES_API_KEY" in said
    assert "Example: bitzones serve" in said
