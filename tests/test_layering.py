"""The house's rules, read from the source: data flows one way, and only the measuring side knows torch.

The rules are one table. A tree is a dict from module name to source, so that a rule can be shown to fail on a house of two rooms.
"""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src"
PLANNED = {"bitzones.__main__"}
"""Places that a rule may name before they are built."""
TORCH = ("torch", "transformers", "optimum", "accelerate", "datasets", "safetensors", "tokenizers")
SHARED = (
    "bitzones.schema.records",
    "bitzones.schema.errors",
    "bitzones.stats",
    "bitzones.schema.profile",
    "bitzones.schema.environment",
    "bitzones.schema.files",
)
DECIDING = ("bitzones.decide", "bitzones.show")
MEASURING = ("bitzones.measure", "bitzones.deploy")
SEARCHING = ("bitzones.search.goals", "bitzones.allocation.baselines", "bitzones.search.local_search", "bitzones.search.held_out")
QUANTO = (
    "bitzones.backends.quanto.quantizers",
    "bitzones.backends.quanto.extensions",
    "bitzones.backends.quanto.compat",
    "bitzones.backends.quanto.kernel_probe",
)
COMMANDS = ("bitzones.cli", "bitzones.cli.regression", "bitzones.doctor", "bitzones.__main__")

Tree = dict[str, str]


@dataclass(frozen=True)
class Rule:
    """``modules`` (all, but for ``except_for``) never import ``never``: nowhere, or, where ``at_top`` is set, not outside a function."""

    why: str
    modules: tuple[str, ...]
    never: tuple[str, ...]
    except_for: tuple[str, ...] = ()
    at_top: bool = False


RULES = (
    Rule("the shared words know nobody", SHARED, (*TORCH, *DECIDING, *MEASURING, "bitzones.cli")),
    Rule("the deciding side reads the JSON and nothing else", DECIDING, (*TORCH, *MEASURING, "bitzones.cli")),
    Rule("decide does not know how it is shown", ("bitzones.decide",), ("bitzones.show",)),
    Rule(
        "measuring does not know what is decided",
        ("bitzones.measure",),
        (*DECIDING, "bitzones.deploy", "bitzones.cli"),
        except_for=SEARCHING,
    ),
    Rule(
        "a search asks the planner, and nobody else who decides",
        SEARCHING,
        (*(f"bitzones.decide.{name}" for name in ("collect", "zones", "analysis", "sensitivity", "plan")), "bitzones.show"),
    ),
    Rule("deploying needs a plan, not a report", ("bitzones.deploy",), ("bitzones.show", "bitzones.cli")),
    Rule("the command line imports no torch", COMMANDS, TORCH),
    Rule("the command line measures only when asked to", COMMANDS, MEASURING, at_top=True),
    Rule("generators are plain Python", ("bitzones.embedded",), (*TORCH, *DECIDING, *MEASURING, "bitzones.cli")),
    Rule("the package itself imports nothing heavy", ("bitzones.__init__",), (*TORCH, "bitzones")),
    Rule(
        "one module knows quanto",
        ("bitzones",),
        ("optimum",),
        except_for=QUANTO,
    ),
    Rule("one module knows CUDA", ("bitzones",), ("torch.cuda",), except_for=("bitzones.devices.device",)),
    Rule("one module knows NVML", ("bitzones",), ("pynvml",), except_for=("bitzones.devices.nvml",)),
)


@dataclass(frozen=True)
class Use:
    """One import, or one mention of ``torch.cuda``."""

    name: str
    line: int
    at_top: bool


def within(name: str, places: tuple[str, ...]) -> bool:
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
    """Everything that a module imports, wherever it does, and every mention of ``torch.cuda``."""

    def visit(node: ast.AST, at_top: bool) -> Iterator[Use]:
        line = getattr(node, "lineno", 0)
        match node:
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


def broken(tree: Tree) -> list[str]:
    """Every breach of every rule, as one line each."""
    return [
        f"{module}:{use.line} uses {use.name}: {rule.why}"
        for module, source in tree.items()
        for use in uses(module, source)
        for rule in RULES
        if within(module, rule.modules) and not within(module, rule.except_for) and within(use.name, rule.never)
        if use.at_top or not rule.at_top
    ]


