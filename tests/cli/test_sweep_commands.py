"""`bitzones measure` and `bitzones merge`: what is asked for wrongly is refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from bitzones.cli.main import app
from bitzones.run import ray_options
from bitzones.schema.errors import BitzonesError, MissingPackageError, RunFileError


@pytest.mark.parametrize("shard", ["two", "0/2", "3/2", "1/0", "2-8", "1/2/3", ""])
def test_a_shard_that_is_none_is_refused(shard: str) -> None:
    done = CliRunner().invoke(app, ["measure", "tiny", "--shard", shard])
    assert done.exit_code == 2
    assert "is not a part of a whole: 2/8 is the second of eight" in " ".join(done.output.split()).replace("│ ", "")


def test_a_missing_shard_is_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["merge", str(tmp_path / "none.json"), "-o", str(tmp_path / "sweep.json")])
    assert isinstance(done.exception, RunFileError)
    assert list(tmp_path.iterdir()) == []


def test_sweep_and_ray_exclude_each_other() -> None:
    done = CliRunner().invoke(app, ["run", "tiny", "--sweep", "sweep.json", "--ray", "local"])
    assert done.exit_code == 2
    assert "the sensitivities are measured once" in done.output


def test_without_ray_the_run_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_options, "find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["run", "tiny", "--ray", "local"])
    assert isinstance(done.exception, MissingPackageError)
    assert isinstance(done.exception, BitzonesError)
    assert str(done.exception) == "this needs the package ray: pip install 'bitzones[ray]'"
