"""The gate: tolerances from the profile or from a project, and the statuses that fail it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bitzones.regression.comparison import Comparison
from bitzones.schema.errors import ProfileError
from bitzones.schema.profile_sections import Gate
from bitzones.schema.validation_errors import first_error

__all__ = ["CANNOT_COMPARE", "FAIL_ON", "GATE_WORDS", "OPEN", "REGRESSION", "exit_code", "fail_on", "tolerances"]

OPEN, REGRESSION, CANNOT_COMPARE = 0, 1, 2
"""Exit codes: same or better, a regression, nothing could be compared."""

GATE_WORDS = ("worse", "missing", "failed", "inconclusive", "incomparable", "new", "moved")
"""What may close the gate: a cell of that status, or a layer that moved to another zone."""

FAIL_ON = ("worse", "missing", "failed")
"""What closes it unless asked otherwise: a cell that is gone hides a regression as well as a slower one shows it."""


def fail_on(text: str | None) -> frozenset[str]:
    """The words of ``--fail-on``, separated by commas; ``none`` is none.

    Raises:
        ProfileError: one of them is unknown.
    """
    if text is None:
        return frozenset(FAIL_ON)
    words = [word.strip().replace(" ", "-") for word in text.split(",") if word.strip()]
    if words == ["none"]:
        return frozenset()
    if unknown := [word for word in words if word not in GATE_WORDS] or ([] if words else [text]):
        raise ProfileError(f"--fail-on: {unknown[0]!r} is not one of {', '.join(GATE_WORDS)}, none")
    return frozenset(words)


def tolerances(profile_gate: Gate, project: Path | None) -> Gate:
    """The profile's tolerances, and over them those of ``[tool.bitzones.gate]`` where the project's pyproject.toml has that table.

    Raises:
        ProfileError: the file cannot be read or holds a key or value that is not allowed.
    """
    if project is None:
        return profile_gate
    try:
        data: Any = tomllib.loads(project.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"{project}: not valid TOML: {error}") from error
    except OSError as error:
        raise ProfileError(f"{project}: cannot be read: {error.strerror}") from error
    for step in ("tool", "bitzones", "gate"):
        data = data.get(step, {}) if isinstance(data, dict) else {}
    if not isinstance(data, dict):
        raise ProfileError(f"{project}: tool.bitzones.gate is no table")
    try:
        return Gate.model_validate({**profile_gate.model_dump(), **data})
    except ValidationError as error:
        first = first_error(error)
        wrong = f"unknown key; allowed: {', '.join(Gate.model_fields)}" if first.kind == "extra_forbidden" else first.message
        raise ProfileError(f"{project}: tool.bitzones.gate.{first.path}: {wrong}") from error


def exit_code(comparison: Comparison, words: Iterable[str]) -> int:
    """0 where no cell has one of the words, 1 where one has, 2 where nothing could be compared and nothing is gone either."""
    chosen = set(words)
    present: set[str] = {cell.status.replace(" ", "-") for cell in comparison.cells}
    if comparison.moved:
        present.add("moved")
    if present & chosen:
        return REGRESSION
    return OPEN if comparison.compared else CANNOT_COMPARE
