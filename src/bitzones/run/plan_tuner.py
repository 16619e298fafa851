"""The tuning of a run's plan: trained on the tuning set, its weights kept in a file beside the run file, and a variant of their own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bitzones.schema.errors import MeasureError, NotMeasuredError, PlanError
from bitzones.schema.profile import PLAN, TUNED
from bitzones.schema.progress import Progress
from bitzones.schema.tuning_cells import TuningCell
from bitzones.tuning import distill, packed_weights, saved_state, tuning_record, weights_file
from bitzones.tuning.distill import Tuned
from bitzones.tuning.student import tunable_student
from bitzones.tuning.weights_file import StoredWeights

if TYPE_CHECKING:
    from bitzones.run.session import Session

__all__ = ["WEIGHTS_FILE", "again", "tuned"]

WEIGHTS_FILE = f"{TUNED}.safetensors"
"""In the folder of the run file."""

STATE = f".{TUNED}.state"
"""There too, while it is tuned."""


def tuned(session: Session, progress: Progress) -> TuningCell:
    """Tune the plan that was found, write its weights and define the variant `TUNED`.

    Raises:
        NotMeasuredError: the plan has nothing to tune.
        NonFiniteError: the loss became NaN or infinite.
    """
    settings, seed, variants = session.profile.tuning, session.profile.seed, session.variants
    session.search()
    assert settings is not None, "the profile tunes nothing"
    formats = variants.assignment(PLAN)
    if not any(map(packed_weights.tunable, formats.values())):
        raise NotMeasuredError("the plan has no module in 4 or 2 bits of quanto, whose scales and shifts are what is tuned")
    before, texts = variants.whole(PLAN), distill.split(session.sets.tuning, settings.validation, seed)

    def distilled(place: Path | None) -> Tuned:
        return distill.distill(
            variants.reference,
            lambda: tunable_student(variants.reference, before, formats, norms=settings.norms, stored_dtype=variants.loaded.model.dtype),
            texts,
            settings,
            seed,
            place=place,
            report=lambda done, steps, nats: progress(done / steps),
        )

    found = _continued(session.folder, distilled)
    variants.define_stored(TUNED, formats, StoredWeights({**before, **found.weights}, found.dense))
    with tempfile.TemporaryDirectory() as spare:  # where nobody keeps a run file, nobody needs its weights
        sha256 = weights_file.write((session.folder or Path(spare)) / WEIGHTS_FILE, found.weights, found.dense)
    return tuning_record.cell(TUNED, found, texts, tuning_record.record(found, texts, settings, WEIGHTS_FILE, sha256))


def _continued(folder: Path | None, distilled: Callable[[Path | None], Tuned]) -> Tuned:
    """A tuning that goes on where one of the same plan and text was interrupted in this folder, and starts over where there was another."""
    if folder is None:
        return distilled(None)
    place = folder / STATE
    try:
        found = distilled(place)
    except PlanError:  # the state of another tuning
        saved_state.remove(place)
        found = distilled(place)
    saved_state.remove(place)
    return found


def again(session: Session, cell: TuningCell) -> None:
    """Define the variant `TUNED` from the file that an interrupted run wrote.

    Raises:
        MeasureError: the file is not there.
        PlanError: it is another one.
    """
    if session.folder is None:
        raise MeasureError(f"the weights of an earlier tuning, {cell.weights.file}, are in no known folder: measure without --resume")
    variants = session.variants
    formats = variants.assignment(PLAN)
    stored = weights_file.read(session.folder / cell.weights.file, cell.weights.sha256, variants.loaded.model, formats)
    variants.define_stored(TUNED, formats, stored)
