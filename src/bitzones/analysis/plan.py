"""Records of a plan: a format for every unit, and zones of layers. plan.json is a `Plan`. History of ``PLAN_SCHEMA``:

1   2026-11   first
2   2026-11   an interval may be null: too few sequences to give one; how the plan was made, its KL on held-out sequences, its accuracy
3   2026-11   calibrated formats name the sequences that their integers came from
4   2026-11   renamed as in run files: units, calibration, sequences_sha256; the zone INCONCLUSIVE (CANNOT TELL)
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from bitzones.schema.errors import PlanError
from bitzones.schema.files import write_text
from bitzones.schema.plan_cells import PlanOrigin
from bitzones.schema.record import Record
from bitzones.schema.run_record import CalibrationSet
from bitzones.schema.tuning_cells import TunedWeights
from bitzones.stats.intervals import Estimate, Interval
from bitzones.stats.verdicts import Verdict

__all__ = [
    "PLAN_FORMAT",
    "PLAN_SCHEMA",
    "Around",
    "Decided",
    "Fused",
    "LayerZone",
    "Plan",
    "PlanAccuracy",
    "PlanBudget",
    "PlanKL",
    "PlanLatency",
    "PlannedModel",
    "SplitGroup",
    "SplitHalf",
    "UnitPlan",
    "Zone",
    "ZoneWord",
]

PLAN_SCHEMA: Literal[4] = 4
PLAN_FORMAT: Literal["bitzones-plan"] = "bitzones-plan"

ZoneWord = Literal["SAFE", "TRANSITION", "CRITICAL", "INCONCLUSIVE"]

Around = Literal["reference", "plan"]
"""What costs are relative to: the reference (separate sensitivities) or the searched plan."""


class Decided(Record):
    """A record of the analysis; the descriptions of its fields go into the JSON schema."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, populate_by_name=True, serialize_by_alias=True
    )

    def to_json(self) -> str:
        """The text of a JSON file of this record, such as plan.json."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


class PlanLatency(Decided):
    """Time of the matrix products of a plan's units in one decode step: a sum of medians on the run's device."""

    nanoseconds: int
    share: float
    """Share of the reference's time."""


class PlanBudget(Decided):
    """The limit on a plan, or what the plan uses of it."""

    average_bits: float
    """Stored bits per weight of the units, scales and shifts counted."""
    stored_bytes: int
    tolerance: float | None = None
    """The KL tolerance that these bytes were found for, nats per token on the sensitivity set; null where the budget is in bits."""
    latency: PlanLatency | None = None
    """The time limit, where the budget is one of time; the bytes are then those of the largest plan. Null elsewhere."""

    @property
    def limit(self) -> int:
        """The limit in the budget's own unit: nanoseconds or bytes."""
        return self.stored_bytes if self.latency is None else self.latency.nanoseconds


class PlannedModel(Decided):
    """The model that a plan applies to."""

    source: str
    revision: str | None = None
    """The commit of a model from the hub."""
    sha256: str
    architecture: str
    dtype: str
    compute_dtype: str
    trust_remote_code: bool


class PlanAccuracy(Decided):
    """Accuracy of the model quantized by the plan on one task."""

    task: str
    metric: str
    n: int
    """Number of items."""
    share: Interval
    """Accuracy with its Wilson interval."""
    verdict: Verdict | None
    """Against the reference on the same items, with corrected p-values; null where the reference was not measured."""


@dataclass(frozen=True)
class PlanKL:
    """KL(reference || plan) of a plan measured as a whole, nats per token, with its 95% interval over held-out sequences.

    With too few sequences for an interval, ``low`` is 0 and ``high`` is infinity, which is what is known of a KL then: a condition such as
    ``plan.kl.high < 0.05`` holds only where the data show it.
    """

    value: float
    """The estimate from all held-out sequences, nats per token."""
    low: float
    """Lower end of the 95% interval, nats per token."""
    high: float
    """Upper end of the 95% interval, nats per token."""
    n: int
    """Held-out sequences behind it."""


