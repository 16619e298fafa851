"""The values that pass through the one door between measuring and deciding: what a cell of the run file holds.

Every record is frozen, refuses unknown keys and refuses NaN and infinity, so that a wrong run file is found at the door and not in a
report. Units are base units and stand in the names: ``_bytes``, ``_s`` (seconds), ``_nats``. This module does not know how anything is
measured or decided.

A run file is a pytest-benchmark JSON with a `Run` under the top-level key ``bitzones`` and a `Cell` under ``extra_info["bitzones"]`` of
each benchmark. History of ``SCHEMA``:

    1   2026-11   first
    2   2026-11   accuracy: acc_norm, NLL of the gold answer, how it was asked; sensitivity: granularity; model: revision, random weights
    3   2026-11   calibrated formats and their sequences; latency as a cost; NVML, energy, the bandwidth roofline; sweeps around plans; what
                a release does with a variant
    4   2026-11   renamed: unit (part), sequences_sha256 (calibration_sha256), calibration (rounding), contended (disturbed)

`bitzones.schema.migrations` reads the older ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from bitzones.schema import kinds
from bitzones.schema.cell_key import CellKey
from bitzones.schema.profile import Profile, Timing

__all__ = [
    "KEY",
    "SCHEMA",
    "AccuracyCell",
    "AttentionStatistics",
    "CalibrationSet",
    "Cell",
    "DivergenceCell",
    "Energy",
    "Environment",
    "FailedCell",
    "Figure",
    "FisherCell",
    "GpuWatch",
    "KernelKind",
    "LatencyCell",
    "LayerStatistics",
    "LayersCell",
    "Measured",
    "MemoryCell",
    "ModelInfo",
    "NamedTrial",
    "OwnCell",
    "PlanOrigin",
    "PlansCell",
    "Record",
    "ReleaseCell",
    "Run",
    "SearchCell",
    "SearchRound",
    "SensitivityCell",
    "ShapeTimes",
    "Shortage",
    "SpecialTokens",
    "TextSet",
    "Trial",
    "Unit",
    "UnitLatencyCell",
    "UnitScores",
    "UnitSensitivity",
    "UnknownCell",
]

SCHEMA = 4

KEY = "bitzones"
"""Where our values lie in a run file: at the top level, and in ``extra_info`` of every benchmark."""

LARGEST = 1e100
"""Of any measured number: far beyond what can be measured, and sums of squares of such are still finite."""

MOST_LAYERS = 10_000
"""Of any model: ten times the deepest transformer published (DeepNet, Wang et al. 2022), and few enough to go through one by one."""

Count = Annotated[int, Field(ge=0, le=2**60)]
Positive = Annotated[int, Field(ge=1, le=2**60)]
Layers = Annotated[int, Field(ge=0, le=MOST_LAYERS)]
Finite = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


KernelKind = Literal["dense", "fused", "unpacked"]


class Record(BaseModel):
    """A frozen value; unknown keys, NaN and infinity are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Figure(Record):
    """One number that a machine may be unable to give: ``value`` is null, never 0, unless ``status`` is ``ok``."""

    value: Finite | None
    unit: str
    status: str

    @model_validator(mode="after")
    def _null_unless_ok(self) -> Figure:
        if (self.value is None) == (self.status == "ok"):
            raise ValueError("value must be a number when status is 'ok' and null otherwise")
        return self


NOT_RECORDED = Figure(value=None, unit="bytes", status="not recorded")
"""What an older run file lacks."""


class Shortage(Record):
    """Memory that ran out at a batch size; bytes are null where the error or the system did not tell them."""

    batch: Positive
    asked_bytes: Count | None = None
    free_bytes: Count | None = None


class GpuWatch(Record):
    """What the driver (NVML) said of the GPU while a cell ran, sampled on a thread every ``period_s``.

    ``coverage`` is the share of the cell's time in which samples stood no further apart than twice the period. ``clocks_held`` names what
    held the clocks down, with the share of samples in which it did; ``contended`` says in words what makes the cell's times doubtful.
    """

    device_used_peak: Figure
    process_used_peak: Figure
    other_processes: Figure
    clocks_held_share: Figure
    clocks_held: dict[str, Share] = {}
    contended: tuple[str, ...] = ()
    period_s: NonNegative
    samples: Count
    coverage: Share | None = None


