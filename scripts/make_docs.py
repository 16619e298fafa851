"""Write every figure and table of the docs that the code knows.

    python scripts/make_docs.py

``docs/profile.md`` (every key of a profile) and ``docs/thresholds.md`` (every named threshold) are written whole. In the other pages a
value stands between two comments, ``<!-- =stats.intervals.MIN_SEQUENCES -->20<!-- / -->``, and is replaced. A test compares the files with
what this would write, so the docs cannot contradict the code.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from bitzones.schema.profile import Profile
from bitzones.schema.text_settings import TextSource

DOCS = Path(__file__).parents[1] / "docs"

MARK = re.compile(r"<!-- =(?P<name>[\w.]+)(?: (?P<form>\w+))? -->.*?<!-- / -->", re.DOTALL)
"""A value in a page: a constant (``stats.significance.POWER``), a profile's default (``profile.zones.agreement``) or a whole section of one
(``profile.gate toml``), and how it is written."""


def toml(section: type[BaseModel]) -> str:
    """A section's defaults as TOML, each with the first clause of its meaning."""
    _, meaning = meanings(section)
    lines = [f"{key} = {field.default}" for key, field in section.model_fields.items()]
    clauses = [re.split(r"[:.;](?=\s|$)", _without(key, meaning[key]))[0] for key in section.model_fields]
    width = max(map(len, lines))
    return "\n```toml\n" + "\n".join(f"{line:<{width}}  # {clause}" for line, clause in zip(lines, clauses, strict=True)) + "\n```\n"


FORMS: dict[str | None, Callable[[Any], str]] = {
    None: lambda value: f"{value:,}" if isinstance(value, int) else f"{value:g}",
    "percent": lambda value: f"{100 * value:g}%",
    "points": lambda value: f"{100 * value:g} points",
    "next": lambda value: f"{value + 1:,}",
    "toml": toml,
}

THRESHOLDS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Intervals and verdicts", "stats.intervals", ("CONFIDENCE", "MIN_SEQUENCES")),
    ("Intervals and verdicts", "stats.significance", ("POWER",)),
    ("Intervals and verdicts", "stats.verdicts", ("NON_INFERIORITY_MARGIN", "NON_INFERIORITY_NATS")),
    ("Intervals and verdicts", "stats.correlation", ("MIN_PAIRS",)),
    ("Intervals and verdicts", "analysis.layer_sensitivity", ("INTERVAL_RESAMPLES",)),
    ("Zones", "analysis.zones", ("SPLIT_HALF_RESAMPLES", "SPLIT_HALF_AGREEMENT")),
    ("Plan", "analysis.marginal_costs", ("RESAMPLED_GAP",)),
    ("Plan", "allocation.time_cost", ("NO_GAIN",)),
    ("Plans by task", "stats.share_contrasts", ("LEAST_PERMUTATIONS", "FINEST")),
    ("Plans by task", "analysis.slice_crossing", ("FINEST",)),
    ("Rules of thumb and attention", "analysis.heuristics", ("MOSTLY", "SLIGHT", "USEFUL")),
    ("Rules of thumb and attention", "analysis.attention", ("CONCENTRATED", "FLAT", "STANDARD_ERRORS", "MEDIAN_LAYERS", "HEAVY_TAILS")),
    ("Calibrated rounding", "rounding.gptq", ("DAMPING", "SHRINKS", "REFITS", "TOWARDS", "CLIPPED", "BLOCK")),
    ("Sensitivity", "evaluation.head_rows", ("CERTAIN", "STRATA", "MOST_NATS", "DEVIATION", "FLOOR")),
    ("Sensitivity", "evaluation.sampled_kl", ("LINEAR", "WORTH")),
    ("Invariants", "sensitivity.invariants", ("LOGITS", "ROUNDING", "NATS")),
    ("Timing", "models.kv_cache", ("LEAST_APART", "NOISE")),
    ("Timing", "analysis.contention", ("GPU_SPREAD",)),
    ("Timing", "devices.gpu_monitor", ("PERIOD_S", "HELD_SHARE")),
    ("Timing", "analysis.latency_memory", ("SLOW",)),
    ("Timing", "report.markdown.measurements", ("HOST_BOUND",)),
    ("Bundles", "serve.router_record", ("CONFIDENCE",)),
    ("Bundles", "serve.classifier", ("MOST_PROMPTS", "MOST_TERMS")),
    ("Offload", "models.offload", ("RESERVED",)),
    ("Comparing runs", "regression.drift", ("MIN_FREEDOM",)),
    ("Comparing runs", "regression.paired", ("LEAST_SHARED", "RESAMPLES")),
    ("Comparing runs", "regression.time_changes", ("RESAMPLES",)),
    ("Exports", "deploy.verify", ("TOP", "TOLERANCE_NATS", "KERNEL_TOLERANCE_NATS")),
    ("Tasks", "evaluation.scoring", ("MAX_NEW_TOKENS",)),
)
"""Heading, module, names: what decides a verdict, a zone, a plan or a warning. Sizes of buffers and pictures are left out."""

