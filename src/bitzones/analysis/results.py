"""What was decided about a run: the frozen values that every report is printed from, and that analysis.json holds whole.

One record per question, units in the names or in the field's description; `Analysis.model_json_schema()` is the schema of analysis.json
with these descriptions in it. This module does not know how anything is decided or shown. History of ``ANALYSIS_SCHEMA``:

    1   2026-11   first
    2   2026-11   what the budget decides is one `Decision`, absent where none could be made; acc_norm, likelihoods, Holm's correction, how
                  tasks were asked; an interval may be null: too few units to give one; whole plans on held-out sequences, the search, the
                  second-order screen, the rules of thumb
    3   2026-11   what the schema 3 of run files added
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from bitzones.analysis.plan import Around, Decided, Fused, LayerZone, Plan, SplitHalf, UnitPlan, Zone, ZoneWord
from bitzones.analysis.plan_verdicts import FisherReading, PlansReading, RuleAudit, SearchReading
from bitzones.analysis.task_answers import Accuracy, Asked, Likelihood
from bitzones.schema.profile import Profile
from bitzones.schema.records import AttentionStatistics, Environment, Figure, ModelInfo
from bitzones.stats.intervals import Estimate

__all__ = [
    "ANALYSIS_SCHEMA",
    "PROCESS_KEYS",
    "TIME_KEYS",
    "Analysis",
    "CalibratedFormats",
    "Decision",
    "Failure",
    "LatencyFigures",
    "LayerRank",
    "LayerReading",
    "MemoryFigures",
    "PlanTime",
    "ShapeFigures",
    "Took",
    "UnitLatencyFigures",
    "UnitReading",
    "WholeVariant",
    "repeatable",
]

ANALYSIS_SCHEMA: Literal[3] = 3

TIME_KEYS = frozenset({"latency", "latency_budget_ns", "measured_at", "unit_latency", "seconds_s", "tokens_per_s"})
"""Keys of analysis.json, at any depth, under which everything is a time or comes from one: two runs differ there and nowhere else."""

PROCESS_KEYS = frozenset({"process"})
"""Keys that hold what the operating system or a driver says of the running process: not times, and as little repeatable."""


def repeatable(data: Any) -> Any:
    """A copy of analysis.json's data without `TIME_KEYS` and `PROCESS_KEYS`: equal for two runs of one profile on one machine.

    >>> repeatable({"accuracy": [{"k": 3, "seconds_s": 1.5}], "latency": [1]})
    {'accuracy': [{'k': 3}]}
    """
    if isinstance(data, dict):
        return {key: repeatable(value) for key, value in data.items() if key not in TIME_KEYS | PROCESS_KEYS}
    return [repeatable(item) for item in data] if isinstance(data, list) else data


class LatencyFigures(Decided):
    """One phase at one shape by one variant, over its raw rounds."""

    variant: str
    format: str
    phase: str
    batch: int
    prompt_tokens: int
    tokens: int
    """Tokens that one round processes (prefill) or produces (decode)."""
    rounds: int
    median_s: float
    """Seconds per round."""
    p95_s: float
    """95th percentile of the rounds, seconds; of 20 rounds that is nearly the slowest."""
    low_quartile_s: float
    high_quartile_s: float
    ratio: Estimate | None
    """Median by the reference's median at the same shape, bootstrap interval over rounds; null for the reference."""
    kernels: dict[str, int]
    """What computed the quantized products: name to number of modules."""
    kernels_by_group: dict[str, dict[str, int]] = Field(default_factory=dict)
    """The same for each group of modules, over all layers."""
    compiled: bool = False
    """Decoded through torch.compile."""
    device_median_s: float | None = None
    """Median of the rounds by the device's own clock; null where it has none."""
    roofline_s: float | None = None
    """Decode: the least that a round can take: bytes that its steps have to read, by the bandwidth of a large copy in the same run."""
    times_roofline: float | None = None
    """Median by floor."""
    slow_path: str | None = None
    """In words, where a variant is measured to be slower than the reference and its kernels, or the lack of them, are where to look."""
    times_compiled: float | None = None
    """Median by that of the same decoding through torch.compile; null where one of the two was not timed."""
    joules_per_token: Figure | None = None
    """Energy of the GPU above idle; null where nothing was decoded for it."""
    warmup_stable: bool | None = None
    """Whether rounds had become alike before timing began; false where warming up ended at its bound."""
    contended: tuple[str, ...] = ()
    """What makes these times doubtful, as the GPU's driver saw it."""
    asked_batch: int | None = None
    """The profile's batch, where memory was enough for a smaller one only."""


