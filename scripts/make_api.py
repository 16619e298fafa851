"""Write docs/api.md: every public name of `bitzones`, from its docstring and its types.

    python scripts/make_api.py

griffe reads the source without importing it. A test compares the file with what this would write, so that it is never out of date.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "docs" / "api.md"

FUNCTIONS = (
    "measure", "measure_shard", "merge", "read_run", "analyze", "write_report", "read_plan", "apply", "tune", "export", "verify_export",
    "measure_export", "measure_plan", "bundle", "measure_bundle", "make_canary", "check_server", "watch_activations", "compare",
    "duet", "read_duet", "trend", "compare_releases", "export_metrics", "save_baseline", "list_baselines", "find_baseline",
)  # fmt: skip
"""In the order in which they are used."""

_DOCTEST = re.compile(r"\s*# doctest: .*")
"""Instructions for the test, not for the reader."""

RECORDS = {
    "Analysis": "analysis",
    "Comparison": None,
    "Duet": "duetfile",
    "Plan": "plan",
    "RunFile": None,
    "CellDelta": None,
    "Metric": None,
    "Trend": None,
    "ReleaseMatrix": None,
}
"""Records with fields of a JSON file, and the heading of docs/schema.md that describes these fields, where there is one."""

TYPES = ("api.analyzing.RunLike", "api.planning.PlanLike")
"""Names for what several functions take."""

OPENING = """# Python API

Written by `scripts/make_api.py` from the docstrings; do not edit.

`import bitzones` loads neither torch nor anything else that is heavy: a name is loaded when it is first used, and torch when a function
that runs a model is called (`pip install 'bitzones[measure]'`). Every error that a user can cause is a `bitzones.BitzonesError`, whose
message is one line. KLs are in nats per token, times in seconds, sizes in bytes, intervals at 95%.

The examples run in the tests, in a folder with `run.json` and `plan.json` (`tests/golden`), `old.json` (the same run) and `new.json` (the
same, with the decoding of `w4` at half its speed) and `tiny_plan.json` (`docs/reports/h200-tiny`) and `tiny_task.json` (the same
with another format for its first layer)."""


def text() -> str:
    """The whole file."""
    package = griffe.load("bitzones", search_paths=[str(ROOT / "src")], docstring_parser="google", resolve_aliases=True)
    names: list[str] = ast.literal_eval(str(package["api.__all__"].value))
    errors = [name for name in names if name.endswith("Error")]
    classes = [name for name in names if name[0].isupper() and name not in errors]
    units = [OPENING, "## Functions", *(_entry(_public(package, name), name) for name in FUNCTIONS)]
    types = ((f"`{place.rpartition('.')[2]}`", f"`{package[place].value}`", _doc(package[place])) for place in TYPES)
    units += ["## Types", _table(("type", "is", "meaning"), types)]
    units += ["## Classes", *(_entry(_public(package, name), name) for name in classes)]
    units += ["## Errors", _table(("error", "base", "raised when"), (_error(package, name) for name in errors))]
    undocumented = {*names} - {*FUNCTIONS, *classes, *errors}
    assert not undocumented, f"functions that FUNCTIONS lacks: {sorted(undocumented)}"
    return "\n\n".join(unit for unit in units if unit) + "\n"


def _public(package: Any, name: str) -> Any:
    """Where a public name of `bitzones.api` is defined."""
    found = package[f"api.{name}"]
    return found.final_target if found.is_alias else found


def _entry(item: Any, name: str, level: int = 3) -> str:
    """A function or a class, with its public members one level lower."""
    units = [f"{'#' * level} {name}"]
    if item.is_function:
        units.append(f"```python\n{_signature(item)}\n```")
    units += _sections(item)
    if item.is_class:
        units += _class(item, name, level)
    return "\n\n".join(units)


def _signature(item: Any) -> str:
    """One parameter a line, as ruff would write it."""
    lines, star = [], False
    for parameter in item.parameters:
        if parameter.kind is griffe.ParameterKind.keyword_only and not star:
            lines.append("    *,")
            star = True
        if parameter.name != "self":
            default = "" if parameter.default is None else f" = {parameter.default}"
            lines.append(f"    {parameter.name}: {parameter.annotation}{default},")
    inside = "\n".join(["", *lines, ""]) if lines else ""
    return f"{item.name}({inside}) -> {item.returns}"


def _sections(item: Any) -> Iterator[str]:
    for section in item.docstring.parsed if item.docstring else ():
        match section.kind.value:
            case "text":
                yield _prose(section.value)
            case "parameters":
                yield "Arguments:\n\n" + "\n".join(f"- `{entry.name}`: {_line(entry.description)}" for entry in section.value)
            case "returns":
                yield "Returns: " + " ".join(_line(entry.description) for entry in section.value)
            case "raises":
                yield "Raises:\n\n" + "\n".join(f"- `{entry.annotation}`: {_line(entry.description)}" for entry in section.value)
            case "admonition":
                yield f"{section.title}:\n\n```pycon\n{_DOCTEST.sub('', section.value.contents)}\n```"
            case kind:
                raise ValueError(f"{item.path}: a section of kind {kind!r} is not one that docs/api.md has")


def _class(item: Any, name: str, level: int) -> Iterator[str]:
    public = [(member, found) for member, found in item.members.items() if not member.startswith("_") and not found.is_alias]
    fields = [
        (member, found) for member, found in public if found.is_attribute and "property" not in found.labels and member != "model_config"
    ]
    if name in RECORDS and RECORDS[name] is not None:
        yield f"Its fields: [`{name}` in the JSON schema](schema.md#{RECORDS[name]})."
    elif fields:
        yield _table(("field", "type", "meaning"), ((f"`{key}`", f"`{found.annotation}`", _doc(found)) for key, found in fields))
    for member, found in public:
        if found.is_attribute and "property" in found.labels:
            yield f"{'#' * (level + 1)} {name}.{member}\n\n`{found.annotation}`"
            yield from _sections(found)
        elif found.is_function:
            yield _entry(found, f"{name}.{member}", level + 1)


def _error(package: Any, name: str) -> tuple[str, str, str]:
    found = _public(package, name)
    return f"`{name}`", ", ".join(f"`{base}`" for base in found.bases), _doc(found)


def _doc(item: Any) -> str:
    return _line(item.docstring.value) if item.docstring else ""


def _line(words: str) -> str:
    return _prose(" ".join(words.split()))


def _prose(words: str) -> str:
    """Docstrings as Markdown: double backticks are for what single ones are in Markdown."""
    return words.replace("``", "`")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    names = list(head)
    return "\n".join(f"| {' | '.join(row)} |" for row in (names, ["---"] * len(names), *cells))


if __name__ == "__main__":
    PLACE.write_text(text(), encoding="utf-8")