THRESHOLDS_INTRO = """\
Written by `scripts/make_docs.py` from the code; do not edit. These constants decide a verdict, a zone, a plan or a warning. What a profile
can set is under [profile keys](profile.md)."""

PROFILE_INTRO = """\
Written by `scripts/make_docs.py` from the records; do not edit. A profile is one TOML file; unknown keys are errors.
[`profiles/tiny.toml`](../profiles/tiny.toml) is a complete example, and `bitzones profiles` lists the installed ones."""


def filled(text: str) -> str:
    """A page with every marked value as the code has it.

    Raises:
        AttributeError: the code has no such name.
    """
    return MARK.sub(
        lambda mark: f"<!-- ={mark[1]}{f' {mark[2]}' if mark[2] else ''} -->{FORMS[mark[2]](value_of(mark[1]))}<!-- / -->", text
    )


def value_of(name: str) -> Any:
    """The value behind a mark: of a constant, read from the source without importing torch, or of a profile's key.

    >>> value_of("profile.zones.agreement"), value_of("analysis.zones.SPLIT_HALF_AGREEMENT")
    (0.9, 0.8)
    """
    module, _, attribute = name.rpartition(".")
    if module == "profile":
        return _section(Profile.model_fields[attribute])
    if module.startswith("profile."):
        return _section(Profile.model_fields[module.removeprefix("profile.")]).model_fields[attribute].default
    return constants(module)[attribute][0]


def constants(module: str) -> dict[str, tuple[Any, str]]:
    """Name -> value and the docstring below it, of the constants at a module's top that can be computed from one another."""
    source = Path(*import_module("bitzones").__path__, *module.split(".")).with_suffix(".py")
    body = ast.parse(source.read_text(encoding="utf-8")).body
    known: dict[str, Any] = {}
    found: dict[str, tuple[Any, str]] = {}
    for node, below in zip(body, [*body[1:], ast.Pass()], strict=True):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                pass
            case _:
                continue
        try:
            known[name] = eval(compile(ast.Expression(value), str(source), "eval"), {"__builtins__": {}}, known)  # noqa: S307  # our own source
        except (
            AttributeError,
            NameError,
            SyntaxError,
            TypeError,
            ValueError,
        ):  # what a constant needs more for than other constants is no figure
            continue
        match below:
            case ast.Expr(value=ast.Constant(value=str() as meaning)):
                found[name] = known[name], meaning
            case _:
                found[name] = known[name], ""
    return found


def thresholds() -> str:
    """docs/thresholds.md."""
    pieces = ["# Thresholds", THRESHOLDS_INTRO]
    for title in dict.fromkeys(title for title, _, _ in THRESHOLDS):
        rows = [
            f"| `{name}` | {_shown(value)} | {_cell(meaning)} | `{module}` |"
            for heading, module, names in THRESHOLDS
            if heading == title
            for name in names
            for value, meaning in [constants(module)[name]]
        ]
        pieces += [f"## {title}", "\n".join(("| name | value | meaning | in |", "|---|---|---|---|", *rows))]
    return "\n\n".join(pieces) + "\n"


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item:g}" for key, item in value.items())
    if isinstance(value, tuple):
        return ", ".join(f"{item:g}" for item in value)
    return f"{value:g}"