class Energy(Record):
    """Energy of the whole GPU per token over ``window_s`` of nothing but decoding, what it draws when idle subtracted."""

    per_token: Figure
    idle: Figure
    window_s: NonNegative = 0.0
    tokens: Count = 0


class Unit(Record):
    """What one decision covers: the modules that are quantized together.

    ``layer`` is null where a unit lies behind all layers, as the head does.
    ``weight_kurtosis`` is the fourth standardized moment of all its weights, 3 for a normal law; null where it was not computed.
    ``fused`` names, for a unit of one module, what serving engines would fuse it into within its layer; null where a unit is more.
    """

    name: str
    layer: Layers | None
    group: str | None = None
    modules: tuple[str, ...]
    parameters: Count
    reference_bytes: Count
    weight_kurtosis: NonNegative | None = None
    fused: str | None = None


class UnitSensitivity(Record):
    """The KL that quantizing one unit to one format does to the whole model.

    ``kl_nats`` is the sum over the scored tokens of each sensitivity sequence, in the order of `SensitivityCell.sequence_tokens`; null with
    a ``failure`` where it could not be measured. ``weight_error`` is ||W - quantized W|| / ||W|| (Frobenius) over the unit's weights.
    ``stays`` names modules of the unit that stay in the reference's format, since no kernel computes them in this one
    (`ModelInfo.staying`); ``group_sizes`` are those of the others, in order.
    """

    unit: str
    format: str
    stored_bytes: Count
    group_sizes: tuple[int | None, ...]
    kl_nats: tuple[NonNegative, ...] | None
    weight_error: NonNegative | None = None
    failure: str | None = None
    stays: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _measured_or_failed(self) -> UnitSensitivity:
        if (self.kl_nats is None) == (self.failure is None):
            raise ValueError("exactly one of kl_nats and failure must be given")
        return self


class Measured(Record):
    """What every cell says of itself."""

    schema_number: Literal[4] = Field(default=4, alias="schema")
    variant: str
    shortages: tuple[Shortage, ...] = ()
    """Batch sizes for which memory ran out before this one, largest first."""
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    @property
    def key(self) -> CellKey:
        """What this measures."""
        return CellKey(getattr(self, "kind", ""), self.variant, self._detail)

    @property
    def _detail(self) -> str:
        return ""


class SpecialTokens(Record):
    """What a tokenizer puts around a text, and what of it the prompts of a task were given.

    ``opening`` are the tokens that it opens a text with: a prompt that begins with them itself (a chat template's) gets no second ones, and
    ``opened`` says whose they are. ``closing`` are those that it closes a text with: they are left out, and not scored with an answer.
    """

    opening: tuple[str, ...] = ()
    opened: Literal["by the tokenizer", "by the prompt", "by either", "not at all"]
    closing: tuple[str, ...] = ()


class AccuracyCell(Measured):
    """Right and wrong, item by item, so that two variants or two runs can be paired later.

    For multiple choice, ``correct`` and ``predictions`` are those of lm-evaluation-harness's ``acc`` (the most likely choice), the
    ``_normalized`` ones those of its ``acc_norm`` (log-likelihood by characters of the choice); null for generated answers.
    ``gold_nll_nats`` is the negative log-likelihood of the right answer after the prompt, summed over its ``gold_tokens``. ``origin``
    says where the items came from, with a revision where there is one. ``dropped`` counts malformed rows of the data set, ``passed_over``
    are the ids of items that this tokenizer cannot score, because an answer merges with the end of its prompt; ``special_tokens`` is null
    in older run files.
    """

    kind: Literal["accuracy"] = "accuracy"
    task: str
    task_version: int
    task_sha256: str
    origin: str
    fewshot: Count = 0
    chat_template: bool = False
    metric: Literal["acc", "exact_match"]
    item_ids: tuple[str, ...]
    correct: tuple[bool, ...]
    predictions: tuple[str, ...]
    correct_normalized: tuple[bool, ...] | None = None
    predictions_normalized: tuple[str, ...] | None = None
    gold_nll_nats: tuple[NonNegative, ...]
    gold_tokens: tuple[Count, ...]
    chance: tuple[Share, ...]
    dropped: Count = 0
    passed_over: tuple[str, ...] = ()
    special_tokens: SpecialTokens | None = None
    tokens: Count
    seconds_s: NonNegative

    @property
    def _detail(self) -> str:
        return self.task

    @model_validator(mode="after")
    def _same_items(self) -> AccuracyCell:
        if not self.item_ids:
            raise ValueError("no items")
        columns = {
            name: values
            for name in ("correct", "predictions", "chance", "gold_nll_nats", "gold_tokens", "correct_normalized", "predictions_normalized")
            if (values := getattr(self, name)) is not None
        }
        if wrong := [name for name, values in columns.items() if len(values) != len(self.item_ids)]:
            raise ValueError(f"{' and '.join(wrong)} and item_ids differ in length")
        if not sum(self.gold_tokens):
            raise ValueError("no answer has a token")
        if len(set(self.item_ids)) != len(self.item_ids):
            raise ValueError("an item id stands twice")
        return self