class ShapeFigures(Decided):
    """The products of one sort of unit in one format, over its raw rounds."""

    shapes: tuple[tuple[int, int], ...]
    """Output and input features of its modules."""
    units: int
    """How many units of the model are of this sort."""
    format: str
    rounds: int
    median_s: float
    """Seconds of one unit in one decode step."""
    low_quartile_s: float
    high_quartile_s: float
    ratio: Estimate | None
    """Median by the reference's, bootstrap interval over rounds; null for the reference."""


class PlanTime(Decided):
    """The products of all units in one decode step, by one assignment of formats."""

    name: str
    """A format for all, or ``plan``."""
    seconds: Estimate
    ratio: Estimate | None
    """By the reference's; null for the reference."""


class UnitLatencyFigures(Decided):
    """What formats change of a decode step, on the device of the run."""

    batch: int
    shapes: tuple[ShapeFigures, ...]
    totals: tuple[PlanTime, ...]
    """The reference, each format for all units, and the plan where there is one."""
    slower: tuple[str, ...]
    """Formats whose products are told to take longer than the reference's: there bits do not buy time."""


class MemoryFigures(Decided):
    """Bytes of one variant."""

    variant: str
    format: str
    stored_bytes: int
    """The whole model as stored: packed data, scales, shifts and what is not quantized, read off the tensors."""
    stored_bytes_by_format: dict[str, int]
    share_of_reference: float | None
    """Stored bytes by the reference's; null where the reference was not measured."""
    weight_bytes: int | None = None
    """All weights as they lie in memory to be computed with; null in an older run."""
    cache_bytes: int | None = None
    """Keys and values of the largest decoding of the latency grid."""
    process: dict[str, Figure]
    """What the operating system and the device say of the process; null with a status where they could not."""


class UnitReading(Decided):
    """How much the whole model changes when only this unit is stored in this format."""

    unit: str
    layer: int | None
    """Null where it lies behind all layers."""
    group: str | None
    format: str
    parameters: int
    stored_bytes: int
    bits: float | None
    """Stored bits per weight, scales and shifts counted; null for a unit without weights."""
    kl: Estimate | None
    """KL(reference || changed model), nats per token, bootstrap interval over sequences; null where it failed."""
    failure: str | None


class LayerRank(Decided):
    """Layers in the order of their sensitivity at the lowest format: the sum over a layer's units."""

    rank: int
    """1 is the most sensitive."""
    layer: int
    kl: Estimate
    """Nats per token."""
    best_rank: int | None
    """Lower end of the rank's bootstrap 95% interval; null with too few sequences."""
    worst_rank: int | None
    """Upper end of the rank's bootstrap 95% interval; null with too few sequences."""
    told_from_next: bool | None
    """Whether the paired 95% interval of the difference to the next layer excludes 0; null for the last layer."""


class WholeVariant(Decided):
    """What the separate sensitivities add up to, beside the measured divergence of the whole variant."""

    variant: str
    format: str
    added: Estimate | None
    """Sum of the separate sensitivities, nats per token; null where a unit was not measured in this format."""
    measured: Estimate
    """KL(reference || variant), nats per token."""
    ratio: Estimate | None
    """Measured by added, paired over sequences; null where the sum is missing or 0."""


class LayerReading(Decided):
    """Activation and attention statistics of one layer of the reference, with an interpretation in words."""

    layer: int
    mean: float
    std: float
    magnitude: float
    peak: float
    sparsity: float
    kurtosis: float
    attention: AttentionStatistics | None
    interpretation: str
    """Descriptive, by named thresholds; says nothing about causes."""


class Failure(Decided):
    """A cell without a result."""

    variant: str
    status: str
    """``failed``, or ``not measured`` where the machine cannot give an honest number."""
    of: str
    detail: str
    reason: str


class Took(Decided):
    """How long the cells of one kind took that have a result."""

    of: str
    cells: int
    timed: int
    """Cells of which the run file says how long they took."""
    seconds_s: float
    """Of all timed cells together, as pytest-benchmark timed them: loading, quantizing and warming up are outside."""


