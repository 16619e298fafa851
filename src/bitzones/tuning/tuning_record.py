"""The record of a tuning, for a plan and for a run file."""

from __future__ import annotations

from bitzones.data.sequences import SequenceSet
from bitzones.schema.profile_sections import Tuning
from bitzones.schema.tuning_cells import TunedWeights, TuningCell
from bitzones.tuning.distill import Texts, Tuned

__all__ = ["cell", "record"]


def record(tuned: Tuned, texts: Texts, settings: Tuning, file: str, sha256: str) -> TunedWeights:
    """What a plan says of its file of weights.

    Args:
        tuned: what was made.
        texts: what it was made on.
        settings: the section ``[tuning]``.
        file: name of the file of weights.
        sha256: of that file.
    """
    tokens = sum(texts.validation.sequence_tokens)
    return TunedWeights(
        file=file,
        sha256=sha256,
        sequences_sha256=SequenceSet(texts.training.sequences + texts.validation.sequences).sha256,
        tokens=sum(texts.training.sequence_tokens),
        validation_tokens=tokens,
        steps=tuned.history[-1][0],
        best_step=tuned.best_step,
        norms=settings.norms,
        before=sum(tuned.before) / tokens,
        after=sum(tuned.after) / tokens,
    )


def cell(variant: str, tuned: Tuned, texts: Texts, weights: TunedWeights) -> TuningCell:
    """The record of a run's tuning."""
    return TuningCell(
        variant=variant,
        weights=weights,
        parameters=tuned.parameters,
        sequence_tokens=texts.validation.sequence_tokens,
        before_nats=tuned.before,
        after_nats=tuned.after,
        history=tuned.history,
    )