class LatencyCell(Measured):
    """Raw rounds of one phase at one shape; ``tokens`` is what one round processes (prefill) or produces (decode).

    ``rounds_s`` is wall time with the device synchronised at the end, ``device_rounds_s`` the device's own clock over the same rounds; null
    where it has none. ``weight_bytes`` and ``cache_bytes`` are what one step of decoding has to read, as it lies in memory (the keys and
    values at the middle of the round): by ``bandwidth``, that of a large copy in the same run, they give the roofline of its time.
    ``warmup_stable`` is false where warming up ended at its bound. ``kernel_kinds`` says of each name in ``kernels`` whether it multiplies
    weights as they are (``dense``), reads them packed (``fused``) or unpacks them at every product (``unpacked``).
    """

    kind: Literal["latency"] = "latency"
    phase: Literal["prefill", "decode"]
    batch: Positive
    prompt_tokens: Positive
    tokens: Positive
    warmup_rounds: Count
    rounds_s: tuple[NonNegative, ...] = Field(min_length=1)
    kernels: dict[str, Count]
    kernels_by_group: dict[str, dict[str, Count]] = {}
    kernel_kinds: dict[str, KernelKind] = {}
    compiled: bool = False
    cache: Literal["static", "dynamic"] = "dynamic"
    warmup_stable: bool | None = None
    device_rounds_s: tuple[NonNegative, ...] | None = None
    weight_bytes: Count | None = None
    cache_bytes: Count | None = None
    bandwidth: Figure | None = None
    energy: Energy | None = None
    gpu: GpuWatch | None = None

    @property
    def asked_batch(self) -> int:
        """The batch of the profile, before memory ran out."""
        return self.shortages[0].batch if self.shortages else self.batch

    @property
    def timing(self) -> Timing:
        """The cell of the latency grid: the batch that was asked for, and the new tokens of each sequence."""
        new = self.tokens // self.batch if self.phase == "decode" else 0
        return Timing(self.phase, self.asked_batch, self.prompt_tokens, new, self.compiled)

    @property
    def _detail(self) -> str:
        return self.timing.name

    @model_validator(mode="after")
    def _same_rounds(self) -> LatencyCell:
        if self.device_rounds_s is not None and len(self.device_rounds_s) != len(self.rounds_s):
            raise ValueError("rounds_s and device_rounds_s differ in length")
        return self


class ShapeTimes(Record):
    """Raw rounds of the products of one sort of unit in one format: ``shapes`` are (output, input) features of its modules, in order.

    One round computes the products of ``repeats`` such units one after another, each with weights of its own.
    """

    shapes: tuple[tuple[int, int], ...]
    format: str
    repeats: Positive
    rounds_s: tuple[NonNegative, ...] = Field(min_length=1)
    kernels: dict[str, Count]

    @property
    def rounds_per_unit_s(self) -> tuple[float, ...]:
        """Seconds of one unit, round by round."""
        return tuple(took / self.repeats for took in self.rounds_s)


