"""A duet of live processes, without torch: both sides are checkouts whose worker speaks the protocol and burns a known time, or breaks."""

from __future__ import annotations

import json
import textwrap
import time
from pathlib import Path
from typing import Any

import make_run
import psutil
import pytest

from bitzones.duets import driver, side_process
from bitzones.duets.pair import Limits
from bitzones.duets.quiet_cores import least_busy
from bitzones.duets.sides import side
from bitzones.duets.watch import DuetWatch
from bitzones.regression.duet_verdicts import verdict_of
from bitzones.schema.errors import DuetError
from bitzones.schema.profile_sections import Gate

WORKER = """
import json, os, sys, time

RUN = {run!r}
MILLISECONDS = {milliseconds!r}


def answer(question):
    what = question["do"]
    {broken}
    if what == "hello":
        return {{"protocol": {protocol}, "bitzones": "0.9", "source": "own", "ways": ["session"]}}
    if what == "load":
        cells = [{{"kind": "latency", "variant": "w4", "detail": name}} for name in MILLISECONDS]
        return {{"run": RUN, "cells": cells}}
    if what == "prepare":
        return {{"shape": question["cell"]["detail"], "seconds": 0.05}}
    if what == "round":
        began = time.thread_time()
        while time.thread_time() - began < MILLISECONDS[question["cell"]["detail"]] / 1000:
            pass
        return {{"calls": [[time.thread_time() - began, 0.0]]}}
    return {{"cells": []}}


def main(source):
    with open("{pids}", "a") as file:
        file.write(f"{{os.getpid()}}\\n")
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITZONES_CACHE", str(tmp_path / "cache"))


def checkout(folder: Path, milliseconds: dict[str, float], broken: str = "pass", protocol: int = 1, sha256: str | None = None) -> str:
    """A folder with a package of that name whose worker does as told."""
    package = folder / "src" / "bitzones"
    (package / "run").mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '0.9'\n", encoding="utf-8")
    (package / "run" / "__init__.py").touch()
    run = make_run.run_dict()["bitzones"]
    if sha256 is not None:
        run["model"]["sha256"] = sha256
    text = WORKER.format(
        run=json.loads(json.dumps(run)),
        milliseconds=milliseconds,
        broken=textwrap.indent(broken, " " * 4).strip(),
        protocol=protocol,
        pids=folder.parent / "pids",
    )
    (package / "run" / "duet_worker.py").write_text(text, encoding="utf-8")
    return str(folder)


def play(old: str, new: str, said: list[str] | None = None, **settings: Any) -> Any:
    sides = side(old, "OLD"), side(new, "NEW")
    told: list[str] = [] if said is None else said
    chosen = driver.DuetSettings(gate=Gate(duet_time=0.1), cell_limit_s=20, **settings)
    return driver.play(sides, make_run.profile(), chosen, DuetWatch(say=told.append))


def left_running(folder: Path) -> list[int]:
    return [int(pid) for pid in (folder / "pids").read_text(encoding="ascii").split() if psutil.pid_exists(int(pid))]


def test_a_slower_side_is_worse_and_an_equal_cell_is_equivalent(tmp_path: Path) -> None:
    old, new = checkout(tmp_path / "old", {"same": 2, "slow": 2}), checkout(tmp_path / "new", {"same": 2, "slow": 4})
    said: list[str] = []
    found = play(old, new, said)
    words = {cell.detail: verdict_of(cell, 0.1).word for cell in found.cells}
    assert words == {"same": "equivalent", "slow": "worse"}
    slow = next(cell for cell in found.cells if cell.detail == "slow")
    assert slow.again is not None
    assert slow.control is not None
    assert verdict_of(slow, 0.1).ratio.value == pytest.approx(2, rel=0.2)
    assert set(slow.first.orders) == {"ABBA", "BAAB"}
    assert (found.old.source, found.stopped, found.way, slow.family) == ("own", "", "session", 2)
    assert any(line.startswith("1/2 ") and "left" in line for line in said)
    assert left_running(tmp_path) == []


def test_the_seed_is_the_order(tmp_path: Path) -> None:
    same = checkout(tmp_path / "side", {"same": 1})
    first, again, other = (play(same, same, seed=seed).cells[0].first.orders[:8] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_what_was_measured_before_a_crash_is_kept(tmp_path: Path) -> None:
    crash = "if what == 'round' and question['cell']['detail'] == 'bad': os.kill(os.getpid(), 9)"
    old = checkout(tmp_path / "old", {"good": 1, "bad": 1})
    found = play(old, checkout(tmp_path / "new", {"good": 1, "bad": 1}, crash))
    assert found.stopped == "NEW: its process ended by SIGKILL at 'round'"
    assert {cell.detail: len(cell.first) for cell in found.cells}["good"] >= 1
    assert left_running(tmp_path) == []


def test_last_words_of_a_crash_are_told(tmp_path: Path) -> None:
    crash = "if what == 'load': sys.exit('no space left')"
    with pytest.raises(DuetError, match="NEW: its process ended with exit code 1 at 'load': no space left"):
        play(checkout(tmp_path / "old", {"a": 1}), checkout(tmp_path / "new", {"a": 1}, crash))
    assert left_running(tmp_path) == []


def test_a_round_that_hangs_ends_both_sides_and_their_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_process, "PATIENCE_S", 0.1)  # the hanging side does not end by itself
    child = tmp_path / "child.py"
    listed = f"open({str(tmp_path / 'pids')!r}, 'a').write(str(os.getpid()) + chr(10))"
    child.write_text(f"import os, time; {listed}; time.sleep(600)", encoding="utf-8")
    hang = f"if what == 'round': import subprocess; subprocess.Popen([sys.executable, {str(child)!r}]); time.sleep(600)"
    began = time.monotonic()
    found = play(checkout(tmp_path / "old", {"a": 1}), checkout(tmp_path / "new", {"a": 1}, hang), limits=Limits(round_s=2))
    assert found.stopped.startswith("NEW: no answer to 'round' within 2 s; ended")
    assert time.monotonic() - began < 60
    deadline = time.monotonic() + 10
    while left_running(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in left_running(tmp_path) if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE] == []


def test_other_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DuetError, match=r"both sides must load one model, and OLD has the weights \w{12} and NEW ffffffffffff"):
        play(checkout(tmp_path / "old", {"a": 1}), checkout(tmp_path / "new", {"a": 1}, sha256="f" * 64))


def test_another_protocol_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DuetError, match=r"OLD: its bitzones 0.9 speaks protocol 7 of duets, this one 1"):
        play(checkout(tmp_path / "old", {"a": 1}, protocol=7), checkout(tmp_path / "new", {"a": 1}))


def test_a_checkout_from_before_duets_is_one_line(tmp_path: Path) -> None:
    package = tmp_path / "old" / "bitzones"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '0.0.3'\n", encoding="utf-8")
    with pytest.raises(DuetError, match=r"OLD: its bitzones 0.0.3 is too old for duets"):
        play(str(tmp_path / "old"), checkout(tmp_path / "new", {"a": 1}))


def test_what_is_printed_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(DuetError, match=r"NEW: no line of the protocol: 'hello there'"):
        play(checkout(tmp_path / "old", {"a": 1}), checkout(tmp_path / "new", {"a": 1}, "print('hello there', flush=True)"))


def test_cells_that_one_side_lacks_or_cannot_time_are_named(tmp_path: Path) -> None:
    refuse = "if what == 'prepare' and question['cell']['detail'] == 'no': return {'error': 'no kernel', 'status': 'not measured'}"
    old = checkout(tmp_path / "old", {"a": 1, "gone": 1, "no": 1})
    found = play(old, checkout(tmp_path / "new", {"a": 1, "no": 1, "fresh": 1}, refuse))
    assert [cell.detail for cell in found.cells] == ["a"]
    assert {cell.detail: (cell.status, cell.reason) for cell in found.failed} == {
        "gone": ("not measured", "the new side has no such cell"),
        "fresh": ("not measured", "the old side has no such cell"),
        "no": ("not measured", "NEW: no kernel"),
    }


def test_in_turn_only_one_side_holds_its_model(tmp_path: Path) -> None:
    held = tmp_path / "held"
    watch = (
        f"place = {str(held)!r}\n"
        "if what == 'load':\n    assert not os.path.exists(place), 'two models in memory'\n    open(place, 'w').close()\n"
        "if what == 'unload':\n    os.remove(place)\n    return {}"
    )
    sides = [checkout(tmp_path / name, {"a": 1}, watch) for name in ("old", "new")]
    found = play(*sides, in_turn=True)
    assert found.stopped == ""
    assert found.in_turn
    assert len(found.cells[0].first) >= 8


def test_a_selection_of_nothing_names_what_there_is(tmp_path: Path) -> None:
    same = checkout(tmp_path / "side", {"a": 1})
    with pytest.raises(DuetError, match="no cell is named like 'prefil'; there are latency w4 a"):
        play(same, same, select="prefil")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nothing", "OLD: 'nothing' is no environment: give a venv"),
        ("", "OLD: '' is no environment"),
        ("absent.whl", "OLD: absent.whl: cannot be read as a wheel: No such file or directory"),
        (".", "OLD: .: neither a virtual environment .* nor a checkout of bitzones"),
        ("--index-url=http://x", "OLD: '--index-url=http://x' is no environment"),
    ],
)
def test_what_is_no_side_is_one_line(spec: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DuetError, match=said):
        side(spec, "OLD")


def test_the_drivers_packages_do_not_leak_into_a_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = side(checkout(tmp_path / "side", {"a": 1}), "NEW")
    assert "PYTHONPATH" not in made.environment()
    assert [path.name for path in Path(made.source).iterdir()] == ["bitzones"]


def test_the_least_busy_cores_are_chosen() -> None:
    assert least_busy({0: 10, 1: 50, 2: 7}, {0: 30, 1: 52, 2: 27}, [0, 1, 2], 2) == (1, 0)