class Plan(Decided):
    """A format for every unit, and everything needed to apply it. plan.json is this record."""

    format: Literal["bitzones-plan"] = PLAN_FORMAT
    schema_number: Literal[4] = Field(default=PLAN_SCHEMA, alias="schema")
    bitzones: str
    """Version of bitzones that measured."""
    model: PlannedModel | None
    reference: str
    """The name that stands for "not quantized"."""
    budget: PlanBudget
    achieved: PlanBudget
    """Never above the budget."""
    reference_bytes: int
    """Stored bytes of the same units in the reference."""
    predicted_kl: Estimate
    """Sum of separate sensitivities, nats per token. A prediction, and a poor one at 2 bits."""
    name: str = "additive"
    """The plan's name in the run's comparison of plans."""
    origin: PlanOrigin = "additive"
    """How it was made: ``additive`` has the lowest sum of separate sensitivities, ``search`` improves on it by measuring whole plans."""
    measured_kl: Estimate | None = None
    """Measured KL on held-out sequences, nats per token; null where not measured."""
    measured_sequences: int | None = None
    """Held-out sequences behind ``measured_kl``."""
    held_out_sha256: str | None = None
    """Hash of those sequences."""
    accuracy: tuple[PlanAccuracy, ...] = ()
    """Measured accuracy; empty where not measured."""
    units: dict[str, str]
    """Unit to format."""
    assignment: dict[str, str]
    """Module to format; the reference's name for modules that are not quantized."""
    group_sizes: dict[str, int | None]
    """Module to the group size of its scales, null for one scale per row; modules that are not quantized are absent."""
    calibration: CalibrationSet | None = None
    """The calibration set; null where no format is calibrated. ``fallbacks`` are the plan's."""
    tuning: TunedWeights | None = None
    """The file of the weights, where what is stored beside the integers was trained; null where the plan is not tuned."""
    sequences_sha256: str
    profile_sha256: str
    versions: dict[str, str]
    """Versions of the packages that measured."""

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        model = self.model.source if self.model else "model not recorded"
        measured = f", KL {self.measured_kl.value:.3g} nats/token on held-out sequences" if self.measured_kl else ""
        return f"<Plan {self.name!r} for {model!r}: {self.average_bits:.2f} bits per weight, {self.stored_bytes:,} bytes{measured}>"

    @property
    def kl(self) -> PlanKL:
        """KL of the plan as a whole on held-out sequences, nats per token.

        Raises:
            PlanError: it was not measured.
        """
        if self.measured_kl is None or self.measured_sequences is None:
            raise PlanError(f"plan {self.name!r} was not measured as a whole (was bench/test_plan.py deselected?); predicted_kl is a sum")
        ends = self.measured_kl.interval
        low, high = (ends.low, ends.high) if ends else (0.0, math.inf)
        return PlanKL(self.measured_kl.value, low, high, self.measured_sequences)

    @property
    def formats(self) -> dict[str, str]:
        """Module to format, for the modules that the plan quantizes."""
        return {name: format_name for name, format_name in self.assignment.items() if format_name != self.reference}

    @property
    def stored_bytes(self) -> int:
        """Bytes that the planned modules take as stored, scales and shifts included."""
        return self.achieved.stored_bytes

    @property
    def average_bits(self) -> float:
        """Stored bits per weight of the planned modules, scales and shifts included."""
        return self.achieved.average_bits

    def write(self, path: Path | str) -> Path:
        """Write plan.json, which `bitzones apply` and `bitzones.apply` take; the folder is made if it is not there. Returns its path.

        Raises:
            OutputError: it cannot be written.
        """
        write_text(Path(path), self.to_json())
        return Path(path)


class UnitPlan(Decided):
    """The plan's format for one unit, and how stable that choice is."""

    unit: str
    layer: int | None
    """Null for a unit after the last layer, which has no zone."""
    group: str | None
    """Its group within the layer; null where a unit is a whole layer."""
    format: str
    stored_bytes: int
    reference_bytes: int
    shares: dict[str, float]
    """Share of the resampled plans that choose each format for this unit."""


class LayerZone(Decided):
    """The zone of one layer."""

    layer: int
    zone: ZoneWord
    formats: dict[str, int]
    """Number of the layer's units at each format in the plan, most bits first, the reference last."""
    lowest_share: float
    """Share of the resampled plans in which all units of the layer are at the lowest format."""
    highest_share: float
    """Share in which all are at the highest format or at the reference."""


class Zone(Decided):
    """All layers of one zone with their bytes."""

    zone: ZoneWord
    layers: tuple[int, ...]
    parameters: int
    reference_bytes: int
    plan_bytes: int


class SplitHalf(Decided):
    """The zones of two disjoint halves of the sensitivity sequences: the even and the odd ones."""

    around: Around
    """What costs are relative to. Around the searched plan, both halves share that plan, which was found on all sequences."""
    sequences: tuple[int, int]
    """Sequences of each half."""
    layers: tuple[int, ...]
    zones: tuple[tuple[ZoneWord, ...], tuple[ZoneWord, ...]]
    """Of each half, in the order of ``layers``."""
    agree: tuple[int, ...] | None
    """Layers with the same zone in both; null where a half has too few sequences."""
    holds: bool | None
    """Whether enough layers agree; null where ``agree`` is."""


class SplitGroup(Decided):
    """A group of modules that serving engines fuse, and that the plan stores in more than one format."""

    layer: int
    group: str


class Fused(Decided):
    """Whether engines that fuse modules can serve a plan of single modules."""

    groups: int
    """Groups of more than one module."""
    split: tuple[SplitGroup, ...]
    """Groups with more than one format, which cannot be served fused."""