class Decision(Decided):
    """What the budget makes of the sensitivities, and the plan to recommend."""

    plan: Plan
    units: tuple[UnitPlan, ...]
    layer_zones: tuple[LayerZone, ...]
    zones: tuple[Zone, ...]
    """Only zones that have layers."""
    around: Around = "reference"
    """What the resampled plans are solved from: separate sensitivities, or what each change of the plan that the search found would do."""
    contradicted: tuple[int, ...] = ()
    """Layers that are SAFE and not wholly at the fewest bits in the plan, or CRITICAL and not wholly at the most."""
    halves: tuple[SplitHalf, ...] = ()
    """Zones from two halves of the sequences: decided as the zones are, and where those are around a plan, from separate sensitivities."""
    fused: Fused | None = None
    """What engines that fuse modules make of the plan; null where its units are such groups already, or whole layers."""

    def zone_of(self, layer: int | None) -> ZoneWord | None:
        """The zone of a layer; None for one that was not swept."""
        return next((item.zone for item in self.layer_zones if item.layer == layer), None)


class CalibratedFormats(Decided):
    """What calibrated formats were rounded on."""

    sequences_sha256: str
    sequences: int
    tokens: int
    damping: float
    fallbacks: dict[str, dict[str, str]]
    """Variant to module to the reason why it has the stock format's integers."""


class Analysis(Decided):
    """Everything that was decided about one run; analysis.json is this record."""

    schema_number: Literal[3] = Field(default=ANALYSIS_SCHEMA, alias="schema")
    bitzones: str
    measured_at: str | None
    """When the run ended, as pytest-benchmark wrote it."""
    profile: Profile
    model: ModelInfo | None
    environment: Environment | None
    reference: str
    """Variant and format of the unquantized model."""
    variants: dict[str, str]
    formats: tuple[str, ...]
    """The profile's formats from most to fewest bits."""
    rounding: CalibratedFormats | None
    """Null where no format is calibrated."""
    sequences: int
    """Calibration sequences with at least one scored token: the unit of every bootstrap over sensitivity; 0 where none were used."""
    tokens: int
    """Scored sensitivity tokens."""
    granularity: Literal["layer", "group", "module"] | None
    """What one decision covers; null where no sensitivity was measured."""
    unswept: tuple[int, ...]
    """Layers whose sensitivity was not measured, while that of others was: they stay as they are."""
    tasks: tuple[Asked, ...]
    accuracy: tuple[Accuracy, ...]
    likelihood: tuple[Likelihood, ...]
    latency: tuple[LatencyFigures, ...]
    unit_latency: UnitLatencyFigures | None = None
    """Null where no unit was timed."""
    memory: tuple[MemoryFigures, ...]
    sensitivity: tuple[UnitReading, ...]
    ranking: tuple[LayerRank, ...]
    """At the format with the fewest bits; layers that could not be measured there are absent."""
    whole: tuple[WholeVariant, ...]
    plans: PlansReading | None
    """Whole plans on held-out sequences; null where none were measured."""
    search: SearchReading | None
    """How the searched plan came about; null where none was searched."""
    screen: tuple[FisherReading, ...]
    """The second-order screen beside the sweep, by format; empty where one of them is missing."""
    rules: RuleAudit | None
    """Whether the rules of thumb hold; null without a plan, for what is critical is then not known."""
    decision: Decision | None
    """The plan and the zones; null where none could be made."""
    no_decision: str | None
    """Why there is no plan; null where there is one."""
    layers: tuple[LayerReading, ...]
    layer_sequences: int
    """Sequences behind `layers`."""
    layer_tokens: int
    """Tokens behind `layers`."""
    took: tuple[Took, ...] = ()
    """By kind of cell, in the order of the run; failed cells left out."""
    failures: tuple[Failure, ...]
    foreign_benchmarks: int
    """Benchmarks of the file that are not of bitzones and were not read."""
    inconclusive: tuple[str, ...]
    """What these data cannot tell, one sentence each."""

    @model_validator(mode="after")
    def _decided_or_not(self) -> Analysis:
        if (self.decision is None) == (self.no_decision is None):
            raise ValueError("exactly one of decision and no_decision must be given")
        return self
