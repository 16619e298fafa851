"""The state of one run: model, variants, tasks, sequences and shared cells, each loaded once, when it is first needed by a bench."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import TypeAlias, TypeVar, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bitzones.backends import quantizing, registry
from bitzones.data import prompts, sequences, tasks
from bitzones.data.sequences import Batch, SequenceSet, TokenSequence
from bitzones.data.sets import DomainSet, SequenceSets
from bitzones.data.tasks import ScoredTask, TaskSet
from bitzones.devices import device as devices
from bitzones.evaluation import kl, self_text
from bitzones.models import loading, streamed_weights, structure, text_config
from bitzones.models.units import Granularity, model_units
from bitzones.profiling import gemm_latency
from bitzones.profiling.hardware import Hardware
from bitzones.run import journal, plan_tuner, slice_plans, sweeping, whole_plans
from bitzones.run.given import Given
from bitzones.run.ray_options import RayOptions
from bitzones.schema import environment, slices
from bitzones.schema.errors import BitzonesError, NotMeasuredError
from bitzones.schema.formats import Format, is_calibrated
from bitzones.schema.performance_cells import UnitLatencyCell
from bitzones.schema.plan_cells import PlansCell, SearchCell
from bitzones.schema.profile import PLAN, TUNED, Profile, variant_formats
from bitzones.schema.progress import Progress, silent
from bitzones.schema.quality_cells import DivergenceCell
from bitzones.schema.record import Measured
from bitzones.schema.run_record import Environment
from bitzones.schema.sensitivity_cells import SensitivityCell, Unit
from bitzones.schema.slices_cell import SlicesCell
from bitzones.schema.tuning_cells import TuningCell
from bitzones.search import goals, held_out
from bitzones.sensitivity import invariants, streamed
from bitzones.sensitivity.variants import Variants

__all__ = ["Session"]

T = TypeVar("T")
M = TypeVar("M", bound=Measured)

LOGITS_BYTES, FLOAT_BYTES = 1 << 28, 4
"""Of the logits of one batch of a domain's windows: they are long, and two models' logits are held at a time."""

Batches: TypeAlias = Callable[[], Iterator[Batch]]
"""Returns the same batches at every call."""

_SHARED: dict[type, str] = {
    UnitLatencyCell: "unit_times",
    SensitivityCell: "sweep",
    SearchCell: "search",
    PlansCell: "plans",
    SlicesCell: "slices",
    TuningCell: "tuning",
}
"""Cells that other cells build on -> their names in a session."""


class Session:
    """One run of one profile.

    Args:
        profile: what to run.
        notify: told, in a line, of anything that takes long and is not a measurement.
        given: objects in memory, in place of what the profile names.
        folder: of the run file, where tuned weights are kept; None where there is none.
        ray: a cluster that measures the sweep; None is this process.
    """

    def __init__(
        self,
        profile: Profile,
        notify: Callable[[str], None] = lambda message: None,
        given: Given | None = None,
        folder: Path | None = None,
        ray: RayOptions | None = None,
    ) -> None:
        self.profile = profile
        self.folder = folder
        self.notify = notify
        self.ray = ray
        self._given = given or Given()
        self._made: dict[str, object] = {}

    @cached_property
    def device(self) -> torch.device:
        return devices.resolve(self.profile.model.device)

    @cached_property
    def variants(self) -> Variants:
        """All variants. What backends compile is compiled here too: once there is a model, and before anything is timed."""
        registry.check(self.profile.formats)
        devices.seed_everything(self.profile.seed)
        loaded = self._given.loaded(self.profile.model.source, self.device)
        if loaded is None:
            loaded = self._given.with_tokenizer(loading.load(self.profile.model, self.device, self.notify, self.profile.formats))
        if any(task.chat_template for task in self.profile.tasks):
            with suppress(NotMeasuredError):  # random weights have no tokenizer: cells refuse them one by one
                prompts.check_template(loaded.tokenizer)
        for name in dict.fromkeys(Format.of(format_).backend for format_ in self.profile.formats):
            registry.backend(name).prepare(self.notify)
        dtype = devices.compute_dtype(self.device, self.profile.model.compute_dtype, loaded.model.dtype)
        formats, damping = variant_formats(self.profile), self.profile.calibration.damping
        include = [structure.head(loaded.model) for _ in self.profile.sensitivity.include]
        wanted = product((*structure.quantizable_modules(loaded.model), *include), self.profile.formats)
        stays = quantizing.unsupported(loaded.model, wanted, dtype, self.device, self.notify)
        return Variants(loaded, formats, self.device, dtype, self.calibration_batches, damping, self.notify, include, stays)

    @cached_property
    def hardware(self) -> Hardware:
        """The machine under the run."""
        return Hardware(self.variants, self.profile)

    @property
    def reference_id(self) -> str:
        """The reference's variant id."""
        return self.variants.reference_id

    def model(self, variant: str) -> PreTrainedModel:
        """A variant's model, also that of the plan or of a baseline: what it is has to be found, when it is first asked for."""
        streamed_weights.refuse(self.variants.reference, f"the model of {variant}")
        if variant == PLAN:
            self.search()
        elif variant == TUNED:
            self.tune()
        elif variant in self._chosen_plans:
            self._define_chosen(variant)
        return self.variants.model(variant)

    @property
    def has_tokenizer(self) -> bool:
        """Whether the run can read text: a model with random weights has no tokenizer."""
        return self.variants.loaded.own_tokenizer is not None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.variants.loaded.tokenizer

    @cached_property
    def layers(self) -> Sequence[torch.nn.Module]:
        """The reference's decoder layers."""
        return list(structure.decoder_layers(self.variants.reference).values())

    @property
    def granularity(self) -> Granularity:
        """What is decided together."""
        return self.profile.sensitivity.granularity

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """What is decided separately."""
        model, settings = self.variants.loaded.model, self.profile.sensitivity
        return model_units(model, self.granularity, settings.layers, [structure.head(model) for _ in settings.include])

    @cached_property
    def scored(self) -> dict[str, ScoredTask]:
        """Task name -> the items that are scored, as the data set has them: no model is needed to see that they are there."""
        return tasks.of_profile(self.profile)

    @cached_property
    def asked(self) -> dict[str, ScoredTask]:
        """Task name -> the items that are scored, as the model reads them."""
        return {name: self._asked(name, task) for name, task in self.scored.items()}

    def _asked(self, name: str, scored: ScoredTask) -> ScoredTask:
        if not isinstance(scored, TaskSet):  # the harness writes its prompts itself
            if scored.chat_template:
                prompts.check_template(self.tokenizer)
            return scored
        task = prompts.asked(scored, self.tokenizer)
        if over := task.passed_over:
            self.notify(f"task {name}: items passed over: {len(over)}, such as {over[0]!r}, whose answer merges with its prompt's end")
        return task

    def task_batch(self, name: str) -> int:
        """Items of a task that are scored at a time."""
        return next(task.batch for task in self.profile.tasks if task.name == name)

    @cached_property
    def sets(self) -> SequenceSets:
        """The sequences of the run, by what they are for."""
        model, given = self.variants.loaded.model, self._given.texts
        return SequenceSets(self.profile, self.tokenizer, self.scored, model, given, self.notify, self._written)

    def _written(self, length: int) -> Iterator[TokenSequence]:
        """What the reference writes, in sequences of a length."""
        batch, seed = self.profile.sensitivity.batch, self.profile.seed
        return self_text.sequences(self.variants.reference, self.tokenizer, length, batch, seed)

    @property
    def sensitivity_set(self) -> SequenceSet:
        """The sequences from which plans are made."""
        return self.sets.sensitivity

    @property
    def held_out(self) -> SequenceSet:
        """Other sequences, on which whole plans are judged."""
        return self.sets.held_out

    @property
    def calibration_set(self) -> SequenceSet:
        """Sequences of their own on which calibrated formats choose their integers."""
        return self.sets.calibration

    @property
    def calibration_batch(self) -> int:
        """Sequences that are rounded on at a time; where tokens are sent to experts, padding must not be (`hessian.moments_of`)."""
        return 1 if structure.has_experts(self.variants.reference) else self.profile.sensitivity.batch

    def calibration_batches(self) -> list[Batch]:
        return list(sequences.batches(self.calibration_set, self.calibration_batch, self.device))

    def check_invariants(self) -> None:
        """Refuse a model of which something does not hold that all figures rest on, before anything is measured.

        Raises:
            ModelError: as `sensitivity.invariants.check`.
        """
        self.notify("checking on a few tokens that the model's layers are understood")
        invariants.check(self.variants.reference, self.variants.loaded.model, self.units)

    def check_sequences(self) -> None:
        """Refuse texts, or sequences for calibrated formats, that are too few, before anything is measured.

        Raises:
            TaskError: as `data.sets.SequenceSets.check`.
        """
        calibrated = any(map(is_calibrated, self.profile.formats))
        if self.profile.tuning is not None or calibrated or self.has_tokenizer:
            self.sets.check()

    def on_domain(self, name: str, work: Callable[[DomainSet, Batches], M]) -> M:
        """What ``work`` records on the windows of a domain, in batches whose logits memory is enough for."""
        found, vocabulary = self.sets.domains[name], text_config.vocabulary(self.variants.reference)
        room = max(1, LOGITS_BYTES // (found.domain.window * vocabulary * FLOAT_BYTES))
        return self.hardware.at_half(
            min(self.profile.sensitivity.batch, room),
            lambda size: work(found, lambda: sequences.batches(found.windows, size, self.device)),
        )

    def sensitivity_batches(self) -> Iterator[Batch]:
        return sequences.batches(self.sensitivity_set, self.profile.sensitivity.batch, self.device)

    def held_out_batches(self) -> Iterator[Batch]:
        return sequences.batches(self.held_out, self.profile.sensitivity.batch, self.device)

    def on(self, chosen: SequenceSet, work: Callable[[Batches], M]) -> M:
        """What ``work`` records on sequences in the batches of the profile, or in smaller ones that memory is enough for."""
        return self.hardware.at_half(
            self.profile.sensitivity.batch, lambda size: work(lambda: sequences.batches(chosen, size, self.device))
        )

    def check_budget(self) -> None:
        """Refuse a budget that no plan will meet, before anything is measured.

        Raises:
            PlanError: the message gives the range that can be met.
        """
        if self.profile.budget.tolerance is not None:
            return  # the reference keeps any tolerance
        goals.check_budget(sweeping.expected_menu(self), self.profile.budget, self.times)

    def check_cluster(self) -> None:
        """Refuse a Ray cluster that is not there, before anything is measured.

        Raises:
            MeasureError: as `ray_sweep.require_room`.
        """
        if self.ray is not None and "sweep" not in self._made:
            from bitzones.run import ray_sweep

            ray_sweep.require_room(self, self.ray)

    def unit_times(self) -> UnitLatencyCell:
        """What the products of the units take in each format, measured once: cheap, and before any sensitivity where the budget is one."""
        streamed_weights.refuse(self.variants.reference, "timing matrix products")
        return self._once("unit_times", lambda: gemm_latency.measure(self.variants, self.units, self.profile.latency, self.profile.seed))

    @property
    def times(self) -> UnitLatencyCell | None:
        """What plans are charged with; None where they are charged with bytes."""
        return None if self.profile.budget.latency is None else self.unit_times()

    def ready(self, variant: str) -> None:
        """Have in memory what `divergence` compares."""
        if not self.variants.is_streamed:
            _ = self.model(self.reference_id), self.model(variant)
        elif variant == PLAN:
            self.search()

    def divergence(self, variant: str) -> DivergenceCell:
        """What a whole variant does to the predictions on the sensitivity set, measured once."""
        return self._once(f"divergence {variant}", lambda: self._divergence(variant))

    def _divergence(self, variant: str) -> DivergenceCell:
        chosen = self.sensitivity_set
        if self.variants.is_streamed:
            return self.on(chosen, lambda batches: streamed.divergence_cell(self.variants, variant, chosen, batches()))
        pair = self.model(self.reference_id), self.model(variant)
        return self.on(chosen, lambda batches: kl.divergence_cell(variant, *pair, chosen, batches()))

    def sweep(self, progress: Progress = silent) -> SensitivityCell:
        """The separate sensitivities, measured once."""
        return self._once("sweep", lambda: sweeping.swept(self, progress))

    def search(self, progress: Progress = silent) -> SearchCell:
        """The plan, searched once."""
        return self._once("search", lambda: self._search(progress))

    def _search(self, progress: Progress) -> SearchCell:
        cell = whole_plans.search_plan(self, progress)
        self._define(PLAN, cell.found.units)
        return cell

    def tune(self, progress: Progress = silent) -> TuningCell:
        """The plan with what it stores beside its integers tuned, once."""
        return self._once("tuning", lambda: plan_tuner.tuned(self, progress))

    def adopt(self, entries: Iterable[journal.Entry]) -> None:
        """Take up what an earlier run has measured and later cells, or the run's own record, build on."""
        found = list(entries)
        for entry in found:
            self.variants.fallbacks.update(entry.fallbacks)
            if (name := _SHARED.get(type(entry.cell))) is not None:
                self._made[name] = entry.cell
            if isinstance(entry.cell, DivergenceCell):
                self._made[f"divergence {entry.cell.variant}"] = entry.cell
            if isinstance(entry.cell, SearchCell):
                self._define(PLAN, entry.cell.found.units)
            if isinstance(entry.cell, TuningCell):
                plan_tuner.again(self, entry.cell)
        for variant in dict.fromkeys(entry.cell.variant for entry in found if entry.cell.variant in self._chosen_plans):
            self._define_chosen(variant)

    def compare(self, progress: Progress = silent) -> PlansCell:
        """The plan beside its baselines on held-out sequences, measured once."""
        return self._once("plans", lambda: whole_plans.compare_plans(self, progress))

    def slices(self, progress: Progress = silent) -> SlicesCell:
        """The plans by task or domain, searched once."""
        return self._once("slices", lambda: slice_plans.search_slices(self, progress))

    @cached_property
    def _chosen_plans(self) -> Mapping[str, Callable[[], Mapping[str, str]]]:
        """Variant -> unit to format, of baselines that answer the tasks or are measured by domain, and of plans by task or domain."""
        named = {name: partial(self._baseline, name) for name in self.profile.plans.as_variants}
        return named | {name: partial(slice_plans.units_of, self, name) for name in slices.variants(self.profile)}

    def _baseline(self, name: str) -> Mapping[str, str]:
        """Unit -> format of a baseline that the profile names to answer the tasks."""
        found = held_out.baseline(self.compare(), name)
        if found is None:
            raise NotMeasuredError(f"plan {name} is another plan of the run under another name, or none was made")
        return found.units

    def _define_chosen(self, variant: str) -> None:
        self._once(f"variant {variant}", lambda: self._define(variant, self._chosen_plans[variant]()))

    def _define(self, variant: str, formats: Mapping[str, str]) -> None:
        """Define a variant from unit -> format."""
        self.variants.define(variant, {module: formats[unit.name] for unit in self.units for module in unit.modules})

    def _once(self, name: str, make: Callable[[], T]) -> T:
        """Make a result that several cells need once. If that fails, every cell gets the same error."""
        if name not in self._made:
            try:
                self._made[name] = make()
            except BitzonesError as error:
                self._made[name] = error
        made = self._made[name]
        if isinstance(made, BitzonesError):
            raise made
        return cast("T", made)

    def environment(self) -> Environment:
        failure = registry.backend(registry.DEFAULT).prepare(self.notify)
        return environment.collect(str(self.device), devices.name_of(self.device), torch.get_num_threads(), failure or "built")
