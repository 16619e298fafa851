"""The record of a session in the run file, and the fingerprint by which its journal can be resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bitzones
from bitzones.run import journal
from bitzones.schema.formats import is_calibrated
from bitzones.schema.run_record import CalibrationSet, Run, TextSet
from bitzones.schema.text_sources import SetName, reads_text

if TYPE_CHECKING:
    from bitzones.run.session import Session

__all__ = ["fingerprint", "run_record", "sweep_fingerprint"]


def run_record(session: Session) -> Run:
    """The data that all cells of the session share."""
    return Run(
        bitzones=bitzones.__version__,
        profile=session.profile,
        model=session.variants.info(),
        variants=session.variants.formats,
        environment=session.environment(),
        calibration=_calibration(session),
        texts=_texts(session),
        domains={name: found.record for name, found in session.sets.domains.items()} if session.has_tokenizer else {},
    )


def _texts(session: Session) -> dict[SetName, TextSet]:
    """What was read for each set: not of the tasks alone, whose sets are taken when a cell needs them, which a resumed run may not."""
    return dict(session.sets.texts) if session.has_tokenizer and reads_text(session.profile) else {}


def _calibration(session: Session) -> CalibrationSet | None:
    if not any(map(is_calibrated, session.profile.formats)):
        return None
    return CalibrationSet(
        sequences_sha256=session.calibration_set.sha256,
        sequences=tuple(" ".join(map(str, sequence.ids)) for sequence in session.calibration_set.sequences),
        batch=session.calibration_batch,
        damping=session.profile.calibration.damping,
        fallbacks={variant: found for variant, found in session.variants.fallbacks.items() if found},
    )


def fingerprint(session: Session) -> dict[str, Any]:
    """Everything that results depend on. A run may take over the cells of another one only if all of it is the same."""
    run = run_record(session).model_dump(mode="json", include={"bitzones", "profile", "model", "environment", "texts", "domains"})
    run["profile"].pop("gate")  # the gate does not affect measurements
    return {**run, "code": journal.code_sha256(), "tasks": {name: task.sha256 for name, task in session.scored.items()}}


def sweep_fingerprint(session: Session) -> dict[str, Any]:
    """Everything that sensitivities depend on, wherever they are measured: parts of one sweep have the same.

    Of the machine only what the numbers depend on beyond their last digits is in it: the kind of device, and of GPUs which. Sets are taken
    for it, so that it does not depend on what a session was asked before.
    """
    environment, kind = session.environment(), session.device.type
    profile, model = session.profile.model_dump(mode="json"), session.variants.info().model_dump(mode="json")
    for section, key in ((profile, "gate"), (profile["model"], "device"), (model, "placement")):
        section.pop(key)  # cuda:3 there may be cuda:0 here
    sets = {"sensitivity": session.sensitivity_set.sha256}
    if any(map(is_calibrated, session.profile.formats)):
        sets["calibration"] = session.calibration_set.sha256
    return {
        "bitzones": bitzones.__version__,
        "code": journal.code_sha256(),
        "versions": environment.versions,
        "device": {"type": kind, **({"name": environment.device_name} if kind == "cuda" else {})},
        "model": model,
        "profile": profile,
        "tasks": {name: task.sha256 for name, task in session.scored.items()},
        "sequences": sets,
    }
