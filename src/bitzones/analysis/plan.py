"""What a plan is: a format for every unit, and which layers its choice is sure about. plan.json holds a `Plan` and nothing else.

Whoever applies a plan needs only this module. It does not know how a plan is found. History of ``PLAN_SCHEMA``:

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
from bitzones.schema.records import CalibrationSet, PlanOrigin, Record
from bitzones.stats.intervals import Estimate, Interval, Verdict

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
"""What a format's cost is relative to: the reference (separate sensitivities), or the plan that a search found."""


class Decided(Record):
    """A decided value; the description of each field stands in its JSON schema."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, populate_by_name=True, serialize_by_alias=True
    )

    def to_json(self) -> str:
        """The text of a JSON file of this record, such as plan.json."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


class PlanLatency(Decided):
    """Time of the products of a plan's units in one decode step, as sums of medians measured on the device of the run."""

    nanoseconds: int
    share: float
    """Of what the reference takes."""


class PlanBudget(Decided):
    """What the plan may cost, or does."""

    average_bits: float
    """Stored bits per weight of the units, scales and shifts counted."""
    stored_bytes: int
    tolerance: float | None = None
    """The KL for which these bytes were found, nats per token on the sensitivity sequences; null where bits were given."""
    latency: PlanLatency | None = None
    """Where time is what the budget counts; the bytes are then the most that any plan takes. Null elsewhere."""

    @property
    def limit(self) -> int:
        """What is allowed, in what the budget counts: nanoseconds or bytes."""
        return self.stored_bytes if self.latency is None else self.latency.nanoseconds

    @property
    def words(self) -> str:
        """What is allowed, in words."""
        return f"{self.average_bits:.4g} average bits" if self.latency is None else f"{self.latency.share:.3g} of the reference's time"


class PlannedModel(Decided):
    """The model that a plan is for: it fits no other."""

    source: str
    revision: str | None = None
    """The commit of a model from the hub."""
    sha256: str
    architecture: str
    dtype: str
    compute_dtype: str
    trust_remote_code: bool


class PlanAccuracy(Decided):
    """What a model quantized by the plan gets right on one task."""

    task: str
    metric: str
    n: int
    """Items asked."""
    share: Interval
    """Share right with its Wilson interval."""
    verdict: Verdict | None
    """Against the reference on the same items, p-values corrected as in the report; null where the reference was not measured."""


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
    """A format for every unit: all that applying it needs. plan.json is this record."""

    format: Literal["bitzones-plan"] = PLAN_FORMAT
    schema_number: Literal[4] = Field(default=PLAN_SCHEMA, alias="schema")
    bitzones: str
    """Version of bitzones that measured."""
    model: PlannedModel | None
    reference: str
    """The name, in this plan, of what stays as it is."""
    budget: PlanBudget
    achieved: PlanBudget
    """Never above the budget."""
    reference_bytes: int
    """Stored bytes of the same units in the reference."""
    predicted_kl: Estimate
    """Sum of separate sensitivities, nats per token. A prediction: separate sensitivities do not add up at 2 bits."""
    name: str = "additive"
    """The plan's name among those that the run compared."""
    origin: PlanOrigin = "additive"
    """How it was made: ``additive`` is least sum of separate sensitivities, ``search`` improved by measuring whole plans."""
    measured_kl: Estimate | None = None
    """Of the plan as a whole, on held-out sequences, nats per token; null until it is measured."""
    measured_sequences: int | None = None
    """Held-out sequences behind ``measured_kl``."""
    held_out_sha256: str | None = None
    """Of those sequences."""
    accuracy: tuple[PlanAccuracy, ...] = ()
    """Of the plan as a whole; empty where it was not measured."""
    units: dict[str, str]
    """Unit to format."""
    assignment: dict[str, str]
    """Module to format, the reference's name for modules that stay."""
    group_sizes: dict[str, int | None]
    """Module to the group size its scales were measured with, null for one scale per row; modules that stay are absent."""
    calibration: CalibrationSet | None = None
    """The calibration set; null where no format is calibrated. ``fallbacks`` are the plan's."""
    sequences_sha256: str
    profile_sha256: str
    versions: dict[str, str]
    """Of the packages that measured."""

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
    """What the plan does to one unit and how sure that is."""

    unit: str
    layer: int | None
    """Null where it lies behind all layers: it has no zone."""
    group: str | None
    """Which of its layer's units it is; null where a unit is a whole layer."""
    format: str
    stored_bytes: int
    reference_bytes: int
    shares: dict[str, float]
    """Share of the bootstrap plans that put this unit at each format offered to it."""


class LayerZone(Decided):
    """The zone of one layer."""

    layer: int
    zone: ZoneWord
    formats: dict[str, int]
    """How many of the layer's units the plan puts at each format, from most to fewest bits and the reference last."""
    lowest_share: float
    """Share of the bootstrap plans in which all of the layer's units are at the lowest format."""
    highest_share: float
    """Share in which all are at the highest format below the reference, or at the reference."""


class Zone(Decided):
    """All layers of one zone and what the plan does to them."""

    zone: ZoneWord
    layers: tuple[int, ...]
    parameters: int
    reference_bytes: int
    plan_bytes: int


class SplitHalf(Decided):
    """The zones of two disjoint halves of the sensitivity sequences, every other one each, decided alike."""

    around: Around
    """What the costs are relative to. Around the plan that a search found, both halves share that plan, which all sequences chose."""
    sequences: tuple[int, int]
    """Sequences of each half."""
    layers: tuple[int, ...]
    zones: tuple[tuple[ZoneWord, ...], tuple[ZoneWord, ...]]
    """Of each half, in the order of ``layers``."""
    agree: tuple[int, ...] | None
    """Layers whose zone is the same in both; null where a half has too few sequences to tell any."""
    holds: bool | None
    """Whether enough of the layers agree; null where that cannot be told."""


class SplitGroup(Decided):
    """A group of modules that serving engines fuse, stored in more than one format."""

    layer: int
    group: str


class Fused(Decided):
    """Whether a plan of single modules can be served by engines that fuse some of them."""

    groups: int
    """Groups of more than one module."""
    split: tuple[SplitGroup, ...]
    """Those that the plan stores in more than one format: none of them can be served fused."""
