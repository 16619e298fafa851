"""Older run files, plans and profiles, read as if they had been written today.

A migration renames keys, and derives the kinds of kernels from their names; everything else that a newer schema added has a default.
The functions take parsed JSON or TOML, check nothing (the records do), and return a new value: what they were given stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["PLANS", "RENAMED_KEYS", "RUNS", "cell", "plan", "profile", "run"]

RUNS = (2, 3, 4)
"""Schema numbers of run files that are read."""

PLANS = (3, 4)
"""Schema numbers of plan files that are read."""

RENAMED_KEYS = {
    "rounding": "[calibration]",
    "calibration.batch": "sensitivity.batch",
    "plans.held_out_tokens": "held_out.tokens",
}
"""Keys of a profile of schema 1 that schema 2 has not: where each is now."""

_WORDS = {"CANNOT TELL": "INCONCLUSIVE", "cannot tell": "inconclusive", "no worse within": "non-inferior"}


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    return {names.get(name, name): item for name, item in value.items()} if isinstance(value, dict) else value


def _within(value: Any, change: Callable[[Any], Any], *keys: str) -> Any:
    """A mapping with some of its values changed: each element where one is a list."""
    if not isinstance(value, dict):
        return value
    changed = {key: _each(value[key], change) for key in keys if key in value}
    return {**value, **changed}


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    return [change(item) for item in value] if isinstance(value, list) else change(value)


def _measurement(value: Any) -> Any:
    return _renamed(value, {"part": "unit"})


def _trial(value: Any) -> Any:
    return _renamed(value, {"parts": "units"})


def _search_round(value: Any) -> Any:
    return _within(_within(value, _measurement, "around"), _trial, "trials")


def _monitored(value: Any) -> Any:
    return _renamed(value, {"disturbed": "contended"})


def _calibration(value: Any) -> Any:
    return _renamed(value, {"calibration_sha256": "sequences_sha256"})


def _kind(value: Any) -> Any:
    return "unit_latency" if value == "part_latency" else value


def _with_kernel_kinds(cell: dict[str, Any]) -> dict[str, Any]:
    """A latency cell with the kinds of its kernels, which schema 4 records.

    Older files only name quanto's classes. Its plain packing is unpacked at every product, and so are weights of Python fallbacks.
    """
    kernels = cell.get("kernels")
    if cell.get("kind") != "latency" or not isinstance(kernels, dict):
        return cell
    return {"kernel_kinds": {name: _kernel_kind(name) for name in kernels}, **cell}


def _kernel_kind(name: str) -> str:
    return "dense" if name == "dense" else "unpacked" if name == "WeightQBitsTensor" or "python" in name.lower() else "fused"


def _of_schema(value: Any, known: tuple[int, ...]) -> bool:
    """Whether this is to be migrated: of a known schema before the last one. ``True`` is no number here."""
    number = value.get("schema") if isinstance(value, dict) else None
    return isinstance(number, int) and not isinstance(number, bool) and number in known[:-1]


def cell(value: Any) -> Any:
    """A cell of a run file of schema 2 or 3 as schema 4 has it; anything else as it is.

    >>> cell({"schema": 3, "kind": "part_latency", "parts": {"layers.0": [[4, 4]]}})
    {'schema': 4, 'kind': 'unit_latency', 'units': {'layers.0': [[4, 4]]}}
    """
    if not _of_schema(value, RUNS):
        return value
    found = _renamed(value, {"parts": "units", "calibration_sha256": "sequences_sha256"})
    found = _within(found, _kind, "kind", "of")
    found = _within(found, _monitored, "gpu")
    found = _within(found, _measurement, "measurements", "scores", "around")
    found = _within(found, _trial, "start", "plans")
    found = _within(found, _search_round, "rounds")
    return {**_with_kernel_kinds(found), "schema": RUNS[-1]}


def run(value: Any) -> Any:
    """What all cells of a run share, of schema 2 or 3, as schema 4 has it; anything else as it is."""
    if not _of_schema(value, RUNS):
        return value
    found = _renamed(value, {"rounding": "calibration"})
    found = _within(found, _calibration, "calibration")
    if isinstance(found.get("profile"), dict):
        found["profile"] = profile(found["profile"])[0]
    return {**found, "schema": RUNS[-1]}


def plan(value: Any) -> Any:
    """A plan of schema 3 as schema 4 has it; anything else as it is."""
    if not _of_schema(value, PLANS):
        return value
    found = _renamed(value, {"parts": "units", "rounding": "calibration", "calibration_sha256": "sequences_sha256"})
    found = _within(found, _calibration, "calibration")
    found = _within(found, lambda accuracy: _within(accuracy, _verdict, "verdict"), "accuracy")
    return {**found, "schema": PLANS[-1]}


def _verdict(value: Any) -> Any:
    return _within(value, lambda word: _WORDS.get(word, word) if isinstance(word, str) else word, "word")


def profile(value: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A profile of schema 1 as schema 2 has it, and a line for every key that has another name now; anything else as it is.

    >>> profile({"schema": 1, "calibration": {"tokens": 9}, "rounding": {"tokens": 5}})[0]
    {'schema': 2, 'sensitivity': {'tokens': 9}, 'calibration': {'tokens': 5}}
    """
    found = dict(value)
    if found.get("schema") != 1 or isinstance(found["schema"], bool):
        return found, ()
    said = []
    sensitivity, calibration, plans = found.pop("calibration", None), found.pop("rounding", None), found.get("plans")
    if isinstance(sensitivity, dict):
        found["sensitivity"] = {**sensitivity, **found.get("sensitivity", {})}
        said.append("[calibration] is now part of [sensitivity]")
    if calibration is not None:
        found["calibration"] = calibration
        said.append("[rounding] is now [calibration]")
    if isinstance(plans, dict) and "held_out_tokens" in plans:
        found["plans"] = {name: item for name, item in plans.items() if name != "held_out_tokens"}
        found["held_out"] = {"tokens": plans["held_out_tokens"]}
        said.append("plans.held_out_tokens is now held_out.tokens")
    return {**found, "schema": 2}, tuple(said)
