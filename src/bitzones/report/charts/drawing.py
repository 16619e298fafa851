"""Pictures drawn by a process of their own, which loads what draws them while this one still decides.

vl-convert takes half a second to start and holds the interpreter's lock whatever it does, so that a thread would hide nothing.
``python -m bitzones.report.charts.drawing`` is that process: a line of charts in, a line of pictures out. It ends where its input does, so that it
never outlives who asked. This module knows neither charts nor reports.
"""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from bitzones.report.charts import vega

__all__ = ["beside"]

FIRST: Mapping[str, vega.Spec] = {"first": {"data": {"values": [{"a": 1}]}, "mark": "bar", "encoding": {"x": {"field": "a"}}}}
"""Drawn before it is asked for anything: what loads only when it is used is loaded then."""


@contextmanager
def beside() -> Iterator[vega.Draw]:
    """Draw as `vega.here` does, but beside this process. Should the other one die, it is this one that draws, and says what is wrong."""
    with subprocess.Popen(  # noqa: S603
        (sys.executable, "-m", __name__),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for who asked
        encoding="ascii",
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        asked, answers = other.stdin, other.stdout

        def draw(charts: Mapping[str, vega.Spec]) -> vega.Drawn:
            with contextlib.suppress(BrokenPipeError):
                asked.write(json.dumps(charts) + "\n")
                asked.flush()

            def drawn() -> vega.Files:
                answer = answers.readline()
                if not answer.endswith("\n"):
                    return vega.pictures(charts)
                return {name: base64.b64decode(data) for name, data in json.loads(answer).items()}

            return drawn

        try:
            yield draw
        finally:
            other.kill()
            with contextlib.suppress(BrokenPipeError):  # what a dead one did not read
                asked.close()


def _serve(asked: TextIO, answers: TextIO) -> None:
    vega.pictures(FIRST)
    for line in asked:
        found = vega.pictures(json.loads(line))
        answers.write(json.dumps({name: base64.b64encode(data).decode() for name, data in found.items()}) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve(sys.stdin, sys.stdout)
