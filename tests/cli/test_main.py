"""The command line as a user meets it: help with an example each, and one line for each mistake."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

import bitzones
from bitzones.cli.main import app
from bitzones.schema import profile_files

COMMANDS = ("run", "measure", "merge", "collect", "show", "verify", "apply", "export", "serve", "doctor", "profiles")


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """``bitzones`` in a process of its own."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; from bitzones.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_version() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"bitzones {bitzones.__version__}\n")


def test_help_names_every_command_and_where_to_begin() -> None:
    done = CliRunner().invoke(app, ["--help"])
    assert done.exit_code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in done.output
    assert "Start with 'bitzones doctor', then 'bitzones run'" in " ".join(done.output.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    done = CliRunner().invoke(app, [name, "--help"])
    assert done.exit_code == 0
    assert f"{name} [OPTIONS]" in done.output
    assert (": bitzones" in done.output and "Example" in done.output) == (
        name in {"run", "measure", "merge", "collect", "show", "verify", "apply", "export", "serve"}
    )


def test_no_command_shows_the_help() -> None:
    assert "Usage:" in CliRunner().invoke(app, []).output


def test_profiles_are_listed_with_what_they_are() -> None:
    done = CliRunner().invoke(app, ["profiles"])
    assert done.exit_code == 0
    listed = [line.split(maxsplit=1) for line in done.output.splitlines()]
    assert listed == [[name, profile_files.load(name).description] for name in profile_files.available()]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "tinny"], "bitzones: no profile is named 'tinny'; did you mean tiny?"),
        (["run", "nowhere.toml"], "bitzones: nowhere.toml: no such profile file"),
        (["collect", "nowhere.json"], "bitzones: nowhere.json: "),
        (["collect", "foreign.json"], "bitzones: foreign.json: "),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "foreign.json").write_text("{}", encoding="utf-8")
    done = command(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["foreign.json"]


@pytest.mark.parametrize("arguments", [["walk"], ["run", "--fast"], ["collect"]])
def test_what_is_no_command_is_exit_code_2(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "Traceback" not in done.output


@pytest.mark.skipif(find_spec("torch") is None, reason="only the deciding side is here")
def test_doctor_prints_a_line_for_each_finding() -> None:
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0
    lines = [line for line in done.output.splitlines() if not line.lstrip().startswith("->")]
    assert all(line[:20].strip() for line in lines)
    for what in ("torch ", "optimum-quanto ", "processor ", "ninja ", "quanto's extension "):
        assert any(line.startswith(what) for line in lines)