class UnitLatencyCell(Measured):
    """What the products of every unit take in one decode step of ``batch`` sequences, per sort of unit and format, on the run's device.

    ``units`` is unit to shapes: units of the same shapes are one sort. Round n of every format ran beside round n of the others.
    ``variant`` is the reference, which is timed too.
    """

    kind: Literal["unit_latency"] = "unit_latency"
    batch: Positive
    warmup_rounds: Count
    units: dict[str, tuple[tuple[int, int], ...]]
    times: tuple[ShapeTimes, ...]

    @model_validator(mode="after")
    def _every_shape_is_timed(self) -> UnitLatencyCell:
        timed = [(item.shapes, item.format) for item in self.times]
        if len(set(timed)) < len(timed):
            raise ValueError("shapes stand twice at one format")
        wanted = {(shapes, name) for shapes in self.units.values() for name in {item.format for item in self.times}}
        if wanted != set(timed) or not timed:
            raise ValueError("not every unit is timed in every format")
        if len({len(item.rounds_s) for item in self.times}) > 1:
            raise ValueError("formats differ in their number of rounds")
        return self


class MemoryCell(Measured):
    """Bytes of one variant: as stored (read off the tensors) and as the running process shows them.

    The figures of the device are peaks over one decoding of ``batch`` sequences up to ``positions`` tokens, whose keys and values take
    ``cache_bytes`` beside the ``weight_bytes`` that lie in memory; ``device_used`` and ``process_used`` come from the driver (NVML),
    allocated and reserved from torch. The reference is in memory too.
    """

    kind: Literal["memory"] = "memory"
    stored_bytes: Count
    stored_bytes_by_format: dict[str, Count]
    process_rss: Figure
    process_peak_rss: Figure
    device_allocated: Figure
    device_used: Figure
    device_reserved: Figure = NOT_RECORDED
    process_used: Figure = NOT_RECORDED
    weight_bytes: Count | None = None
    cache_bytes: Count | None = None
    batch: Count | None = None
    positions: Count | None = None
    gpu: GpuWatch | None = None


class AttentionStatistics(Record):
    """How one layer attends, over heads and the query positions of real tokens.

    ``entropy_nats`` is the mean entropy; ``head_specialization`` is 1 - H/ln(visible keys), averaged over positions that see at least two
    keys; ``reasoning_focus`` is the share of the answer position's attention on the question's content, the first token excluded: null
    where no sequence has such content.
    """

    entropy_nats: NonNegative
    entropy_nats_by_head: tuple[NonNegative, ...]
    head_specialization: Share
    reasoning_focus: Share | None
    reasoning_focus_std: NonNegative | None
    reasoning_focus_sequences: Count


class LayerStatistics(Record):
    """One layer's output over scored tokens: ``sparsity`` is the share of |x| < 0.01 std, ``kurtosis`` is 3 for a normal law."""

    layer: Layers
    mean: Finite
    std: NonNegative
    magnitude: NonNegative
    peak: NonNegative
    sparsity: Share
    kurtosis: NonNegative
    attention: AttentionStatistics | None


class LayersCell(Measured):
    """Activation and attention statistics of every layer."""

    kind: Literal["layers"] = "layers"
    sequences: Count
    tokens: Count
    layers: tuple[LayerStatistics, ...]


class SensitivityCell(Measured):
    """KL(reference || model with only that unit quantized) for every unit and format; ``variant`` is the reference.

    ``passed_over`` counts the train items that were longer than the model has positions while its sequences were taken.
    """

    kind: Literal["sensitivity"] = "sensitivity"
    method: Literal["exact"]
    granularity: Literal["layer", "group", "module"] = "layer"
    sequences_sha256: str
    sequence_tokens: tuple[Count, ...] = Field(min_length=1)
    passed_over: Count = 0
    units: tuple[Unit, ...] = Field(min_length=1)
    measurements: tuple[UnitSensitivity, ...]

    @model_validator(mode="after")
    def _consistent(self) -> SensitivityCell:
        names = {unit.name for unit in self.units}
        seen: set[tuple[str, str]] = set()
        for measured in self.measurements:
            where = f"{measured.unit} at {measured.format}"
            if measured.unit not in names:
                raise ValueError(f"{where} is not one of the units")
            if (measured.unit, measured.format) in seen:
                raise ValueError(f"{where} stands twice")
            if measured.kl_nats is not None and len(measured.kl_nats) != len(self.sequence_tokens):
                raise ValueError(f"{where} has {len(measured.kl_nats)} sequences, the cell has {len(self.sequence_tokens)}")
            seen.add((measured.unit, measured.format))
        return self


