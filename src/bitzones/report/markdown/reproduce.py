"""The command that repeats a run, and its profile as TOML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from bitzones.schema.profile import Profile

__all__ = ["command", "profile_toml"]


def command() -> str:
    """The command, with `profile_toml` saved as profile.toml."""
    return "bitzones run profile.toml -o report/"


def profile_toml(profile: Profile) -> str:
    """A file that `profile.load` reads as the same profile.

    Strings are written as JSON writes them, which TOML reads alike: both escape with the same letters, and neither needs more than four hex
    digits once everything outside ASCII stands as it is.
    """
    return "\n".join(_table("", profile.model_dump(mode="json", by_alias=True, exclude_none=True))).strip() + "\n"


def _table(name: str, values: Mapping[str, Any]) -> Iterator[str]:
    """A table's own keys, then its subtables, as TOML requires."""
    for key, value in values.items():
        if not _holds_tables(value):
            yield f"{key} = {_value(value)}"
    for key, value in values.items():
        place = f"{name}.{key}" if name else key
        if isinstance(value, dict):
            yield from ("", f"[{place}]", *_table(place, value))
        elif _holds_tables(value):
            for item in value:
                yield from ("", f"[[{place}]]", *_table(place, item))


def _holds_tables(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value))


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")
