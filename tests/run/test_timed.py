"""The seam to pytest-benchmark: what it relies on is there in the installed release, and what it fakes is written."""

from __future__ import annotations

import json
from pathlib import Path

import processes
import pytest_benchmark  # noqa: F401  (without the measure extra this file is left out)

SUITE = """
import pytest

from bitzones.run.timed import Timed


def test_once(benchmark):
    timed = Timed(benchmark, "a group")
    assert timed.rounds_s == ()
    assert timed.once(lambda a, b: a + b, 2, 3) == 5
    assert len(timed.rounds_s) == 1
    assert timed.node.endswith("test_seam.py::test_once")
    timed.record({"value": 1}, "key")


def test_repeatedly(benchmark):
    timed, made = Timed(benchmark, "a group"), []
    timed.repeatedly(made.append, lambda: (len(made),), 4)
    assert made == [0, 1, 2, 3]
    assert len(timed.rounds_s) == 4


def test_stand_in(benchmark):
    Timed(benchmark, "a group").stand_in((0.5, 0.25))


def test_failed_before_timing(benchmark):
    Timed(benchmark, "a group").keep_failed()


def fail(*_):
    raise ValueError("no")


def test_failed_within(benchmark):
    timed = Timed(benchmark, "a group")
    with pytest.raises(ValueError):
        timed.once(fail)
    timed.keep_failed()


def test_failed_after_a_round(benchmark):
    timed, left = Timed(benchmark, "a group"), [0, 0]
    with pytest.raises(IndexError):
        timed.repeatedly(lambda _: left.pop(), lambda: (0,), 5)
    timed.keep_failed()


def test_dropped(benchmark):
    with pytest.raises(ValueError):
        Timed(benchmark, "a group").once(fail)
"""


def test_every_attribute_that_the_seam_relies_on_is_there(tmp_path: Path) -> None:
    (tmp_path / "test_seam.py").write_text(SUITE, encoding="utf-8")
    done = processes.run("pytest", ["-q", "-p", "no:cacheprovider", "--rootdir=.", "--benchmark-json=run.json"], tmp_path)
    assert done.code == 0, done.out
    found = {b["name"]: b for b in json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["benchmarks"]}
    assert {name: benchmark["stats"]["rounds"] for name, benchmark in found.items()} == {
        "test_once": 1,
        "test_repeatedly": 4,
        "test_stand_in": 2,
        "test_failed_before_timing": 1,
        "test_failed_within": 1,
        "test_failed_after_a_round": 2,
    }
    assert found["test_stand_in"]["stats"]["data"] == [0.5, 0.25]
    assert found["test_stand_in"]["stats"]["total"] == 0.75
    assert found["test_once"]["extra_info"] == {"key": {"value": 1}}
    assert {benchmark["group"] for benchmark in found.values()} == {"a group"}