def profile() -> str:
    """docs/profile.md.

    Raises:
        AssertionError: a key has no meaning: its section's docstring does not mention it.
    """
    pieces = ["# Profile keys", PROFILE_INTRO]
    top = {key: field for key, field in Profile.model_fields.items() if _section_or_none(field) is None}
    pieces += ["## Top level", _table(Profile, top)]
    for key, field in Profile.model_fields.items():
        if (section := _section_or_none(field)) is not None:
            many = get_origin(field.annotation) is tuple
            intro, _ = meanings(section)
            pieces += [
                f"## {f'[[{key}]]' if many else f'[{key}]'}",
                *([intro] if intro else []),
                _table(section, dict(section.model_fields)),
            ]
            if key == "text":
                pieces += [
                    "## [[sensitivity.text]], [[held_out.text]], [[calibration.text]]",
                    _table(TextSource, dict(TextSource.model_fields)),
                ]
    return "\n\n".join(pieces) + "\n"


def _table(section: type[BaseModel], fields: dict[str, FieldInfo]) -> str:
    _, meaning = meanings(section)
    if missing := [key for key in fields if not meaning.get(key)]:
        raise AssertionError(f"{section.__name__}: the docstring says nothing of {', '.join(missing)}")
    rows = [
        f"| `{field.alias or key}` | {_type(field.annotation)}{_bounds(field.metadata)} | {_default(field)} | "
        f"{_without(field.alias or key, meaning[key])} |"
        for key, field in fields.items()
    ]
    return "\n".join(("| key | type | default | meaning |", "|---|---|---|---|", *rows))


def meanings(section: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """What a section's docstring says: of the whole, and of each key.

    A sentence belongs to the first key that it names; one that names none belongs to the sentence before it.
    """
    keys = {field.alias or key: key for key, field in section.model_fields.items()}
    sentences = re.split(r"(?<=[.])\s+(?=[A-Z`])", re.sub(r"\s+", " ", inspect.getdoc(section) or "").strip())
    intro: list[str] = []
    found: dict[str, list[str]] = {}
    current: list[str] = intro
    for sentence in sentences:
        named = [keys[word] for word in re.findall(r"``([^`]+)``", sentence) if word in keys]
        if named:
            current = found.setdefault(named[0], [])
        current.append(re.sub(r"``([^`]+)``", r"`\1`", sentence))
    return " ".join(intro), {key: " ".join(lines) for key, lines in found.items()}


def _without(key: str, meaning: str) -> str:
    """A meaning as a cell, without "`key` is" in front, since the key stands beside it."""
    rest = _cell(meaning).removeprefix(f"`{key}` is ")
    return rest[0].upper() + rest[1:]


def _section_or_none(field: FieldInfo) -> type[BaseModel] | None:
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _section(field: FieldInfo) -> type[BaseModel]:
    section = _section_or_none(field)
    assert section is not None, "a table"
    return section


_NAMES: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "true or false"}


def _type(kind: Any) -> str:
    """A type in words.

    >>> _type(tuple[int, ...]), _type(Literal["first", "sample"]), _type(float | None)
    ('list of integer', '`first`, `sample`', 'number')
    """
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _type(inside[0])
    if origin is Literal:
        return ", ".join(f"`{item}`" for item in inside)
    if origin in (Union, UnionType):
        return " or ".join(_type(item) for item in inside if item is not NoneType)
    if origin is tuple and inside[0] is TextSource:
        return "list of tables"
    if origin is tuple:
        return f"list of {_type(inside[0])}"
    return _NAMES.get(kind, getattr(kind, "__name__", str(kind)))


_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def _bounds(metadata: list[Any]) -> str:
    found = [f"{sign} {getattr(item, key):,}" for item in metadata for key, sign in _SIGNS.items() if hasattr(item, key)]
    return f", {', '.join(found)}" if found else ""


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "-"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _cell(words: str) -> str:
    return re.sub(r"\s+", " ", words).replace("|", "&#124;").replace("``", "`").strip()


def pages() -> Iterator[tuple[Path, str]]:
    """Every page that the code has a say in, as it should be."""
    written = {DOCS / "profile.md": profile, DOCS / "thresholds.md": thresholds}
    for path, make in written.items():
        yield path, make()
    for path in sorted(set(DOCS.glob("*.md")) - written.keys()):
        if MARK.search(text := path.read_text(encoding="utf-8")):
            yield path, filled(text)


if __name__ == "__main__":
    for path, text in pages():
        path.write_text(text, encoding="utf-8")
