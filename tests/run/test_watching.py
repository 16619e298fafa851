"""What a log shows of a run: a line a finished cell, and the message of what failed, not the place where it was raised."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from bitzones.run.watching import Lines, message_of

SUITE = """
import pytest


def helper():
    raise ValueError("the weights are NaN\\n  in layer 3")


def test_raises():
    helper()


def test_fails():
    pytest.fail("one line", pytrace=False)


def test_compares():
    assert 1 == 2


@pytest.fixture
def broken():
    raise KeyError("key")


def test_setup(broken):
    pass


def test_passes():
    pass
"""


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder, out = tmp_path_factory.mktemp("watching"), io.StringIO()
    (folder / "test_suite.py").write_text(SUITE, encoding="utf-8")
    arguments = [
        str(folder),
        f"--rootdir={folder}",
        "-c",
        "/dev/null",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:faulthandler",
        "-p",
        "no:xdist",
        "-q",
    ]
    assert pytest.main([*arguments, "-p", "no:randomly"], plugins=[Lines(out)]) == pytest.ExitCode.TESTS_FAILED
    return out.getvalue().splitlines()


def test_a_failure_keeps_its_message(lines: list[str]) -> None:
    assert [line for line in lines if line.startswith("failed: ")] == [
        "failed: raises: ValueError: the weights are NaN in layer 3",
        "failed: fails: one line",
        "failed: compares: assert 1 == 2",
        "failed: setup: KeyError: 'key'",
    ]


def test_every_cell_that_finishes_has_a_line(lines: list[str]) -> None:
    found = [line for line in lines if not line.startswith("failed: ")]
    names = ("raises", "fails", "compares", "setup", "passes")
    assert [line.split()[:2] for line in found] == [[f"{number}/5", name] for number, name in enumerate(names, 1)]
    assert all(re.fullmatch(r"\d/5 \w+ \d+\.\d s(, about \d+ s left)?", line) for line in found)


def test_a_failure_without_a_message_says_so(tmp_path: Path) -> None:
    report = pytest.TestReport("n", ("f", 1, "d"), {}, "failed", "", "call")
    assert message_of(report) == "no reason given"