def undocumented(tree: Tree) -> list[str]:
    """Modules that do not say why they exist."""
    return [module for module, source in tree.items() if not ast.get_docstring(ast.parse(source))]


def untrue_all(tree: Tree) -> list[str]:
    """Where ``__all__`` is missing, names what is not there, or keeps a public class or function to itself."""
    problems = []
    for module, source in tree.items():
        bound, public, listed = names(ast.parse(source))
        if listed is None:
            problems += [f"{module} has no __all__"] if public else []
        else:
            problems += [f"{module}.__all__ names {name}, which is not there" for name in listed if name not in bound]
            problems += [f"{module}.__all__ lacks {name}" for name in sorted(public - set(listed))]
    return problems


def names(body: ast.Module) -> tuple[set[str], set[str], list[str] | None]:
    """Names bound at a module's top, its own public classes and functions, and its ``__all__`` (None where it has none)."""
    bound: set[str] = set()
    public: set[str] = set()
    listed: list[str] | None = None
    for node in body.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                bound.add(name)
                public |= {name} if not (name.startswith("_") or is_registered(node)) else set()
            case ast.Import() | ast.ImportFrom():
                bound |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
            case ast.Assign(targets=[ast.Name(id="__all__")]):
                listed = ast.literal_eval(node.value)
            case ast.Assign(targets=targets):
                bound |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                bound.add(name)
    return bound, public, listed


