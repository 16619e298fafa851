"""The command's own mistakes, each one line and exit 2; what it makes is seen in tests/serve."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bitzones.cli.bundle_command import _named
from bitzones.cli.main import app
from bitzones.schema.errors import BitzonesError

PLAN = Path(__file__).parents[2] / "docs" / "reports" / "h200-tiny" / "plan.json"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument"),
        ([str(PLAN)], "give plans and -o FOLDER"),
        ([str(PLAN), str(PLAN)], "give plans and -o FOLDER"),
        ([str(PLAN), str(PLAN), "-o", "b", "--device", "gpu"], "is not a device"),
    ],
)
def test_a_wrong_command_line_is_refused(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["bundle", *arguments])
    assert done.exit_code == 2
    assert said in " ".join(done.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([str(PLAN), "-o", "b"], "at least one task's plan"),
        ([str(PLAN), f"a={PLAN}", "-o", "b"], "the same plan as 'base'"),
        ([str(PLAN), f"../a={PLAN}", "-o", "b"], "task name '../a'"),
        ([str(PLAN), f"base={PLAN}", "-o", "b"], "the first plan is the base"),
        ([str(PLAN), "a=gone.json", "-o", "b"], "gone.json: cannot be read"),
        (["gone.json", str(PLAN), "-o", "b"], "gone.json: cannot be read"),
        ([str(PLAN), "a=other.json", "-o", "b", "--routes", "gone.toml"], "gone.toml: cannot be read"),
        ([str(PLAN), "a=other.json", "-o", "b", "--classify", "gone.json"], "gone.json"),
        ([str(PLAN), "a=foreign.json", "-o", "b"], "task 'a': its plan is for a model whose sha256"),
        (["gone", "--measure", "gone.json"], "gone.json"),
    ],
)
def test_a_users_mistake_is_one_line_and_writes_nothing(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    plan = json.loads(PLAN.read_text(encoding="utf-8"))
    (tmp_path / "other.json").write_text(json.dumps({**plan, "name": "other"}), encoding="utf-8")
    (tmp_path / "foreign.json").write_text(json.dumps({**plan, "model": {**plan["model"], "sha256": "0" * 64}}), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["bundle", *arguments])
    assert isinstance(done.exception, BitzonesError)
    assert said in str(done.exception)
    assert "\n" not in str(done.exception)
    assert not (tmp_path / "b").exists()


def test_a_name_comes_before_the_first_equals_sign_unless_a_file_is_named_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _named("arc=plans/a=b.json") == ("arc", Path("plans/a=b.json"))
    assert _named("plans/a.json") == ("", Path("plans/a.json"))
    (tmp_path / "x=y.json").write_text("", encoding="utf-8")
    assert _named("x=y.json") == ("", Path("x=y.json"))
