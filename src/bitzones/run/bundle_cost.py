"""What a bundle costs and gains: its tasks' plans against the one plan that a run's planner makes of the same memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from bitzones import __version__
from bitzones.allocation.knapsack import solve
from bitzones.analysis.reader import RunFile
from bitzones.backends.weights import resident_bytes
from bitzones.data import encoding, sequences
from bitzones.data.sequences import SequenceSet
from bitzones.data.tasks import TaskSet
from bitzones.deploy import plan_file, verify
from bitzones.devices import device as devices
from bitzones.evaluation import accuracy, kl
from bitzones.run import bundle_speed
from bitzones.run.bundle_speed import ONE_PLAN
from bitzones.run.session import Session
from bitzones.schema.errors import ModelError, PlanError, RunFileError
from bitzones.schema.quality_cells import AccuracyCell
from bitzones.schema.sensitivity_cells import SensitivityCell
from bitzones.schema.task_settings import Task
from bitzones.search import local_search
from bitzones.serve import bundle_record, served_loader
from bitzones.serve.bundle_record import BASE, Bundle
from bitzones.serve.cost_record import BundleCost, OnePlan, TaskAccuracy, TaskCost
from bitzones.serve.served_loader import ComputeDtype
from bitzones.serve.served_model import ServedModel
from bitzones.stats.bootstrap import bootstrap_p, bootstrap_ratio, resample_weights, weighted_ratio
from bitzones.stats.intervals import wilson_interval
from bitzones.stats.significance import holm, mcnemar_exact
from bitzones.stats.verdicts import verdict

__all__ = ["measure"]

Notify = Callable[[str], None]
Floats = NDArray[np.float64]

_RESAMPLES, _SEED = 2000, 0


def measure(folder: Path, run_file: RunFile, notify: Notify = lambda message: None) -> BundleCost:
    """Measure a bundle beside the one plan of its memory, which is searched from the run's sensitivities on the run's sensitivity set.

    Args:
        folder: of the bundle.
        run_file: a run of the bundle's model with a sweep; it names the tasks and domains.
        notify: called with one line per step.

    Raises:
        PlanError: the bundle is not as it was written, or holds a task that is neither a task nor a domain of the run.
        RunFileError: the run has no sweep.
        ModelError: the run's model is another, or cannot be loaded.
        TaskError: a task's items cannot be read.
    """
    record, sha256 = bundle_record.read(folder)
    swept = run_file.of(SensitivityCell)
    if not swept:
        raise RunFileError(f"{run_file.path}: it has no sweep, from which the one plan of the same memory could be made")
    _check_names(record, run_file)
    session = Session(run_file.run.profile, notify)
    if session.variants.loaded.sha256 != record.model_sha256:
        raise ModelError(f"the model of the run is not the bundle's: SHA-256 {session.variants.loaded.sha256[:12]}...")
    dtype = cast("ComputeDtype", str(session.variants.compute_dtype).removeprefix("torch."))
    served = served_loader.load(folder, str(session.device), compute_dtype=dtype, notify=notify)
    stored, base_stored = _stored_bytes(folder, record)
    one_plan = _one_plan(session, swept[0], stored, notify)
    one = session.variants.model(ONE_PLAN)
    found = [_measured(session, served, one, task.name, notify) for task in record.tasks]
    notify("timing switches and generation")
    prompt = found[0].sequences.sequences[0].ids
    return BundleCost(
        bitzones=__version__,
        bundle_sha256=sha256,
        run_sha256=hashlib.sha256(Path(run_file.path).read_bytes()).hexdigest(),
        device=devices.name_of(session.device),
        threads=torch.get_num_threads(),
        dtype=dtype,
        resident_bytes=served.resident_bytes,
        base_resident_bytes=resident_bytes([served.model]),
        stored_bytes=stored,
        base_stored_bytes=base_stored,
        switching=bundle_speed.switching(served, _most_modules(record)),
        tokens_per_s=bundle_speed.tokens_per_s(served, one, prompt),
        one_plan=one_plan,
        tasks=_judged(found),
    )


def _check_names(record: Bundle, run_file: RunFile) -> None:
    """Before a model is loaded."""
    profile = run_file.run.profile
    known = [*(task.name for task in profile.tasks), *(domain.name for domain in profile.domains)]
    if odd := [task.name for task in record.tasks if task.name not in known]:
        raise PlanError(
            f"task {odd[0]!r} of the bundle is no task or domain of the run ({', '.join(known)}): its quality cannot be measured"
        )


def _stored_bytes(folder: Path, record: Bundle) -> tuple[int, int]:
    """Bytes of the modules that plans decide about, as stored: of the whole bundle, and of its base."""
    base = plan_file.read_plan(folder / BASE / verify.PLAN_FILE).plan.stored_bytes
    return base + sum(task.stored_bytes for task in record.tasks), base


def _most_modules(record: Bundle) -> int:
    """The most modules that one switch changes."""
    changed = [set[str](), *({*task.modules, *task.dense} for task in record.tasks)]
    return max(len(one | other) for one, other in combinations(changed, 2))


def _one_plan(session: Session, cell: SensitivityCell, budget: int, notify: Notify) -> OnePlan:
    """Search the plan of a budget as the run searched its own, and define it as a variant."""
    notify(f"searching the one plan of {budget:,} bytes")
    chosen = session.sensitivity_set
    if chosen.sha256 != cell.sequences_sha256:
        raise PlanError("the run's sensitivity sequences cannot be reproduced: the data sets or the tokenizer have changed")
    bench = local_search.workbench(session.variants, cell, session.sensitivity_batches, len(chosen.sequences))
    (start,) = local_search.trials(bench, [solve(bench.menu, local_search.summed(bench, cell), budget)])
    found = local_search.search(bench, start, local_search.LeastKl(budget), session.profile.plans.rounds).found
    formats = {module: found.units[unit.name] for unit in cell.units for module in unit.modules}
    session.variants.define(ONE_PLAN, formats)
    return OnePlan(
        budget_bytes=budget,
        stored_bytes=found.stored_bytes,
        average_bits=found.stored_bytes * 8 / bench.menu.parameters,
        formats=dict(Counter(found.units.values())),
    )


@dataclass(frozen=True)
class _Measured:
    """Nats per sequence of the base, the task's plan and the one plan, and their answers where the task asks questions."""

    name: str
    sequences: SequenceSet
    nats: Mapping[str, Floats]
    answers: Mapping[str, AccuracyCell]

    @property
    def tokens(self) -> Floats:
        return np.array(self.sequences.sequence_tokens, dtype=np.float64)

    @property
    def resampled(self) -> Floats:
        """Task minus one plan, nats per token in every resample of the sequences."""
        difference = self.nats[self.name] - self.nats[ONE_PLAN]
        return weighted_ratio(resample_weights(len(difference), _RESAMPLES, _SEED), difference, self.tokens)

    @property
    def changed(self) -> tuple[int, int]:
        """Items that the one plan gets right and the task's plan does not, and the reverse."""
        pairs = list(zip(self.answers[ONE_PLAN].correct, self.answers[self.name].correct, strict=True))
        return sum(one and not own for one, own in pairs), sum(own and not one for one, own in pairs)

    @property
    def p_values(self) -> tuple[float, ...]:
        """Of no difference in KL, and in accuracy where that was measured."""
        return bootstrap_p(self.resampled), *([mcnemar_exact(*self.changed)] if self.answers else [])


