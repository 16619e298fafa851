"""The analysis of a run: the frozen record that every report is printed from, written whole as analysis.json.

It holds codes and numbers; `bitzones.report` words them. Units are in the names or in the field's description;
`Analysis.model_json_schema()` is the schema of analysis.json, with these descriptions. History of ``ANALYSIS_SCHEMA``:

    1   2026-11   first
    2   2026-11   what the budget decides is one `Decision`, absent where none could be made; acc_norm, likelihoods, Holm's correction, how
                  tasks were asked; an interval may be null: too few units to give one; whole plans on held-out sequences, the search, the
                  Fisher proxy, the rules of thumb
    3   2026-11   what the schema 3 of run files added
    4   2026-11   renamed: units, fisher_proxy (screen), calibration (rounding), split_half (halves), roofline_s (floor_s), contended,
                  inconclusive; caveats, interpretations of layers, slow paths, reasons and ends are codes with numbers, not sentences
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from bitzones.analysis.caveat_records import Caveat
from bitzones.analysis.cost_figures import LatencyFigures, MemoryFigures, PlanTime, ShapeFigures, SlowPath, UnitLatencyFigures
from bitzones.analysis.decision import Decision
from bitzones.analysis.domain_figures import DomainsReading
from bitzones.analysis.plan import Decided
from bitzones.analysis.plan_verdicts import FisherReading, PlansReading, RuleAudit, SearchReading
from bitzones.analysis.sensitivity_figures import LayerRank, LayerReading, SweepEffort, UnitReading, WholeVariant
from bitzones.analysis.slice_figures import SlicesReading
from bitzones.analysis.task_answers import Accuracy, Asked, Likelihood, TaskPerplexity
from bitzones.analysis.tuning_figures import TuningReading
from bitzones.schema.profile import Profile
from bitzones.schema.run_record import Environment, ModelInfo

__all__ = [
    "ANALYSIS_SCHEMA",
    "PROCESS_KEYS",
    "TIME_KEYS",
    "Analysis",
    "CalibratedFormats",
    "Caveat",
    "Decision",
    "Failure",
    "LatencyFigures",
    "LayerRank",
    "LayerReading",
    "MemoryFigures",
    "PlanTime",
    "ShapeFigures",
    "SlowPath",
    "SweepEffort",
    "Took",
    "UnitLatencyFigures",
    "UnitReading",
    "WholeVariant",
    "repeatable",
]

ANALYSIS_SCHEMA: Literal[4] = 4

TIME_KEYS = frozenset({"latency", "latency_budget_ns", "measured_at", "unit_latency", "seconds_s", "tokens_per_s"})
"""Keys of analysis.json, at any depth, that hold times or what is computed from them: all that may differ between two identical runs."""

PROCESS_KEYS = frozenset({"process"})
"""Keys that hold what the operating system or a driver reports about the process: no times, and no more repeatable."""


def repeatable(data: Any) -> Any:
    """A copy of analysis.json's data without `TIME_KEYS` and `PROCESS_KEYS`: equal for two runs of the same profile on the same machine.

    >>> repeatable({"accuracy": [{"k": 3, "seconds_s": 1.5}], "latency": [1]})
    {'accuracy': [{'k': 3}]}
    """
    if isinstance(data, dict):
        return {key: repeatable(value) for key, value in data.items() if key not in TIME_KEYS | PROCESS_KEYS}
    return [repeatable(item) for item in data] if isinstance(data, list) else data


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

    schema_number: Literal[4] = Field(default=ANALYSIS_SCHEMA, alias="schema")
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
    calibration: CalibratedFormats | None
    """Null where no format is calibrated."""
    sequences: int
    """Sensitivity sequences with at least one scored token, which every bootstrap of sensitivities resamples; 0 where none were used."""
    tokens: int
    """Scored sensitivity tokens."""
    granularity: Literal["layer", "group", "module"] | None
    """What one unit of the plan covers; null where no sensitivity was measured."""
    unswept: tuple[int, ...]
    """Layers left out of the sweep: the plan keeps them at the reference."""
    tasks: tuple[Asked, ...]
    accuracy: tuple[Accuracy, ...]
    likelihood: tuple[Likelihood, ...]
    perplexity: tuple[TaskPerplexity, ...] = ()
    """Of the documents of tasks that ask for it."""
    latency: tuple[LatencyFigures, ...]
    unit_latency: UnitLatencyFigures | None = None
    """Null where no unit was timed."""
    memory: tuple[MemoryFigures, ...]
    sensitivity: tuple[UnitReading, ...]
    ranking: tuple[LayerRank, ...]
    """At the format with the fewest bits; layers that could not be measured there are absent."""
    effort: SweepEffort | None = None
    """Absent where everything was measured on all sequences."""
    whole: tuple[WholeVariant, ...]
    plans: PlansReading | None
    """Whole plans on held-out sequences; null where none were measured."""
    domains: DomainsReading | None = None
    """Perplexity and divergence by domain; null where the profile names none."""
    slices: SlicesReading | None = None
    """Plans by task or text domain; absent where the run has none."""
    tuning: TuningReading | None = None
    """What tuning the plan bought; null where none was tuned."""
    search: SearchReading | None
    """The search, round by round; null where none was run."""
    fisher_proxy: tuple[FisherReading, ...]
    """The Fisher proxy against the sweep, by format; empty where either is missing."""
    rules: RuleAudit | None
    """Whether the rules of thumb hold; null without a plan, which defines the critical layers."""
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
    """By kind of cell, in the order of the run; failed cells excluded."""
    failures: tuple[Failure, ...]
    foreign_benchmarks: int
    """Benchmarks in the file that bitzones did not write, and ignores."""
    inconclusive: tuple[Caveat, ...]
    """What these data do not show, in the order of the report."""

    @model_serializer(mode="wrap")
    def _as_before(self, given: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A run without plans by task, or an adaptive sweep, is written as before there were any."""
        found: dict[str, Any] = given(self)
        return {key: value for key, value in found.items() if key not in ("slices", "effort") or value is not None}

    @model_validator(mode="after")
    def _decided_or_not(self) -> Analysis:
        if (self.decision is None) == (self.no_decision is None):
            raise ValueError("exactly one of decision and no_decision must be given")
        return self
