"""The record that belongs to a run."""

from __future__ import annotations

from pathlib import Path

from bitzones.analysis.reader import read_run
from bitzones.schema.canary_record import CanaryRecord, read_canary
from bitzones.schema.errors import RunFileError

__all__ = ["CANARY", "canary_of"]

CANARY = "canary.json"
"""Name of the record beside its run."""


def canary_of(run: Path, canary: Path | None) -> CanaryRecord:
    """Read the record of a run, or the one beside it.

    Raises:
        RunFileError: one of the files cannot be used, or the record is of another model than the run's.
    """
    model = read_run(run).run.model
    place = canary if canary is not None else run.parent / CANARY
    record = read_canary(place)
    if model is None or model.sha256 != record.model_sha256:
        raise RunFileError(
            f"{place}: made of {record.source!r}, which is not the model that {run} measured: its weights have another SHA-256"
        )
    return record
