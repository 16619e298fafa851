"""Duet cells and files for tests: times of two sides with a known ratio, no process and no torch."""

from __future__ import annotations

from typing import Any, Literal

import make_run
import numpy as np

from bitzones.schema.cells import Cell, FailedCell
from bitzones.schema.duet_cells import DuetCell, Quadruples
from bitzones.schema.duet_record import DuetFile, DuetSide
from bitzones.schema.profile_sections import Gate
from bitzones.schema.run_record import Run

VERSIONS = {"bitzones": "0.1.0"}


def quadruples(ratio: float, n: int = 60, seed: int = 0, spread: float = 0.01) -> Quadruples:
    """Rounds of 10 ms, the new side's ``ratio`` times as long."""
    rng = np.random.default_rng(seed)
    orders: list[Literal["ABBA", "BAAB"]] = ["ABBA" if rng.random() < 0.5 else "BAAB" for _ in range(n)]
    rounds: Any = tuple(
        tuple(0.01 * (ratio if who == "B" else 1.0) * float(np.exp(rng.normal(0, spread))) for who in order) for order in orders
    )
    return Quadruples(orders=tuple(orders), rounds_s=rounds, queued_s=((0.0, 0.0, 0.0, 0.0),) * n)


def cell(ratio: float, variant: str = "w4", detail: str = "decode-b1-p64-n16", again: float | None = None, **changes: Any) -> DuetCell:
    """A cell whose ratio new processes repeat, or show as ``again``; the new side against itself shows nothing."""
    changed = again is not None or abs(ratio - 1) > 0.02
    settings: dict[str, Any] = {
        "variant": variant,
        "of": "latency",
        "detail": detail,
        "calls": 1,
        "family": 2,
        "limit_s": 60.0,
        "took_s": 3.0,
        "first": quadruples(ratio),
        "again": quadruples(again or ratio, seed=1) if changed else None,
        "control": quadruples(1.0, seed=2) if changed else None,
        "against": VERSIONS,
    }
    return DuetCell(**{**settings, **changes})


def side(run: Run, spec: str = "this", cells: tuple[Cell, ...] = ()) -> DuetSide:
    return DuetSide(spec=spec, source="own", run=run, cells=cells)


def file(*cells: DuetCell, old: Run | None = None, new: Run | None = None, failed: tuple[FailedCell, ...] = (), **changes: Any) -> DuetFile:
    """A duet file of the run that `make_run` makes."""
    run = Run.model_validate(make_run.run_dict()["bitzones"])
    settings: dict[str, Any] = {
        "bitzones": "0.1.0",
        "measured_at": "2026-11-30T10:00:00+00:00",
        "took_s": 12.0,
        "old": side(old or run, "old.whl"),
        "new": side(new or run, "this"),
        "gate": Gate(),
        "seed": 0,
        "way": "session",
        "threads": 1,
        "cores": (0,),
        "cells": cells,
        "failed": failed,
    }
    return DuetFile(**{**settings, **changes})
