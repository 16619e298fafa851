"""Watches of `other_server` with the record of `make_canary`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import make_canary
from other_server import Manners

from bitzones.monitor.canary import Tolerance
from bitzones.monitor.canary_watch import CanaryWatch
from bitzones.monitor.completions import Completions
from bitzones.monitor.records import CanaryCheck
from bitzones.monitor.state import opened
from bitzones.schema.canary_record import CanaryRecord

RECORD = make_canary.record()


def good(**changes: object) -> Manners:
    return Manners(**{"predict": make_canary.predict, "encode": make_canary.encode, "name": make_canary.TEXTS.__getitem__, **changes})  # type: ignore[arg-type]


class Patient:
    """Counts the pauses between tries instead of waiting."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.pauses.append(seconds)


@contextmanager
def watching(
    path: Path, url: str, record: CanaryRecord = RECORD, prompts: int = 10, tolerance: Tolerance | None = None, timeout_s: float = 5.0
) -> Iterator[CanaryWatch]:
    with opened(path / "monitor.sqlite") as state, Completions(url, timeout_s=timeout_s, sleep=Patient()) as server:
        yield CanaryWatch(record, state, server, prompts, tolerance or Tolerance())


def checks(path: Path, url: str, count: int, **given: object) -> list[CanaryCheck]:
    with watching(path, url, **given) as watch:  # type: ignore[arg-type]
        return [watch.check() for _ in range(count)]