class UnitScores(Record):
    """The scores a of one unit at one format: sample by sample, and in each sequence by sequence. mean(a^2)/2 is about its KL in nats."""

    unit: str
    format: str
    nats: tuple[Finite, ...]


class FisherCell(Measured):
    """A second-order estimate of the KL of every unit and format; sums of scores over units estimate plans, interactions included."""

    kind: Literal["fisher"] = "fisher"
    sequences_sha256: str
    sequence_tokens: tuple[Count, ...] = Field(min_length=1)
    samples: Positive
    units: tuple[Unit, ...] = Field(min_length=1)
    scores: tuple[UnitScores, ...]

    @model_validator(mode="after")
    def _consistent(self) -> FisherCell:
        names, wanted = {unit.name for unit in self.units}, self.samples * len(self.sequence_tokens)
        pairs = [(item.unit, item.format) for item in self.scores]
        if len(set(pairs)) < len(pairs):
            raise ValueError("a unit stands twice at one format")
        for item in self.scores:
            if item.unit not in names:
                raise ValueError(f"{item.unit} is not one of the units")
            if len(item.nats) != wanted:
                raise ValueError(f"{item.unit} at {item.format} has {len(item.nats)} scores; samples times sequences are {wanted}")
        return self


class Trial(Record):
    """A whole plan, measured: ``units`` is unit to format, ``kl_nats`` per sequence; null where the model gave NaN or infinity."""

    units: dict[str, str]
    stored_bytes: Count
    kl_nats: tuple[NonNegative, ...] | None


class SearchRound(Record):
    """One sweep around the plan at hand, the plans proposed from it, and which of them was accepted, if any."""

    around: tuple[UnitSensitivity, ...]
    trials: tuple[Trial, ...]
    accepted: Count | None

    @model_validator(mode="after")
    def _accepted_is_there(self) -> SearchRound:
        if self.accepted is not None and self.accepted >= len(self.trials):
            raise ValueError(f"trial {self.accepted} was accepted, and there are {len(self.trials)}")
        return self


class SearchCell(Measured):
    """How the plan came about, on sensitivity sequences: from the plan of separate sensitivities, ``start``, by measuring whole plans.

    ``tolerance_nats`` is the KL, summed over all sequences, for which the fewest bytes were searched, ``budget_bytes`` those of the plan
    found; null where the budget was given. ``budget_ns`` is set where the budget is one of time: what the products of all units may take in
    a decode step, by `UnitLatencyCell`; ``budget_bytes`` is then the most that any plan takes. ``around`` is the last sweep, where it
    belongs to no round: a last round that accepted nothing swept around the plan found, and after any other one more sweep does.
    """

    kind: Literal["search"] = "search"
    sequences_sha256: str
    sequence_tokens: tuple[Count, ...] = Field(min_length=1)
    budget_bytes: Count
    tolerance_nats: NonNegative | None = None
    budget_ns: Count | None = None
    start: Trial
    rounds: tuple[SearchRound, ...]
    around: tuple[UnitSensitivity, ...] | None = None

    @property
    def limit(self) -> int:
        """What the budget allows, in what it counts: nanoseconds or bytes."""
        return self.budget_bytes if self.budget_ns is None else self.budget_ns

    @property
    def around_found(self) -> tuple[UnitSensitivity, ...] | None:
        """The sweep around the plan that was found; None where none was made."""
        return self.rounds[-1].around if self.rounds and self.rounds[-1].accepted is None else self.around

    @property
    def found(self) -> Trial:
        """The plan that was found."""
        accepted = [item.trials[item.accepted] for item in self.rounds if item.accepted is not None]
        return accepted[-1] if accepted else self.start

    @model_validator(mode="after")
    def _consistent(self) -> SearchCell:
        trials = [self.start, *(trial for item in self.rounds for trial in item.trials)]
        if any(trial.kl_nats is not None and len(trial.kl_nats) != len(self.sequence_tokens) for trial in trials):
            raise ValueError("a trial has another number of sequences than the cell")
        return self


PlanOrigin = Literal["search", "additive", "uniform", "contiguous", "random", "frontier", "foreign", "stock", "separate"]


