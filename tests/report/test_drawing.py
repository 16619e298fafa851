"""Another process draws what this one would, however often it is asked, and its death costs no picture."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bitzones.report.charts import drawing, vega

CHART: vega.Spec = {"data": {"values": [{"a": 0.1}]}, "mark": "bar", "encoding": {"x": {"field": "a", "title": "µ × 1/3"}}}


def test_the_other_process_draws_the_same_again_and_again() -> None:
    here = vega.pictures({"one": CHART})
    assert list(here) == ["one.svg", "one.png"]
    with drawing.beside() as draw:
        assert draw({"one": CHART})() == here
        assert draw({})() == {}
        both = draw({"one": CHART, "two": CHART})()
    assert both == here | {"two.svg": here["one.svg"], "two.png": here["one.png"]}


def test_what_the_other_process_cannot_draw_is_said_by_this_one() -> None:
    with drawing.beside() as draw:
        drawn = draw({"one": CHART | {"data": {"url": "https://example.com/data.json"}}})
        with pytest.raises(ValueError, match="allowed"):
            drawn()
        assert draw({"one": CHART})() == vega.pictures({"one": CHART}), "the other one is dead by now"


def test_it_is_gone_when_nobody_will_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []

    def popen(*args: Any, **kwargs: Any) -> subprocess.Popen[str]:
        started.append(whole(*args, **kwargs))
        return started[0]

    whole = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(KeyboardInterrupt), drawing.beside():
        raise KeyboardInterrupt
    assert started[0].returncode is not None


def test_it_ends_when_who_asked_was_killed(tmp_path: Path) -> None:
    asks = "import os, sys; from bitzones.report.charts import drawing\nwith drawing.beside(): print(os.getpid(), flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", asks], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as asker:
        assert asker.stdout is not None
        pid = int(asker.stdout.readline())
        children = Path(f"/proc/{pid}/task/{pid}/children")
        if not children.exists():
            asker.kill()
            pytest.skip("no list of children in /proc")
        (other,) = map(int, children.read_text().split())
        end = os.pidfd_open(other)
        asker.kill()
    ended, _, _ = select.select([end], [], [], 60)
    os.close(end)
    assert ended
