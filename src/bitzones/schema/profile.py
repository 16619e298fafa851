"""A profile: everything that defines a run, as one frozen record that a TOML file holds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from bitzones.schema import slices, text_sources
from bitzones.schema.errors import ProfileError
from bitzones.schema.formats import REFERENCE_NAMES, Format, FormatName, format_bits, is_calibrated
from bitzones.schema.latency_grid import Latency
from bitzones.schema.profile_sections import (
    Budget,
    By,
    Calibration,
    Effort,
    Gate,
    HeldOut,
    Model,
    Plans,
    Sensitivity,
    Text,
    Tuning,
    Zones,
)
from bitzones.schema.section import Section
from bitzones.schema.task_settings import Task
from bitzones.schema.text_settings import Domain

__all__ = ["DATA_FOLDERS", "PLAN", "PROFILE_SCHEMA", "TUNED", "Profile", "variant_formats"]

PROFILE_SCHEMA = 2
"""1 called the sensitivity set ``[calibration]`` and the calibration set ``[rounding]`` (`bitzones.schema.migrations`)."""

PLAN = "plan"
"""The variant id of the plan that a run finds."""

TUNED = "tuned"
"""The variant id of the same plan with what it stores beside its integers tuned."""

DATA_FOLDERS = {"arc_easy": "ai2_arc", "arc_challenge": "ai2_arc", "svamp": "svamp"}
"""Task -> the folder of its data set inside a data folder: the second half of its name on the hub."""


class Profile(Section):
    """A whole run, as one TOML file.

    ``schema`` is the version of the profile format. ``description`` is shown by `bitzones profiles`. ``seed`` seeds samples, random plans
    and bootstraps. ``formats`` lists the formats to measure beside the reference; each has a uniform variant.
    """

    schema_number: Literal[2] = Field(alias="schema")
    description: str = ""
    seed: int = Field(default=0, ge=0, lt=2**32)
    formats: tuple[FormatName, ...] = Field(min_length=1, strict=False)
    model: Model
    tasks: tuple[Task, ...] = Field(default=(), strict=False)
    text: Text | None = None
    domains: tuple[Domain, ...] = Field(default=(), strict=False)
    sensitivity: Sensitivity = Sensitivity()
    calibration: Calibration = Calibration()
    tuning: Tuning | None = None
    held_out: HeldOut = HeldOut()
    plans: Plans = Plans()
    latency: Latency = Latency()
    budget: Budget = Budget(average_bits=4.0)
    zones: Zones = Zones()
    gate: Gate = Gate()
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    @model_validator(mode="after")
    def _named_once(self) -> Profile:
        text_sources.require_tasks(self)
        if self.text is not None and self.text.sensitivity is not None and self.sensitivity.text:
            raise ValueError("text.sensitivity and [[sensitivity.text]] both name the sensitivity set: leave one of them out")
        named = {
            "formats": self.formats,
            "tasks": tuple(task.name for task in self.tasks),
            "domains": tuple(domain.name for domain in self.domains),
            "plans.accuracy": self.plans.accuracy,
            "plans.domains": self.plans.domains,
        }
        for key, names in named.items():
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{key}: {', '.join(twice)} occurs twice")
        if "random" in self.plans.as_variants and not self.plans.random:
            key = "plans.accuracy" if "random" in self.plans.accuracy else "plans.domains"
            raise ValueError(f"{key} names random, and plans.random = 0 makes no such plan")
        if self.sensitivity.include and any(map(is_calibrated, self.formats)):
            raise ValueError("sensitivity.include = lm_head: calibrated formats are rounded inside the layers; leave one of both out")
        uniform = list(variant_formats(self))[1:]
        if self.budget.like is not None and self.budget.like not in uniform:
            raise ValueError(f"budget.tolerance = like:{self.budget.like}: there is no such variant; there are {', '.join(uniform)}")
        slices.require(self)
        _require_full_effort(self)
        fewest = min(format_bits(name) for name in self.formats)
        if self.budget.average_bits is not None and self.budget.average_bits <= fewest:
            raise ValueError(
                f"budget.average_bits = {self.budget.average_bits:g}: no plan is that small; the fewest bits of the formats are {fewest}, "
                "and scales are stored besides"
            )
        return self

    def resolved(self, data: Path | None = None, limit: int | None = None, by: By | None = None, effort: Effort | None = None) -> Profile:
        """This profile as it is to be run: with a data folder, or without one, and with at most ``limit`` items a task.

        Args:
            data: holds published data sets in the hub's layouts, one folder each: `DATA_FOLDERS`.
            limit: replaces every task's own.
            by: replaces ``plans.by``; None leaves it as it is.
            effort: replaces ``sensitivity.effort``; None leaves it as it is.

        Raises:
            ProfileError: the folder lacks the data set of a task, two tasks become one, there is nothing to make plans ``by``, or the
                effort does not go with the rest of the profile.
        """
        tasks = [_resolved(task, data) for task in self.tasks]
        if limit is not None:
            tasks = [task.model_copy(update={"limit": limit}) for task in tasks]
        names = [task.name for task in tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ProfileError(f"tasks: {', '.join(twice)} occurs twice, once for another that has no data here")
        plans = self.plans if by is None else self.plans.model_copy(update={"by": by})
        found = self.model_copy(update={"tasks": tuple(tasks), "plans": plans, **text_sources.resolved(self, data)})
        if effort is not None:
            found = found.model_copy(update={"sensitivity": found.sensitivity.model_copy(update={"effort": effort})})
        try:
            slices.require(found)
            _require_full_effort(found)
        except ValueError as error:
            raise ProfileError(str(error)) from error
        return found

    @model_serializer(mode="wrap")
    def _as_older_ones(self, given: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A profile without texts or tuning is written, and hashed, as before there were any."""
        found: dict[str, Any] = given(self)
        left_out = {key for key in ("text", "domains", "tuning") if not getattr(self, key)}
        return {key: value for key, value in found.items() if key not in left_out}

    @property
    def sha256(self) -> str:
        """Hash of every setting but the gate's, which measures nothing: two runs of one profile have the same."""
        return hashlib.sha256(self.model_dump_json(exclude={"gate"}).encode()).hexdigest()


