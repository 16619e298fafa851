"""One side of a duet: loads a model in its own environment and times a call of it when it is asked (`bitzones.duets.line_protocol`).

Answers leave by the standard output that the process was started with; whatever libraries print goes to standard error.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Protocol, TextIO

import bitzones
from bitzones.duets.line_protocol import PROTOCOL, TimedCell, Way
from bitzones.run.attempts import reason_of
from bitzones.run.call_clock import Called
from bitzones.schema.cells import Cell
from bitzones.schema.errors import BitzonesError, MeasureError, NotMeasuredError
from bitzones.schema.profile import Profile
from bitzones.schema.run_record import Run

__all__ = ["Bench", "Worker", "main", "ways"]


_BENCHES: dict[Way, str] = {"session": "bitzones.run.session_bench", "basic": "bitzones.run.basic_bench"}
"""Imported when they are asked for: a release may be too old for the first."""


class Bench(Protocol):
    """What times calls: of a session, or by basic calls."""

    def run(self) -> Run: ...
    def cells(self) -> list[TimedCell]: ...
    def prepare(self, cell: TimedCell) -> tuple[str, float]: ...
    def call(self, cell: TimedCell) -> Called: ...
    def checks(self) -> Iterator[Cell]: ...


class Worker:
    """Answers questions about one profile."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._bench: Bench | None = None

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer to one question, also where there is none."""
        try:
            return self._answer(question)
        except NotMeasuredError as error:
            return {"error": str(error), "status": "not measured"}
        except BitzonesError as error:
            return {"error": str(error), "status": "failed"}
        except Exception as error:  # noqa: BLE001 (the driver says it in one line; the side goes on)
            return {"error": reason_of(error), "status": "failed"}

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        match question["do"]:
            case "hello":
                return {"protocol": PROTOCOL, "bitzones": bitzones.__version__, "source": self._source, "ways": ways()}
            case "load":
                return self._load(Profile.model_validate_json(question["profile"]), question["way"])
            case "unload":
                self._bench = None
                gc.collect()
                return {}
            case other:
                return self._measured(other, question)

    def _load(self, profile: Profile, way: Way) -> dict[str, Any]:
        made = importlib.import_module(_BENCHES[way])
        self._bench = made.SessionBench(profile) if way == "session" else made.BasicBench(profile)
        cells = [cell.model_dump() for cell in self._bench.cells()]
        return {"run": self._bench.run().model_dump(mode="json"), "cells": cells}

    def _measured(self, what: str, question: dict[str, Any]) -> dict[str, Any]:
        if self._bench is None:
            raise MeasureError(f"{what!r} was asked before a profile was loaded")
        if what == "checks":
            return {"cells": [cell.model_dump(mode="json") for cell in self._bench.checks()]}
        cell = TimedCell.model_validate(question["cell"])
        if what == "prepare":
            shape, seconds = self._bench.prepare(cell)
            return {"shape": shape, "seconds": seconds}
        if what == "round":
            return {"calls": [self._bench.call(cell) for _ in range(question["calls"])]}
        raise MeasureError(f"protocol {PROTOCOL} has no question {what!r}")


def ways() -> list[Way]:
    """How this environment can measure; a release that is too old for the session can do the basic calls."""
    found: list[Way] = []
    for way, module in _BENCHES.items():
        with suppress(ImportError):
            importlib.import_module(module)
            found.append(way)
    return found


def main(source: str) -> None:
    """Answer every line of standard input until it ends; ``source`` is whose bitzones this is, ``own`` or ``given``."""
    with _own_output() as output:
        worker = Worker(source)
        for line in sys.stdin:
            output.write(json.dumps(worker.answer(json.loads(line))) + "\n")
            output.flush()


def _own_output() -> TextIO:
    """The standard output of the process; from now on everything else that is printed goes to standard error."""
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return kept
