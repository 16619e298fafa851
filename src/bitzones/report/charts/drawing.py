"""Draws charts in a second process, which starts up while this one analyzes the run.

vl-convert takes half a second to start and holds the GIL throughout, so a thread would not help. The process is
``python -m bitzones.report.charts.drawing``: a line of charts in, a line of images out. It exits at the end of its input, so it never
outlives its parent.
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
"""Drawn at start-up, so that lazy imports are done before the first request."""


@contextmanager
def beside() -> Iterator[vega.Draw]:
    """Draw as `vega.here` does, in a second process. If that process dies, this one draws instead and raises its own errors."""
    with subprocess.Popen(  # noqa: S603
        (sys.executable, "-m", __name__),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches the parent only
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
            with contextlib.suppress(BrokenPipeError):  # the process died before it read its input
                asked.close()


def _serve(asked: TextIO, answers: TextIO) -> None:
    vega.pictures(FIRST)
    for line in asked:
        found = vega.pictures(json.loads(line))
        answers.write(json.dumps({name: base64.b64encode(data).decode() for name, data in found.items()}) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve(sys.stdin, sys.stdout)
