"""Write docs/schema.md: every record of a run file, of analysis.json and of plan.json, from the records themselves.

    python scripts/make_schema.py

A test compares the file with what this would write, so that it is never about yesterday's records.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from bitzones.analysis.plan import Plan
from bitzones.analysis.results import Analysis
from bitzones.schema.activation_record import ThresholdReading
from bitzones.schema.canary_record import CanaryRecord
from bitzones.schema.cells import Cell
from bitzones.schema.duet_record import DuetFile
from bitzones.schema.run_record import Run

PLACE = Path(__file__).parents[1] / "docs" / "schema.md"

ROOTS: tuple[tuple[str, str, Any], ...] = (
    ("Run files: what all cells share", "Under the key `bitzones` at the top of a pytest-benchmark JSON.", Run),
    ("Run files: cells", "Under `extra_info.bitzones` of each benchmark; `kind` says which.", Cell),
    ("duet.json", "Two environments measured in turn (`bitzones duet`).", DuetFile),
    ("analysis.json", "Everything that was decided.", Analysis),
    ("plan.json", "What applying a plan needs.", Plan),
    ("canary.json", "What a served model is held against (`bitzones canary`).", CanaryRecord),
    ("activations.json", "Thresholds of activations of a model in use (`bitzones.watch_activations`).", ThresholdReading),
)


def text() -> str:
    """The whole file."""
    pieces = ["# JSON schema", "Written by `scripts/make_schema.py` from the records; do not edit. Units stand in the names."]
    done: dict[str, Any] = {}
    for title, where, root in ROOTS:
        schema = TypeAdapter(root).json_schema(by_alias=True)
        known = schema.pop("$defs", {})
        pieces += [f"## {title}", where]
        if isinstance(root, type) and issubclass(root, BaseModel):
            known = {root.__name__: schema, **known}
        for name, found in known.items():
            if "properties" in found and done.get(name) != found:
                pieces += list(_record(f"{name}, in {title}" if name in done else name, found))
                done.setdefault(name, found)
    made = "\n\n".join(pieces) + "\n"
    assert "__" not in made.replace("__init__", ""), "two records of one name: pydantic tells them apart by their modules, a reader cannot"
    return made


def _record(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"### {name}"
    if description := schema.get("description"):
        yield _line(inspect.cleandoc(description))
    required = set(schema.get("required", ()))
    rows = [
        f"| `{key}` | {_type(found)} | {'yes' if key in required else 'no'} | {_line(found.get('description', ''))} |"
        for key, found in schema["properties"].items()
    ]
    yield "\n".join(("| key | type | always there | meaning |", "|---|---|---|---|", *rows))


def _line(words: str) -> str:
    return re.sub(r"\s+", " ", words).replace("|", "&#124;").replace("<", "&lt;")


def _type(schema: dict[str, Any]) -> str:
    match schema:
        case {"$ref": place}:
            name = str(place).rsplit("/", 1)[-1]
            found = f"[{name}](#{name.lower()})"
        case {"const": value}:
            found = f"`{value}`"
        case {"enum": values}:
            found = ", ".join(f"`{item}`" for item in values)
        case {"anyOf": several} | {"oneOf": several}:
            found = " or ".join(dict.fromkeys(_type(item) for item in several))
        case {"type": "array", "prefixItems": items}:
            found = f"list: {', '.join(map(_type, items))}"
        case {"type": "array", "items": inner}:
            found = f"list of {_type(inner)}"
        case {"type": "object", "additionalProperties": dict() as inner}:
            found = f"map to {_type(inner)}"
        case _:
            found = str(schema.get("type", "any"))
    return found


if __name__ == "__main__":
    PLACE.write_text(text(), encoding="utf-8")