def _require_full_effort(profile: Profile) -> None:
    """Refuse an adaptive sweep where something besides one plan within a known budget depends on it.

    Raises:
        ValueError: the message names the key.
    """
    if profile.sensitivity.effort == "full":
        return
    if profile.plans.by is not None:
        raise ValueError(
            f"sensitivity.effort = adaptive: plans by {profile.plans.by} need every sequence measured; use full, or leave plans.by out"
        )
    if profile.budget.tolerance is not None:
        raise ValueError(
            "sensitivity.effort = adaptive: a budget.tolerance gives no bytes to race for; use full, budget.average_bits or budget.latency"
        )


def _resolved(task: Task, data: Path | None) -> Task:
    if task.path is not None or task.name not in DATA_FOLDERS:
        return task.model_copy(update={"otherwise": None})
    if data is not None:
        folder = data / DATA_FOLDERS[task.name]
        if not folder.is_dir():
            raise ProfileError(f"data folder {data} has no {DATA_FOLDERS[task.name]}/, which task {task.name} needs, in the hub's layout")
        return task.model_copy(update={"path": str(folder), "otherwise": None})
    return task.model_copy(update={"name": task.otherwise or task.name, "otherwise": None})


def variant_formats(profile: Profile) -> dict[str, str]:
    """Variant id -> format, the reference first and then from most to fewest bits; of one width quanto's own come before calibrated ones:
    the last is what somebody would store in who can have it.

    ``w4`` is the only 4-bit format of the profile; where several share a width their optimizer is named too, as in ``w2-hqq``, and of other
    backends than quanto all that tells them apart, as in ``w4-mlx-4g64``.

    >>> from bitzones.schema.profile import Model, Profile, Task
    >>> formats = ("qint2:hqq", "qint8", "qint4")
    >>> variant_formats(Profile(schema=2, formats=formats, model=Model(source="embedded:tiny"), tasks=(Task(name="science_mini"),)))
    {'bf16': 'bf16', 'w8': 'qint8', 'w4': 'qint4', 'w2': 'qint2:hqq'}
    """
    reference = REFERENCE_NAMES[profile.model.dtype]
    named = {reference: reference}
    widths = [format_bits(name) for name in profile.formats]
    for name in sorted(profile.formats, key=lambda name: (-format_bits(name), is_calibrated(name), name)):
        bits = format_bits(name)
        named[f"w{bits}" if widths.count(bits) == 1 else f"w{bits}-{Format.of(name).label}"] = name
    return named
