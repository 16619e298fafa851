"""What a tuning trained on and what it changed: in a run file a cell, in a plan the record of its weights' file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bitzones.schema.record import Count, Measured, NonNegative, Positive, Record

__all__ = ["TunedWeights", "TuningCell"]


class TunedWeights(Record):
    """The file of a tuned plan's weights, which rounding the plan's sequences again would not give, and how they were made.

    ``file`` lies beside the plan; ``sha256`` is its hash. ``sequences_sha256`` is the hash of the tuning set, of which ``tokens`` were
    trained on and ``validation_tokens`` kept aside to stop early on; ``before`` and ``after`` are KL(reference || plan) on those, nats per
    token, as `tuning.teacher.top_kl` has it. The weights are those of ``best_step`` of ``steps``. ``norms`` tells whether the parameters of
    normalization layers were trained too.
    """

    file: str = Field(pattern=r"^[^/\\\x00]+\.safetensors$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    sequences_sha256: str
    tokens: Positive
    validation_tokens: Positive
    steps: Count
    best_step: Count
    norms: bool
    before: NonNegative
    after: NonNegative


class TuningCell(Measured):
    """The tuning of the plan that was found: ``parameters`` numbers were trained, the integers and the stored bytes stay.

    ``before_nats`` and ``after_nats`` are KL(reference || plan) of each validation sequence, summed over its ``sequence_tokens``;
    ``history`` has step and nats per token of every validation.
    """

    kind: Literal["tuning"] = "tuning"
    weights: TunedWeights
    parameters: Count
    sequence_tokens: tuple[Count, ...] = Field(min_length=1)
    before_nats: tuple[NonNegative, ...]
    after_nats: tuple[NonNegative, ...]
    history: tuple[Annotated[tuple[Count, NonNegative], Field(strict=False)], ...]

    @model_validator(mode="after")
    def _consistent(self) -> TuningCell:
        if {len(self.before_nats), len(self.after_nats)} != {len(self.sequence_tokens)}:
            raise ValueError("a validation has another number of sequences than the cell")
        return self
