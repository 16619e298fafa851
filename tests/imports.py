"""What imports what, read from the source: the tests of the rooms and the choice of tests that run without torch both ask."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

HEAVY = ("torch", "transformers", "optimum", "accelerate", "datasets", "safetensors", "tokenizers")
"""Packages that only the measuring rooms may load."""

Tree = dict[str, str]
"""Module name -> source."""


@dataclass(frozen=True)
class Room:
    """A room of the house, and whether its modules may load torch when they are imported."""

    name: str
    what: str
    measures: bool = False


ROOMS = (
    Room("schema", "what passes through the JSON, profiles, errors, files"),
    Room("stats", "intervals and tests"),
    Room("allocation", "which format each unit gets, from numbers alone"),
    Room("devices", "CPU, CUDA, NVML, energy, retry when memory runs out", measures=True),
    Room("backends", "quantization libraries, a folder each", measures=True),
    Room("models", "sources, loading, structure, units of decision, offload", measures=True),
    Room("data", "tasks, text, prompts, sequences, batches", measures=True),
    Room("evaluation", "accuracy, likelihood, generation, KL, replay of layers", measures=True),
    Room("rounding", "GPTQ, layer by layer", measures=True),
    Room("tuning", "what a quantized plan stores, trained", measures=True),
    Room("sensitivity", "exact sweep, Fisher proxy, activation statistics", measures=True),
    Room("profiling", "latency, products of units, memory", measures=True),
    Room("search", "plans found and compared by measuring", measures=True),
    Room("analysis", "reads a run and decides"),
    Room("regression", "compares runs: deltas, trends, releases, the gate"),
    Room("duets", "two live environments that measure in turn, and their driver"),
    Room("report", "words, tables, charts, pages"),
    Room("deploy", "a plan into a checkpoint of an engine", measures=True),
    Room("serve", "bundles of plans in memory, routing, the HTTP server", measures=True),
    Room("monitor", "a served model against its run, over time"),
    Room("run", "session, journal, runner, pytest plugin", measures=True),
    Room("api", "the public functions, loaded at first use"),
    Room("cli", "the command line"),
)
"""From the ground up: a room imports from itself and from those above it in this table, never from those below."""

MEASURING = (*HEAVY, "pytest_benchmark", *(f"bitzones.{room.name}" for room in ROOMS if room.measures))
"""What can be imported only where the measure extra is installed."""


@dataclass(frozen=True)
class Use:
    """One import, or one mention of ``torch.cuda``."""

    name: str
    line: int
    at_top: bool


def within(name: str, places: Iterable[str]) -> bool:
    """Whether a dotted name is one of the places or inside one."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def absolute(node: ast.ImportFrom, module: str) -> str:
    """The module that ``from ... import`` names; ``from . import x`` is resolved against the package it stands in."""
    if not node.level:
        return node.module or ""
    package = module.removesuffix(".__init__").split(".")
    keep = len(package) - node.level + module.endswith(".__init__")
    return ".".join([*package[:keep], *([node.module] if node.module else [])])


def uses(module: str, source: str) -> Iterator[Use]:
    """Everything that a module imports, wherever it does, and every mention of ``torch.cuda``; what is for type checkers only is not."""

    def visit(node: ast.AST, at_top: bool) -> Iterator[Use]:
        line = getattr(node, "lineno", 0)
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                return
            case ast.Import():
                yield from (Use(alias.name, line, at_top) for alias in node.names)
            case ast.ImportFrom():
                origin = absolute(node, module)
                yield from (Use(f"{origin}.{alias.name}", line, at_top) for alias in node.names)
            case ast.Attribute(value=ast.Name(id="torch"), attr="cuda"):
                yield Use("torch.cuda", line, at_top)
        inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_top and not inside)

    return visit(ast.parse(source), True)


def modules_of(root: Path, package: str = "bitzones") -> Tree:
    """Every module of a package that lies in a folder."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts): path.read_text(encoding="utf-8")
        for path in sorted((root / package).rglob("*.py"))
    }


def module_named(name: str, tree: Tree) -> str | None:
    """The module of the tree in which an imported name lives: the name's own, or the one that holds it."""
    for candidate in (name, name.rpartition(".")[0]):
        for module in (candidate, f"{candidate}.__init__"):
            if module in tree:
                return module
    return None


def loading(tree: Tree, heavy: tuple[str, ...] = HEAVY) -> frozenset[str]:
    """Modules whose import loads a heavy package, directly or through others."""
    direct: set[str] = set()
    importers: dict[str, set[str]] = {}
    for module, source in tree.items():
        for use in uses(module, source):
            if not use.at_top:
                continue
            if within(use.name, heavy):
                direct.add(module)
            elif (target := module_named(use.name, tree)) is not None:
                importers.setdefault(target, set()).add(module)
    found, waiting = set(direct), list(direct)
    while waiting:
        fresh = importers.get(waiting.pop(), set()) - found
        found |= fresh
        waiting += fresh
    return frozenset(found)
