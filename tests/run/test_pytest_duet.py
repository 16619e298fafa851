"""``pytest bench/ --bitzones-duet=OLD``: the duet as cells of the run file, of real processes on the embedded model."""

from __future__ import annotations

from pathlib import Path

import processes
import pytest

from bitzones.analysis.reader import read_run
from bitzones.regression.duet_changes import duets_in
from bitzones.regression.duet_verdicts import verdict_of
from bitzones.run import runner
from bitzones.schema.duet_cells import DuetCell

PROFILE = """
schema = 2
formats = ["qint8"]
[model]
source = "embedded:tiny"
device = "cpu"
[[tasks]]
name = "science_mini"
limit = 8
[latency]
prompt_tokens = 16
new_tokens = 1
rounds = 2
[budget]
average_bits = 10.0
[gate]
duet_time = 0.5
"""
"""A tolerance of one half is decided in seconds on a machine that runs other tests."""

BENCH = str(runner.bench_folder() / "test_duet.py")
CHECKOUT = runner.bench_folder().parent


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "p.toml").write_text(PROFILE, encoding="utf-8")
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(not (CHECKOUT / "src").is_dir(), reason="needs the checkout: the other side is its source")
def test_it_is_a_cell_of_the_run_file(place: Path) -> None:
    arguments = [BENCH, "--bitzones-profile=p.toml", f"--bitzones-duet={CHECKOUT}", "--benchmark-json=run.json", "-k", "bf16 and decode"]
    done = processes.run("pytest", arguments, place, {"BITZONES_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"})
    assert done.code == 0, done.out + done.err
    run = read_run(place / "run.json")
    (cell,) = run.of(DuetCell)
    assert cell.judged == ("latency", "bf16", "decode-b1-p16-n1")
    assert (cell.family, cell.against) == (4, run.run.releases)
    assert verdict_of(cell, 0.5).word == "equivalent"
    assert list(duets_in(run, run)) == [cell.judged]


def test_without_the_option_there_is_no_such_cell(place: Path) -> None:
    done = processes.run("pytest", [BENCH, "--bitzones-profile=p.toml", "--collect-only", "-q"], place)
    assert "test_duet[" not in done.out


def test_an_environment_that_does_not_exist_ends_the_session_with_one_line(place: Path) -> None:
    done = processes.run("pytest", [BENCH, "--bitzones-profile=p.toml", "--bitzones-duet=nowhere", "-q"], place)
    assert done.code == 2
    assert "bitzones: OLD: 'nowhere' is no environment" in done.out + done.err
