"""Duets in a comparison: their verdicts in place of those of two runs that were made at different times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from bitzones.analysis.reader import RunFile, one_line
from bitzones.regression.comparison import Metric, Status
from bitzones.regression.decision_rule import Draft, settled
from bitzones.regression.duet_verdicts import Control, DuetVerdict, verdict_of
from bitzones.schema.cell_key import CellKey
from bitzones.schema.cells import FailedCell
from bitzones.schema.duet_cells import DuetCell
from bitzones.schema.duet_record import DUET_SCHEMA, DuetFile, DuetSide
from bitzones.schema.errors import RunFileError
from bitzones.schema.profile_sections import Gate
from bitzones.schema.validation_errors import first_error
from bitzones.stats.intervals import Estimate
from bitzones.stats.sequential import SequentialWord

__all__ = ["DUET_METRIC", "Duets", "duet_draft", "duets_in", "duets_of", "is_duet", "is_of", "read_duet", "side_run"]

DUET_METRIC = "ratio in pairs"
"""The name of a duet's metric."""

WORDS: Mapping[SequentialWord, Status] = {"worse": "worse", "better": "better", "equivalent": "same", "inconclusive": "inconclusive"}

Duets = Mapping[CellKey, DuetCell | FailedCell]
"""What a duet says of cells, by the cells that runs have."""


def read_duet(path: Path | str) -> DuetFile:
    """Read and check a duet file.

    Raises:
        RunFileError: it is missing, truncated, no duet, of another schema, or holds something that is not allowed.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise RunFileError(one_line(f"{path}: cannot be read: {error.strerror}")) from error
    if not is_duet(text):
        raise RunFileError(one_line(f"{path}: no duet file; 'bitzones duet OLD NEW -o duet.json' writes one"))
    try:
        return DuetFile.model_validate_json(text)
    except ValidationError as error:
        first = first_error(error)
        raise RunFileError(
            one_line(f"{path}: {first.path or 'the file'}: {first.message}{first.more} (duet schema {DUET_SCHEMA})")
        ) from error


def is_duet(text: bytes) -> bool:
    """Whether a file is to be a duet: run files have benchmarks."""
    return b'"in_turn"' in text and b'"benchmarks"' not in text


def duets_of(file: DuetFile) -> Duets:
    """What a duet file says, cell by cell."""
    return {**{cell.key: cell for cell in file.failed}, **{cell.judged: cell for cell in file.cells}}


def duets_in(old: RunFile, new: RunFile) -> Duets:
    """The duets that pytest recorded in the new run against the releases of the old one."""
    return {cell.judged: cell for cell in new.cells if isinstance(cell, DuetCell) and cell.against == old.run.releases}


def is_of(file: DuetFile, old: RunFile, new: RunFile) -> bool:
    """Whether a duet is of the same releases and weights as two runs."""
    return all(
        side.releases == run.run.releases and _weights(side.run.model) == _weights(run.run.model)
        for side, run in ((file.old, old), (file.new, new))
    )


def _weights(model: object) -> object:
    return getattr(model, "sha256", None)


def side_run(file: DuetFile, side: DuetSide) -> RunFile:
    """What a side measured that is no time, as a run."""
    return RunFile(path=one_line(side.spec), measured_at=file.measured_at, run=side.run, cells=side.cells)


def duet_draft(cell: DuetCell | FailedCell, gate: Gate) -> Draft:
    """The one metric of a cell that a duet timed, decided."""
    if isinstance(cell, FailedCell):
        return settled(Metric(name=DUET_METRIC, unit="s", status=_failed(cell), reason=cell.reason))
    found = verdict_of(cell, gate.duet_time)
    return settled(
        Metric(
            name=DUET_METRIC,
            unit="s",
            status=WORDS[found.word],
            old=_median(cell.first.of("A")),
            new=_median(cell.first.of("B")),
            change=found.ratio,
            as_ratio=True,
            n=found.n,
            units="quadruples",
            tolerance=gate.duet_time,
            reason="; ".join(_reasons(cell, found)),
        )
    )


def _failed(cell: FailedCell) -> Status:
    if cell.status == "failed":
        return "failed"
    return "missing" if cell.reason.startswith(("NEW", "the new side")) else "incomparable"


def _median(rounds: Iterable[float]) -> float | None:
    values = list(rounds)
    return float(np.median(values)) if values else None


def _reasons(cell: DuetCell, found: DuetVerdict) -> Iterable[str]:
    if found.reason:
        yield found.reason
    elif found.word == "inconclusive":
        yield f"undecided after {cell.took_s:.0f} s of {cell.limit_s:.0f} s"
    if found.again is not None:
        yield f"again {_percent(found.again)}"
    if found.control is not None:
        yield _against_itself(found.control)


def _against_itself(found: Control) -> str:
    smallest = "none" if found.smallest_change is None else f"{found.smallest_change:.1%}"
    alarms = f"{found.alarms} of {found.exchanges} exchanges alarm"
    return f"against itself {_percent(found.ratio)}, n = {found.n}, {alarms}, smallest change seen {smallest}"


def _percent(ratio: Estimate) -> str:
    ends = "" if ratio.low is None or ratio.high is None else f" [{ratio.low - 1:+.1%}, {ratio.high - 1:+.1%}]"
    return f"{ratio.value - 1:+.1%}{ends}"
