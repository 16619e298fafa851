"""Slices of a run's sequences that plans are made for one by one: the profile's tasks, or the sources of its sensitivity set.

Their names follow from the profile alone, before anything is read: variants and plan files are named after them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import TYPE_CHECKING

from bitzones.schema import text_sources
from bitzones.schema.text_settings import TASKS, TextSource

if TYPE_CHECKING:
    from bitzones.schema.profile import Profile
    from bitzones.schema.text_sources import SetName

__all__ = ["SETS_BY_SLICE", "domain_name", "file_name", "names", "require", "variant", "variants"]

SETS_BY_SLICE: tuple[SetName, ...] = ("sensitivity", "held_out")
"""Sets of which every slice needs sequences of its own: what its plan is made from, and what plans are judged on."""

LONGEST = 100
"""Characters of a name in a file's name, of which a file system allows 255 bytes."""

_UNSAFE = re.compile(r"[^\w.-]+")
"""What a file's name, or a variant's, does not hold."""


def names(profile: Profile) -> tuple[str, ...]:
    """The slices of a profile, in its order; none where it makes one plan only."""
    match profile.plans.by:
        case "task":
            return tuple(task.name for task in profile.tasks)
        case "domain":
            return tuple(domain_name(profile, source) for source in text_sources.sources(profile, "sensitivity"))
    return ()


def domain_name(profile: Profile, source: TextSource) -> str:
    """The name of a source of text: that of the domain that reads the same, else its own last part without an ending."""
    for domain in profile.domains:
        if domain.reads == source.reads:
            return domain.name
    last = PurePath(source.source.removeprefix("embedded:").removeprefix("memory:")).name
    stem = re.sub(r"\.(txt|jsonl|json|parquet|csv)$", "", last)
    return _safe(f"{stem}-{source.config}" if source.config else stem)


def variant(name: str) -> str:
    """The variant that is quantized by the plan of a slice.

    >>> variant("arc_easy")
    'plan:arc_easy'
    """
    return f"plan:{_safe(name)}"


def variants(profile: Profile) -> dict[str, str]:
    """Variant -> slice."""
    return {variant(name): name for name in names(profile)}


def file_name(name: str) -> str:
    """The file of a slice's plan, in the report's folder ``plans``.

    >>> file_name("arc_easy"), file_name("my task/v2")
    ('arc_easy.json', 'my-task-v2.json')
    """
    return f"{_safe(name)}.json"


def _safe(name: str) -> str:
    return _UNSAFE.sub("-", name)[:LONGEST].strip(".-") or "slice"


def require(profile: Profile) -> None:
    """Refuse a profile that has nothing to make plans for one by one.

    Raises:
        ValueError: it has fewer than two slices, two with one name, or a set that lacks the text of one.
    """
    if (by := profile.plans.by) is None:
        return
    found = names(profile)
    if len(found) < 2:
        what = "two [[tasks]]" if by == "task" else "two sources in [[sensitivity.text]]"
        has = f"has {found[0]!r} only" if found else "has none"
        raise ValueError(f"plans.by = {by}: a plan for each {by} needs at least {what}; this profile {has}")
    if twice := _twice(map(_safe, found)):
        remedy = "" if by == "task" else ": name them in [[domains]] with the same source"
        raise ValueError(f"plans.by = {by}: two of them are called {twice}{remedy}")
    for name in SETS_BY_SLICE:
        given = text_sources.sources(profile, name)
        has_slices = {domain_name(profile, source) for source in given}
        if by == "task" and TASKS not in {source.source for source in given}:
            raise ValueError(f"plans.by = task: {name}.text does not name the source {TASKS!r}, whose sequences are the tasks'")
        if by == "domain" and (lacking := [item for item in found if item not in has_slices]):
            raise ValueError(f"plans.by = domain: {name}.text has no source {lacking[0]!r}, on which its plan would be judged")


def _twice(found: Iterable[str]) -> str:
    seen = set[str]()
    for name in found:
        if name in seen:
            return name
        seen.add(name)
    return ""