Rounded = Literal["alone", "in sequence"]


class NamedTrial(Trial):
    """A whole plan under a name, and how it was made; ``rounded`` is how its calibrated formats came by their integers, null without any.

    ``in sequence`` is layer after layer, as a plan is applied; ``alone`` is each module as if it alone were changed.
    """

    name: str
    origin: PlanOrigin
    rounded: Rounded | None = None


class PlansCell(Measured):
    """Whole plans side by side on held-out sequences, from which none of them was made; budgets as in `SearchCell`."""

    kind: Literal["plans"] = "plans"
    sequences_sha256: str
    sequence_tokens: tuple[Count, ...] = Field(min_length=1)
    passed_over: Count = 0
    budget_bytes: Count
    budget_ns: Count | None = None
    plans: tuple[NamedTrial, ...] = Field(min_length=1)

    def best_of(self, origin: str) -> NamedTrial | None:
        """The plan of an origin with the least measured KL; None where none was measured."""
        found = [plan for plan in self.plans if plan.origin == origin and plan.kl_nats is not None]
        return min(found, key=lambda plan: sum(plan.kl_nats or ()), default=None)

    @model_validator(mode="after")
    def _consistent(self) -> PlansCell:
        names = [plan.name for plan in self.plans]
        if len(set(names)) < len(names):
            raise ValueError("a plan's name stands twice")
        for plan in self.plans:
            if plan.kl_nats is not None and len(plan.kl_nats) != len(self.sequence_tokens):
                raise ValueError(f"{plan.name} has {len(plan.kl_nats)} sequences, the cell has {len(self.sequence_tokens)}")
        return self


class DivergenceCell(Measured):
    """KL(reference || variant) of a whole variant on the sensitivity set: what the separate sensitivities do not add up to."""

    kind: Literal["divergence"] = "divergence"
    sequences_sha256: str
    sequence_tokens: tuple[Count, ...] = Field(min_length=1)
    kl_nats: tuple[NonNegative, ...]

    @model_validator(mode="after")
    def _same_sequences(self) -> DivergenceCell:
        if len(self.kl_nats) != len(self.sequence_tokens):
            raise ValueError("kl_nats and sequence_tokens differ in length")
        return self


class ReleaseCell(Measured):
    """What a release of quanto does with a variant besides its figures.

    Of ``modules`` that were asked for it left some as they were (``missed``), and quantized others too (``unasked``). ``reload`` says
    whether a model that it saved and loaded computes exactly what it did, ``reason`` what is to be said where it does not.
    """

    kind: Literal["release"] = "release"
    modules: Positive
    unasked: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    reload: Literal["same", "differs", "unsupported", "failed"]
    reason: str = ""


class FailedCell(Measured):
    """A cell without a result: it stays in the run file, so that nothing goes missing silently.

    ``not measured`` is a cell that this machine cannot give; ``failed`` is one that should have come out and did not.
    """

    kind: Literal["failed"] = "failed"
    of: Annotated[str, AfterValidator(kinds.checked_kind)]
    status: Literal["failed", "not measured"] = "failed"
    detail: str = ""
    reason: str

    @property
    def key(self) -> CellKey:
        """That of the result which is missing; a detail that no result has (the method of a sweep) is no part of it."""
        named = self.of in {"accuracy", "latency"} or kinds.is_own(self.of)
        return CellKey(self.of, self.variant, self.detail if named else "")


class OwnCell(Measured):
    """Base of the cells that a user defines. A subclass gives ``kind`` a default, ``Literal["owner.name"]``, adds the fields that it
    measures, and is registered with `bitzones.schema.kinds.register`. What it measures is identified by kind, ``variant`` and ``detail``.
    """

    kind: str = Field(pattern=rf"^{kinds.OWN_KIND.pattern}$")
    detail: str = ""

    @property
    def _detail(self) -> str:
        return self.detail