def _measured(session: Session, served: ServedModel, one: PreTrainedModel, name: str, notify: Notify) -> _Measured:
    notify(f"measuring {name}: base, the task's plan and the one plan")
    chosen = _sequences(session, name)
    asked = {task.name: task for task in session.profile.tasks}.get(name)
    nats: dict[str, Floats] = {}
    answers: dict[str, AccuracyCell] = {}

    def arm(label: str, model: PreTrainedModel) -> None:
        batches = sequences.batches(chosen, session.profile.sensitivity.batch, session.device)
        nats[label] = np.array(kl.whole(session.variants.reference, model, batches, len(chosen.sequences)))
        if asked is not None and (cell := _answered(session, model, asked, label)) is not None:
            answers[label] = cell

    for plan in (BASE, name):
        with served.precision(plan):
            arm(plan, served.model)
    arm(ONE_PLAN, one)
    return _Measured(name, chosen, nats, answers)


def _sequences(session: Session, name: str) -> SequenceSet:
    """Text of a task that no plan was made from: items of its test split with their answers, or the windows of a domain."""
    scored = session.scored.get(name)
    if scored is None:
        return session.sets.domains[name].windows
    if not isinstance(scored, TaskSet):
        return session.held_out  # a task of the harness writes its prompts itself
    room, most = encoding.positions(session.variants.reference), session.profile.held_out.tokens
    taken, total = [], 0
    for sequence in sequences.sequences(session.tokenizer, [scored.items], room=room):
        taken.append(sequence)
        total += len(sequence.ids)
        if total >= most:
            break
    return SequenceSet(tuple(taken))


def _answered(session: Session, model: PreTrainedModel, task: Task, label: str) -> AccuracyCell | None:
    cell = accuracy.measure(model, session.tokenizer, session.asked[task.name], label, task.batch)
    return cell if isinstance(cell, AccuracyCell) else None


def _judged(found: list[_Measured]) -> tuple[TaskCost, ...]:
    """Every task's figures, with p-values corrected for all tests of all tasks (Holm)."""
    corrected = iter(holm([p for item in found for p in item.p_values]))
    return tuple(_cost(item, next(corrected), next(corrected) if item.answers else None) for item in found)


def _cost(item: _Measured, kl_p: float, accuracy_p: float | None) -> TaskCost:
    weights, tokens = resample_weights(len(item.tokens), _RESAMPLES, _SEED), item.tokens
    return TaskCost(
        name=item.name,
        sequences=len(tokens),
        tokens=int(tokens.sum()),
        sequences_sha256=item.sequences.sha256,
        kl=bootstrap_ratio(weights, item.nats[item.name], tokens),
        kl_one_plan=bootstrap_ratio(weights, item.nats[ONE_PLAN], tokens),
        kl_base=bootstrap_ratio(weights, item.nats[BASE], tokens),
        kl_difference=bootstrap_ratio(weights, item.nats[item.name] - item.nats[ONE_PLAN], tokens),
        kl_p=kl_p,
        accuracy=None if accuracy_p is None else _accuracy(item, accuracy_p),
    )


def _accuracy(item: _Measured, p_value: float) -> TaskAccuracy:
    own, (lost, gained) = item.answers[item.name], item.changed
    n = len(own.correct)
    return TaskAccuracy(
        metric=own.metric,
        n=n,
        task=wilson_interval(sum(own.correct), n),
        one_plan=wilson_interval(sum(item.answers[ONE_PLAN].correct), n),
        base=wilson_interval(sum(item.answers[BASE].correct), n),
        lost=lost,
        gained=gained,
        verdict=verdict(lost, gained, n, p_value=p_value),
    )
