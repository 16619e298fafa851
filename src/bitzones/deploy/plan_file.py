"""Reads and checks plan files, which may come from anywhere, as far as that is possible without a model and without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from bitzones.analysis.plan import PLAN_FORMAT, Plan, PlannedModel
from bitzones.schema import migrations
from bitzones.schema.errors import PlanError
from bitzones.schema.formats import REFERENCE_NAMES, Format, FormatName, is_calibrated
from bitzones.schema.validation_errors import first_error

__all__ = ["FORMATS", "PlanFile", "check_plan", "read_plan"]

FORMATS: TypeAdapter[dict[str, FormatName]] = TypeAdapter(dict[str, FormatName])

_HOMES = {"int": "auto-round, gptq or compressed-tensors"}
"""Backend -> targets that hold its formats, where that is none of its own name."""


@dataclass(frozen=True)
class PlanFile:
    """A plan that passed the door: ``text`` is the file as it was read, ``formats`` names the modules to quantize.

    ``folder`` is where the weights of a tuned plan lie; None for a plan in memory, which has no such place.
    """

    text: str
    plan: Plan
    model: PlannedModel
    formats: dict[str, str]
    folder: Path | None = None

    @property
    def weights(self) -> Path | None:
        """The file of a tuned plan's weights; None for another plan.

        Raises:
            PlanError: the plan is tuned, and there is no folder that its weights could lie in.
        """
        if self.plan.tuning is None:
            return None
        if self.folder is None:
            raise PlanError(
                f"plan {self.plan.name!r} is tuned, and {self.plan.tuning.file!r} lies beside its file: give the path of plan.json"
            )
        return self.folder / self.plan.tuning.file

    @property
    def group_sizes(self) -> dict[str, int | None]:
        """Module to quantize -> the group size that its weight must come out with, None for one scale per row."""
        return {name: self.plan.group_sizes[name] for name in self.formats}

    def check_backends(self, target: str, *held: str) -> None:
        """Refuse formats of backends that a target does not hold.

        Raises:
            PlanError: naming the module, its format and where that goes.
        """
        for name, format_ in self.formats.items():
            if (backend := Format.of(format_).backend) not in held:
                home = _HOMES.get(backend, backend)
                raise PlanError(
                    f"module {name!r} is to be {format_}, which {target} does not hold: it is quantized for {backend}; --to {home} does"
                )


def read_plan(path: Path) -> PlanFile:
    """Read and check a plan.json.

    Raises:
        PlanError: the file is missing, unreadable, truncated, no plan, of another schema, holds a key or value that is not allowed,
            contradicts itself, names no model, or quantizes nothing.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text)
    except OSError as error:
        raise PlanError(f"{path}: cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise PlanError(f"{path}: not JSON, or truncated: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path}: not JSON that can be read: {error}") from error
    if not isinstance(data, dict) or data.get("format") != PLAN_FORMAT:
        raise PlanError(f'{path}: JSON, but no plan of bitzones: it has no "format": "{PLAN_FORMAT}"; bitzones collect writes plan.json')
    if (schema := data.get("schema")) not in migrations.PLANS:
        known = " and ".join(map(str, migrations.PLANS))
        raise PlanError(f"{path}: its schema number is {schema!r}, this bitzones reads {known}: use the version that wrote it")
    try:
        plan = Plan.model_validate(migrations.plan(data))
    except ValidationError as error:
        raise PlanError(f"{path}: {_first(error)}") from error
    return replace(_checked(path, text, plan), folder=path.parent)


def check_plan(plan: Plan) -> PlanFile:
    """Check a plan in memory as `read_plan` checks one in a file.

    Raises:
        PlanError: the plan contradicts itself, names no model, or quantizes nothing.
    """
    return _checked(f"plan {plan.name!r}", plan.to_json(), plan)


def _first(error: ValidationError) -> str:
    """The first mistake in one line; names that a stranger chose are quoted, so that they cannot move the cursor."""
    first = first_error(error)
    if first.kind == "extra_forbidden":
        return f"unknown key {first.path!r}{first.more}: written by another version, or edited"
    return f"key {first.path!r}: {first.clause}{first.more}"


def _checked(path: Path | str, text: str, plan: Plan) -> PlanFile:
    """What the record alone cannot say: that the units of a plan fit together."""
    if plan.model is None:
        raise PlanError(f"{path}: the plan names no model, so it can be applied to none: collect a run whose model was loaded")
    if plan.model.dtype not in REFERENCE_NAMES:
        raise PlanError(f"{path}: model.dtype = {plan.model.dtype!r}: not one of {', '.join(REFERENCE_NAMES)}")
    if plan.reference not in REFERENCE_NAMES.values():
        raise PlanError(f"{path}: reference = {plan.reference!r}: not one of {', '.join(REFERENCE_NAMES.values())}")
    asked = {name: format_name for name, format_name in plan.assignment.items() if format_name != plan.reference}
    try:
        formats = FORMATS.validate_python(asked)
    except ValidationError as error:
        first = first_error(error)
        raise PlanError(f"{path}: assignment of module {first.keys[0]!r} is {first.value!r}: {first.message}") from error
    if not formats:
        raise PlanError(f"{path}: the plan leaves every module as it is: there is nothing to apply")
    if odd := sorted(set(formats) ^ set(plan.group_sizes)):
        where = "has no group size" if odd[0] in formats else "has a group size and no format"
        raise PlanError(f"{path}: module {odd[0]!r} {where}: the plan was edited or is not whole")
    if calibrated := [name for name, format_name in formats.items() if is_calibrated(format_name)]:
        if plan.calibration is None:
            raise PlanError(f"{path}: module {calibrated[0]!r} is to be calibrated, and the plan holds no sequences to do it on")
        if plan.model.compute_dtype not in REFERENCE_NAMES:
            raise PlanError(f"{path}: model.compute_dtype = {plan.model.compute_dtype!r}: not one of {', '.join(REFERENCE_NAMES)}")
    return PlanFile(text, plan, plan.model, formats)