def is_registered(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """Whether a framework finds it by itself: a command, a fixture, a hook of pytest."""
    makers = [ast.unparse(decorator) for decorator in node.decorator_list]
    return node.name.startswith("pytest_") or any(maker.startswith(("app.", "pytest.fixture")) for maker in makers)


@pytest.fixture(scope="module")
def house() -> Tree:
    """The real source."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").units): path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "bitzones").rglob("*.py"))
    }


def test_the_house_keeps_its_rules(house: Tree) -> None:
    assert broken(house) == []


def test_every_rule_is_about_something_real(house: Tree) -> None:
    """A rule for a room that was renamed would hold forever."""
    places = {place for rule in RULES for place in (*rule.modules, *rule.except_for)} - PLANNED
    gone = [place for place in sorted(places) if not any(within(module, (place,)) for module in house)]
    assert gone == [], f"rules name modules that are not there: {gone}"


def test_every_module_says_why_it_exists(house: Tree) -> None:
    assert undocumented(house) == []


def test_all_lists_are_true(house: Tree) -> None:
    assert untrue_all(house) == []


@pytest.mark.parametrize(
    ("module", "source", "why"),
    [
        ("bitzones.schema.records", "import torch", "the shared words know nobody"),
        ("bitzones.stats", "def f():\n    from transformers import x", "the shared words know nobody"),
        ("bitzones.schema.profile", "from bitzones.decide import zones", "the shared words know nobody"),
        ("bitzones.analysis.zones", "import torch.nn as nn", "the deciding side reads the JSON and nothing else"),
        ("bitzones.analysis.zones", "from bitzones import measure", "the deciding side reads the JSON and nothing else"),
        ("bitzones.analysis.zones", "from ..measure import models", "the deciding side reads the JSON and nothing else"),
        ("bitzones.decide", "from bitzones.report.markdown.tables import grid", "decide does not know how it is shown"),
        ("bitzones.decide.__init__", "from ..show import tables", "decide does not know how it is shown"),
        ("bitzones.show.html", "from optimum.quanto import qint4", "one module knows quanto"),
        ("bitzones.profiling.memory", "from bitzones.decide import collect", "measuring does not know what is decided"),
        ("bitzones.run.session", "from bitzones.decide import planner", "measuring does not know what is decided"),
        ("bitzones.search.local_search", "from bitzones.decide import zones", "a search asks the planner, and nobody else who decides"),
        ("bitzones.export.quanto_checkpoint", "import bitzones.show.html", "deploying needs a plan, not a report"),
        ("bitzones.cli", "def run():\n    import torch", "the command line imports no torch"),
        ("bitzones.cli", "from bitzones.measure import device", "the command line measures only when asked to"),
        ("bitzones.cli", "class A:\n    import bitzones.devices.device", "the command line measures only when asked to"),
        ("bitzones.embedded.science_mini", "import torch", "generators are plain Python"),
        ("bitzones.__init__", "from .records import Cell", "the package itself imports nothing heavy"),
        ("bitzones.models.loading", "from optimum import quanto", "one module knows quanto"),
        ("bitzones.profiling.latency", "import torch\ndef f():\n    torch.cuda.synchronize()", "one module knows CUDA"),
        ("bitzones.profiling.latency", "from torch import cuda", "one module knows CUDA"),
        ("bitzones.profiling.latency", "from torch.cuda import Event", "one module knows CUDA"),
        ("bitzones.profiling.latency", "import pynvml", "one module knows NVML"),
    ],
)
def test_a_broken_rule_is_found(module: str, source: str, why: str) -> None:
    found = broken({module: source})
    assert any(line.startswith(f"{module}:") and line.endswith(why) for line in found), f"{source!r} in {module} passed: {found}"


def test_every_rule_was_broken_above() -> None:
    shown = {case[2] for case in test_a_broken_rule_is_found.pytestmark[0].args[1]}
    assert shown == {rule.why for rule in RULES}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("bitzones.cli", "def run():\n    from bitzones.measure import device"),
        ("bitzones.cli", "from bitzones.decide import collect\nfrom bitzones.show import summary"),
        ("bitzones.report.markdown.summary", "from bitzones.analysis.zones import Zone"),
        ("bitzones.backends.quanto.quantizers", "from optimum.quanto import quantize"),
        ("bitzones.devices.device", "import torch\nx = torch.cuda.is_available()"),
        ("bitzones.export.quanto_checkpoint", "from bitzones.measure import models, quantizers"),
        ("bitzones.search.local_search", "from bitzones.allocation.knapsack import solve"),
        ("bitzones.stats", "import torchlike\nimport numpy"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert broken({module: source}) == []


def test_a_module_without_a_docstring_is_found() -> None:
    assert undocumented({"a": '"""Why."""', "b": "x = 1", "c": ""}) == ["b", "c"]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def f(): ...", "m has no __all__"),
        ("__all__ = ['f', 'g']\ndef f(): ...", "m.__all__ names g, which is not there"),
        ("__all__ = ['f']\ndef f(): ...\nclass C: ...", "m.__all__ lacks C"),
        ("__all__ = []\ndef f(): ...", "m.__all__ lacks f"),
    ],
)
def test_an_untrue_all_is_found(source: str, problem: str) -> None:
    assert untrue_all({"m": source}) == [problem]


def test_a_true_all_passes() -> None:
    source = "from os import path\nimport sys\n__all__ = ['A', 'f', 'path']\nA: int = 1\ndef f(): ...\ndef _g(): ..."
    registered = "@app.command()\ndef run(): ...\n@pytest.fixture\ndef cell(): ...\ndef pytest_configure(): ..."
    assert untrue_all({"m": source, "empty": "", "private": "def _f(): ...", "registered": registered}) == []


@pytest.mark.parametrize(
    "start", ["import bitzones", "import sys; sys.argv = ['bitzones', '--help']; from bitzones.cli import main; main()"]
)
def test_starting_imports_no_torch(start: str) -> None:
    """Seen from outside, in a fresh interpreter: whatever the table overlooks shows here."""
    report = f"import atexit, sys; atexit.register(lambda: print('HEAVY', [m for m in {TORCH!r} if m in sys.modules])); {start}"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("HEAVY []"), done.stdout[-200:]


def test_help_answers_at_once() -> None:
    """Under 0.3 s. Processor time, the best of five: a busy machine must not fail this, and starting up waits for little else."""
    command = [sys.executable, "-c", "import sys; sys.argv = ['bitzones', '--help']; from bitzones.cli import main; main()"]
    took = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, timeout=60, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(took) < 0.3, f"bitzones --help took {min(took):.2f} s of processor time at best"
