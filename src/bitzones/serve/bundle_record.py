"""bundle.json: which plans a bundle holds, what each task stores beside the base, and the SHA-256 of every file."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints, ValidationError

from bitzones.schema.errors import ArgumentError, PlanError
from bitzones.schema.record import Count, Record
from bitzones.schema.validation_errors import first_error

__all__ = ["BASE", "BUNDLE_FILE", "ROUTER_FILE", "TASKS", "Bundle", "BundledTask", "TaskName", "check_name", "read", "write"]

BUNDLE_FILE, ROUTER_FILE, BASE, TASKS = "bundle.json", "router.json", "base", "tasks"
BUNDLE_FORMAT: Literal["bitzones-bundle"] = "bitzones-bundle"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""A task's name is a file's and a part of a model's name in requests: no separator, no space, no leading dot."""

TaskName = Annotated[str, StringConstraints(pattern=rf"^{_NAME.pattern}$")]
FilePath = Annotated[str, StringConstraints(pattern=r"^((base|tasks)/[^/\\\x00]+|router\.json)$")]
"""Of a file in the bundle: one folder deep, and no path leads out of it."""
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class BundledTask(Record):
    """One task: what its plan stores that the base does not."""

    name: TaskName
    plan: str
    """The plan's own name."""
    modules: dict[str, str]
    """Module whose weight differs from the base's -> its format, the reference's name where it is dense."""
    dense: tuple[str, ...] = ()
    """Other parameters that differ: of normalization layers, where a plan was tuned."""
    stored_bytes: Count
    """Of these modules and parameters, as in the file."""
    logits_sha256: Sha256 | None
    """Of all logits of the plan alone on the base's fixed tokens, bit for bit, on the machine that made the bundle. Null where the task's
    model is not its plan's: modules of the base's format keep the base's integers, although the plan alone rounds them otherwise."""

    @property
    def weights(self) -> str:
        """Path of its tensors in the bundle."""
        return f"{TASKS}/{self.name}.safetensors"


class Bundle(Record):
    """A base plan's checkpoint, and for every other plan the weights that differ."""

    format: Literal["bitzones-bundle"] = BUNDLE_FORMAT
    schema_number: Literal[1] = Field(default=1, alias="schema")
    bitzones: str
    versions: dict[str, str]
    source: str
    """Of the model that all plans are for."""
    model_sha256: str
    tasks: tuple[BundledTask, ...]
    files: dict[FilePath, Sha256]
    """Path in the bundle -> SHA-256."""
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)


def check_name(name: str) -> str:
    """A task's name, where it is one.

    Raises:
        ArgumentError: it is unsafe as the name of a file, or taken by the base.

    >>> check_name("arc_easy")
    'arc_easy'
    """
    if not _NAME.fullmatch(name):
        raise ArgumentError(
            f"task name {name!r}: at most 64 letters, digits, '_', '-' and '.', the first a letter or digit; give another, NAME=PLAN.json"
        )
    if name.lower() == BASE:
        raise ArgumentError(f"task name {name!r}: the first plan is the base; name the task otherwise: NAME=PLAN.json")
    return name


def read(folder: Path) -> tuple[Bundle, str]:
    """The record of a bundle, and the SHA-256 of its text, which names the whole bundle.

    Raises:
        PlanError: it cannot be read, or is something else.
    """
    path = folder / BUNDLE_FILE
    try:
        data = path.read_bytes()
        record = Bundle.model_validate(json.loads(data))
    except OSError as error:
        raise PlanError(f"{path}: cannot be read: {error.strerror}; bitzones bundle writes it") from error
    except ValidationError as error:
        first = first_error(error)
        raise PlanError(f"{path}: key {first.path!r}: {first.message}") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path}: not JSON, or truncated") from error
    return record, hashlib.sha256(data).hexdigest()


def write(folder: Path, record: Bundle) -> None:
    """Write the record of a bundle into its folder."""
    (folder / BUNDLE_FILE).write_text(record.model_dump_json(by_alias=True, indent=1) + "\n", encoding="utf-8")
