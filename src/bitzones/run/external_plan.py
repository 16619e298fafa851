"""Measures a plan from another tool like the plans of a run: on the same held-out sequences and the same items.

Such a plan is a JSON object of module name or pattern to format, or a plan.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bitzones.evaluation import accuracy
from bitzones.run.session import Session
from bitzones.schema.errors import ModelError, PlanError
from bitzones.schema.plan_cells import NamedTrial, PlansCell
from bitzones.schema.profile import variant_formats
from bitzones.schema.quality_cells import AccuracyCell, PerplexityCell
from bitzones.schema.run_record import Run
from bitzones.schema.sensitivity_cells import SensitivityCell, Unit
from bitzones.search import local_search

__all__ = ["Verified", "by_module", "by_unit", "measure", "read_formats"]


@dataclass(frozen=True)
class Verified:
    """The measurements of an external plan: its KL on the held-out set and its answers on the run's tasks."""

    trial: NamedTrial
    answers: tuple[AccuracyCell | PerplexityCell, ...]


def read_formats(path: Path) -> dict[str, str]:
    """Module name or pattern -> format, from a plain JSON object or from the ``assignment`` of a plan.json.

    Raises:
        PlanError: the file cannot be read, is not JSON, or holds something else.
    """
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise PlanError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path}: not JSON: {error}") from error
    if isinstance(data, dict) and data.get("format") == "bitzones-plan":
        data = data.get("assignment")
    if not isinstance(data, dict) or not data or not all(isinstance(value, str) for value in data.values()):
        raise PlanError(f'{path}: not a plan: expected an object of module name or pattern to format, as in {{"*.mlp.down_proj": "qint4"}}')
    return data


def by_module(formats: Mapping[str, str], modules: Sequence[str], allowed: Sequence[str], where: Path) -> dict[str, str]:
    """The format of every module that the plan names. An exact name takes precedence over patterns, and earlier patterns over later ones.

    Raises:
        PlanError: the run did not measure a format, or a name or pattern matches no module.
    """
    for name, format_ in formats.items():
        if format_ not in allowed:
            raise PlanError(f"{where}: {name} asks for {format_!r}; this run measured {', '.join(allowed)}")
        if not any(fnmatchcase(module, name) for module in modules):
            raise PlanError(f"{where}: {name!r} matches no module that can be quantized, such as {modules[0]!r}")
    found = {module: next((formats[name] for name in formats if fnmatchcase(module, name)), None) for module in modules}
    return {module: formats.get(module, format_) for module, format_ in found.items() if format_ is not None}


def by_unit(
    assignment: Mapping[str, str],
    units: Sequence[Unit],
    reference: str,
    where: Path,
    staying: Mapping[str, Collection[str]] | None = None,
) -> dict[str, str]:
    """The format of every unit; modules that the plan does not name keep the reference's format.

    ``staying`` maps a format to the modules that it leaves in the reference's format; they do not count for the unit's format.

    Raises:
        PlanError: a unit would get two formats, or a module belongs to no unit.
    """
    outside = sorted(set(assignment) - {module for unit in units for module in unit.modules})
    if outside:
        raise PlanError(f"{where}: {outside[0]} is in a layer that this run did not sweep")
    found = {}
    for unit in units:
        mixed = {module: assignment.get(module, reference) for module in unit.modules}
        if len(others := set(mixed.values()) - {reference}) == 1:
            (other,) = others
            mixed |= dict.fromkeys(set(unit.modules).intersection((staying or {}).get(other, ())), other)
        if len(set(mixed.values())) > 1:
            shown = ", ".join(f"{module.rpartition('.')[2]} {format_}" for module, format_ in mixed.items())
            raise PlanError(
                f"{where}: {unit.name} would get more than one format ({shown}), and this run decides it as one unit: "
                'run the profile with sensitivity.granularity = "module"'
            )
        found[unit.name] = next(iter(mixed.values()))
    return found


def measure(
    run: Run, sweep: SensitivityCell, plans: PlansCell, path: Path, notify: Callable[[str], None] = lambda message: None
) -> Verified:
    """Measure the plan of a file as the run measured its own.

    Raises:
        PlanError: the file is not a plan for this model, or the run already has a plan of that name.
        ModelError: the model is not the one that the run measured.
        MeasureError: the model or the data is no longer available, or a measurement is NaN.
    """
    name = path.stem
    if name in {plan.name for plan in plans.plans} or name in run.variants:
        raise PlanError(f"{path}: the run has a plan or variant named {name!r} already; rename the file")
    reference, *uniform = variant_formats(run.profile).values()
    modules = [module for unit in sweep.units for module in unit.modules]
    assignment = by_module(read_formats(path), modules, (*uniform, reference), path)
    staying = {name: {module for item in sweep.measurements if item.format == name for module in item.stays} for name in uniform}
    units = by_unit(assignment, sweep.units, reference, path, staying)  # report a mistake in the plan before loading a model
    session = Session(run.profile, notify)
    variants = session.variants
    if run.model is None or variants.loaded.sha256 != run.model.sha256:
        raise ModelError(f"model {run.profile.model.source!r} is not the one that the run measured: its weights have another SHA-256")
    session.check_invariants()
    if session.held_out.sha256 != plans.sequences_sha256:
        raise PlanError(f"{path}: the held-out sequences of this run cannot be reproduced: the data sets or the tokenizer have changed")
    notify(f"measuring {name} on {len(session.held_out.sequences)} held-out sequences")
    bench = local_search.workbench(variants, sweep, session.held_out_batches, len(session.held_out.sequences))
    variants.define(name, assignment)
    (trial,) = local_search.as_made(bench, [(bench.choice(units), variants.whole(name))])
    scored = []
    for task in run.profile.tasks:
        notify(f"measuring {name} on {task.name}")
        model = variants.model(name)
        scored.append(accuracy.measure(model, session.tokenizer, session.asked[task.name], name, session.task_batch(task.name)))
    return Verified(NamedTrial(name=name, origin="foreign", **trial.model_dump()), tuple(scored))