class UnknownCell(OwnCell):
    """A cell of a user-defined kind that this process has not imported: kept as it stands, counted, and not judged."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _finite(self) -> UnknownCell:
        for name, value in (self.model_extra or {}).items():
            kinds.require_finite(value, name)
        return self


_BuiltIn = Annotated[
    AccuracyCell
    | LatencyCell
    | UnitLatencyCell
    | MemoryCell
    | LayersCell
    | SensitivityCell
    | FisherCell
    | SearchCell
    | PlansCell
    | DivergenceCell
    | ReleaseCell
    | FailedCell,
    Field(discriminator="kind"),
]


class _Open:
    """Validates a cell by its kind: built in, registered, or a kind of the form ``owner.name`` that is not known here."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            _by_kind, handler.generate_schema(_BuiltIn), serialization=core_schema.simple_ser_schema("any")
        )


def _by_kind(value: Any, built_in: Callable[[Any], Any]) -> Any:
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if isinstance(value, OwnCell):
        return value
    return (
        (kinds.registered(kind) or UnknownCell).model_validate(value) if isinstance(kind, str) and kinds.is_own(kind) else built_in(value)
    )


Cell = Annotated[_BuiltIn | OwnCell, _Open]


SHARED_WEIGHTS = "with shared weights"
"""Ends a kind of `ModelInfo.not_quantizable` whose weights several modules have in common."""


class ModelInfo(Record):
    """The model that was measured. ``dtype`` is how the reference is stored, ``compute_dtype`` what the arithmetic was done in.

    ``revision`` is the resolved commit of a model from the hub; ``sha256`` is of the weights, or of the configuration where
    ``random_weights`` says that they were drawn. ``placement`` says which layers lie where, such as ``{"0-17": "cuda:0", "18-31": "cpu"}``,
    of a model that is too large for one GPU: weights that lie on the CPU are brought to the run's device for every pass. ``staying`` is
    format to reason to the modules that stay in the reference's format in that one, since quanto has no kernel for them on this machine.
    of a model that is too large for one GPU: weights that lie on the CPU are brought to the run's device for every pass. ``staying`` is
    format to reason to the modules that stay in the reference's format in that one, since quanto has no kernel for them on this machine.
    ``unexpected_weights`` were in its files without a place in the architecture, and left out because the profile allows it.
    """

    source: str
    revision: str | None = None
    sha256: str
    random_weights: bool = False
    architecture: str
    parameters: Count
    layers: Layers
    dtype: str
    compute_dtype: str
    tied_embeddings: bool
    not_quantizable: dict[str, Count] = {}
    placement: dict[str, str] = {}
    staying: dict[str, dict[str, tuple[str, ...]]] = {}
    unexpected_weights: Count = 0
    unexpected_bytes: Count = 0


class Environment(Record):
    """Where it was measured; two runs are compared on time only where these agree."""

    python: str
    versions: dict[str, str]
    platform: str
    cpu: str
    threads: Count
    device: str
    device_name: str
    quanto_extension: str


class CalibrationSet(Record):
    """The calibration set, whole: with the model it is all that making the same integers again takes.

    ``sequences`` are token ids in decimal with one space between, ``batch`` of them at a time. ``fallbacks`` is variant to module to the
    reason why that module has the stock format's integers.
    """

    sequences_sha256: str
    sequences: tuple[Annotated[str, Field(pattern=r"^\d+( \d+)*$")], ...] = Field(min_length=1)
    batch: Positive
    damping: float = Field(gt=0, le=1)
    fallbacks: dict[str, dict[str, str]] = {}

    @property
    def tokens(self) -> int:
        """Of all sequences."""
        return sum(sequence.count(" ") + 1 for sequence in self.sequences)


class TextSet(Record):
    """Sequences of one set (``sensitivity``, ``held_out`` or ``calibration``) that were cut from documents.

    ``origin`` says where the documents came from; ``sha256`` is of those used, in order. ``passed_over`` counts documents that were read
    and not used, by reason: no document is in two sets.
    """

    origin: str
    documents: Positive
    sequences: Positive
    tokens: Positive
    sequence_tokens: Positive
    passed_over: dict[str, Count] = {}
    sha256: str


class Run(Record):
    """What all cells of a run share."""

    schema_number: Literal[4] = Field(default=4, alias="schema")
    bitzones: str
    profile: Profile
    model: ModelInfo | None
    variants: dict[str, str]
    environment: Environment | None
    calibration: CalibrationSet | None = None
    texts: dict[Literal["sensitivity", "held_out", "calibration"], TextSet] = {}
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)
