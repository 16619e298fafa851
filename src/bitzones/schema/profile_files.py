"""Finds and reads profiles. A mistake in one is a single line with the file, the key and what is allowed."""

from __future__ import annotations

import difflib
import tomllib
import warnings
from pathlib import Path

from pydantic import BaseModel, ValidationError

from bitzones.schema import migrations
from bitzones.schema.errors import BitzonesWarning, ProfileError
from bitzones.schema.latency_grid import Latency
from bitzones.schema.profile import PROFILE_SCHEMA, Profile
from bitzones.schema.profile_sections import (
    Budget,
    Calibration,
    Gate,
    HeldOut,
    Model,
    Plans,
    Sensitivity,
    Text,
    Tuning,
    Zones,
)
from bitzones.schema.task_settings import Task, is_task_file
from bitzones.schema.text_settings import Domain, TextSource
from bitzones.schema.validation_errors import first_error

__all__ = ["available", "explain", "load", "locate"]

DEFAULT = "tiny"


def _folders() -> list[Path]:
    package = Path(__file__).parents[1]
    return [folder for folder in (package / "_profiles", package.parents[1] / "profiles") if folder.is_dir()]


def available() -> list[str]:
    """Names of the profiles that come with bitzones."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.toml")})


def locate(name_or_path: str) -> Path:
    """The file behind a profile's name or path.

    Raises:
        ProfileError: there is none; the message lists the names and the nearest one.
    """
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        path = Path(name_or_path)
        if path.is_file():
            return path
        raise ProfileError(f"{path}: no such profile file; give a path that exists or one of: {', '.join(available())}")
    for folder in _folders():
        if (path := folder / f"{name_or_path}.toml").is_file():
            return path
    near = difflib.get_close_matches(name_or_path, available(), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ProfileError(f"no profile is named {name_or_path!r}{hint} (there are: {', '.join(available())}; a path must end in .toml)")


def load(name_or_path: str) -> Profile:
    """Read and validate a profile.

    Raises:
        ProfileError: the file is missing, is not TOML, or holds a key or value that is not allowed.
    """
    path = locate(name_or_path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows begins a file with a mark
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: not valid TOML: {error}") from error
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}") from error
    data, renamed = migrations.profile(data)
    if renamed:
        warnings.warn(f"{path}: profile schema 1 is read as schema {PROFILE_SCHEMA}: {'; '.join(renamed)}", BitzonesWarning, stacklevel=2)
    try:
        found = Profile.model_validate(data)
    except ValidationError as error:
        raise ProfileError(f"{path}: {explain(error)}") from error
    return found.model_copy(update={"tasks": tuple(_located(task, path.parent) for task in found.tasks)})


def _located(task: Task, folder: Path) -> Task:
    """A task whose file lies beside the profile, and not where its relative path starts, with the path where it is."""
    if task.lm_eval is None or not is_task_file(task.lm_eval) or Path(task.lm_eval).expanduser().exists():
        return task
    beside = folder / task.lm_eval
    return task.model_copy(update={"lm_eval": str(beside)}) if beside.is_file() else task


def explain(error: ValidationError) -> str:
    """The first mistake in one line: key, what is wrong, what is allowed."""
    first = first_error(error)
    key = first.path or "profile"
    if first.kind == "extra_forbidden":
        allowed = sorted(_allowed_keys(first.keys))
        if (now := migrations.RENAMED_KEYS.get(key)) is not None:
            return f"unknown key {key}; it is now {now}{first.more}"
        near = difflib.get_close_matches(str(first.keys[-1]), allowed, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"unknown key {key}{hint or ';'} allowed here: {', '.join(allowed)}{first.more}"
    if first.kind == "missing":
        return f"key {key} is missing{first.more}"
    return f"{key} = {first.value!r}: {first.clause}{first.more}" if first.keys else f"{first.message}{first.more}"


_SECTIONS: dict[str, type[BaseModel]] = {
    "model": Model,
    "tasks": Task,
    "text": Text,
    "domains": Domain,
    "sensitivity": Sensitivity,
    "calibration": Calibration,
    "held_out": HeldOut,
    "tuning": Tuning,
    "plans": Plans,
    "latency": Latency,
    "budget": Budget,
    "zones": Zones,
    "gate": Gate,
}


def _allowed_keys(location: tuple[int | str, ...]) -> list[str]:
    section: type[BaseModel] = _SECTIONS.get(str(location[0]) if len(location) > 1 else "", Profile)
    if "text" in location[1:-1]:
        section = TextSource
    return [field.alias or name for name, field in section.model_fields.items()]
