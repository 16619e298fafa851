"""The house's rules, read from the source: rooms import downward only, and only the measuring rooms load torch.

The rooms are one table (`imports.ROOMS`), the other rules a second one here. A tree is a dict from module name to source, so that a rule
can be shown to fail on a house of two rooms.
"""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from imports import HEAVY, ROOMS, Tree, loading, modules_of, uses, within

SOURCE = Path(__file__).parents[1] / "src"
ORDER = {f"bitzones.{room.name}": number for number, room in enumerate(ROOMS)}
LIGHT = tuple(f"bitzones.{room.name}" for room in ROOMS if not room.measures)


QUANTO_ITSELF = ("bitzones.backends.quanto", "bitzones.run.release")
"""Its folder, and the measurement of quanto's own releases, which calls what every release has and no backend could."""


@dataclass(frozen=True)
class Rule:
    """``modules`` (all, but for ``except_for``) never import ``never``, anywhere; or, where ``at_top`` is set, not outside a function."""

    why: str
    modules: tuple[str, ...]
    never: tuple[str, ...]
    except_for: tuple[str, ...] = ()
    at_top: bool = False


RULES = (
    Rule("the package itself imports nothing heavy", ("bitzones.__init__",), (*HEAVY, "bitzones"), at_top=True),
    Rule("one backend knows quanto", ("bitzones",), ("optimum",), except_for=("bitzones.backends.quanto",)),
    Rule("quanto is reached through the protocol", ("bitzones",), ("bitzones.backends.quanto",), except_for=QUANTO_ITSELF),
    Rule("one module knows mlx", ("bitzones",), ("mlx", "mlx_lm"), except_for=("bitzones.deploy.mlx_engine",)),
    Rule("one module knows GPTQModel", ("bitzones",), ("gptqmodel",), except_for=("bitzones.deploy.gptqmodel_engine",)),
    Rule("the backend's folder knows libgguf", ("bitzones",), ("libgguf",), except_for=("bitzones.backends.gguf",)),
    Rule("one module knows Ray", ("bitzones",), ("ray",), except_for=("bitzones.run.ray_sweep",)),
    Rule("one module knows CUDA", ("bitzones",), ("torch.cuda",), except_for=("bitzones.devices.device",)),
    Rule("one module knows NVML", ("bitzones",), ("pynvml",), except_for=("bitzones.devices.nvml",)),
)


def room_of(module: str) -> str | None:
    """The room that a module stands in; None for what stands beside the rooms."""
    return next((room for room in ORDER if within(module, (room,))), None)


def upward(tree: Tree) -> list[str]:
    """Every import from a lower room of a higher one, wherever in a module it stands."""
    return [
        f"{module}:{use.line} uses {use.name}, which is built on {room.removeprefix('bitzones.')}"
        for module, source in tree.items()
        if (room := room_of(module)) is not None
        for use in uses(module, source)
        if (used := room_of(use.name)) is not None and ORDER[used] > ORDER[room]
    ]


def loads_torch(tree: Tree) -> list[str]:
    """Modules of the rooms without torch whose import loads it all the same, directly or through others."""
    return sorted(module for module in loading(tree) if within(module, LIGHT))


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
            lazy = "__getattr__" in bound  # PEP 562: what it gives is no name of the module
            problems += [f"{module}.__all__ names {name}, which is not there" for name in listed if name not in bound and not lazy]
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
    return modules_of(SOURCE)


def test_rooms_import_downward_only(house: Tree) -> None:
    assert upward(house) == []


def test_rooms_without_torch_load_none(house: Tree) -> None:
    assert loads_torch(house) == []


def test_the_house_keeps_its_rules(house: Tree) -> None:
    assert broken(house) == []


def test_the_table_names_every_room_and_no_other(house: Tree) -> None:
    folders = {module.split(".")[1] for module in house if module.count(".") > 1}
    assert folders - {"embedded"} == {room.name for room in ROOMS}, "embedded holds data; every other folder is a room of the table"


def test_no_module_name_recurs(house: Tree) -> None:
    """Whoever reads a name in a traceback or a search knows which file is meant."""
    names = Counter(module.rpartition(".")[2] for module in house)
    assert [name for name, count in names.items() if count > 1 and not name.startswith("__")] == []


def test_every_rule_is_about_something_real(house: Tree) -> None:
    """A rule for a module that was renamed would hold forever."""
    places = {place for rule in RULES for place in (*rule.modules, *rule.except_for)}
    gone = [place for place in sorted(places) if not any(within(module, (place,)) for module in house)]
    assert gone == [], f"rules name modules that are not there: {gone}"


def test_every_module_says_why_it_exists(house: Tree) -> None:
    assert undocumented(house) == []


def test_all_lists_are_true(house: Tree) -> None:
    assert untrue_all(house) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("bitzones.schema.record", "from bitzones.stats import intervals"),
        ("bitzones.stats.intervals", "def f():\n    from bitzones.analysis import zones"),
        ("bitzones.analysis.zones", "from bitzones import report"),
        ("bitzones.analysis.__init__", "from ..report import writer"),
        ("bitzones.models.loading", "from bitzones.run.session import Session"),
        ("bitzones.search.goals", "import bitzones.analysis.zones"),
        ("bitzones.run.session", "from bitzones.cli import main"),
    ],
)
def test_an_import_from_a_higher_room_is_found(module: str, source: str) -> None:
    assert [line.partition(":")[0] for line in upward({module: source})] == [module]


def test_an_import_from_a_lower_room_passes() -> None:
    assert upward({"bitzones.report.page": "from bitzones.analysis.zones import Zone\nfrom . import tables\nimport torchlike"}) == []


def test_torch_is_found_through_other_modules() -> None:
    tree = {
        "bitzones.schema.plain": "def f():\n    import torch",
        "bitzones.search.goals": "from bitzones.search import bench",
        "bitzones.search.bench": "from torch import nn",
        "bitzones.analysis.zones": "from bitzones.search.goals import goal",
        "bitzones.report.words": "from bitzones.analysis import zones",
        "bitzones.report.late": "def f():\n    from bitzones.analysis import zones",
    }
    assert loads_torch(tree) == ["bitzones.analysis.zones", "bitzones.report.words"]


@pytest.mark.parametrize(
    ("module", "source", "why"),
    [
        ("bitzones.__init__", "from .schema.cells import Cell", "the package itself imports nothing heavy"),
        ("bitzones.models.loading", "from optimum import quanto", "one backend knows quanto"),
        ("bitzones.profiling.latency", "import torch\ndef f():\n    torch.cuda.synchronize()", "one module knows CUDA"),
        ("bitzones.profiling.latency", "from torch import cuda", "one module knows CUDA"),
        ("bitzones.profiling.latency", "from torch.cuda import Event", "one module knows CUDA"),
        ("bitzones.profiling.latency", "import pynvml", "one module knows NVML"),
        ("bitzones.deploy.verify", "from bitzones.backends.quanto import saving", "quanto is reached through the protocol"),
        ("bitzones.deploy.targets", "def f():\n    import mlx.core as mx", "one module knows mlx"),
        ("bitzones.deploy.gptq_checkpoint", "from gptqmodel import GPTQModel", "one module knows GPTQModel"),
        ("bitzones.deploy.gguf_file", "def f():\n    import libgguf", "the backend's folder knows libgguf"),
        ("bitzones.run.session", "def f():\n    import ray", "one module knows Ray"),
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
        ("bitzones.backends.quanto.quantizers", "from optimum.quanto import quantize"),
        ("bitzones.devices.device", "import torch\nx = torch.cuda.is_available()"),
        ("bitzones.stats.intervals", "import torchlike\nimport numpy"),
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
    "start", ["import bitzones", "import sys; sys.argv = ['bitzones', '--help']; from bitzones.cli.main import main; main()"]
)
def test_starting_imports_no_torch(start: str) -> None:
    """Seen from outside, in a fresh interpreter: whatever the table overlooks shows here."""
    report = f"import atexit, sys; atexit.register(lambda: print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])); {start}"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("HEAVY []"), done.stdout[-200:]


def test_help_answers_at_once() -> None:
    """Under 0.3 s. Processor time, the best of five: a busy machine must not fail this, and starting up waits for little else."""
    command = [sys.executable, "-c", "import sys; sys.argv = ['bitzones', '--help']; from bitzones.cli.main import main; main()"]
    took = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, timeout=60, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(took) < 0.3, f"bitzones --help took {min(took):.2f} s of processor time at best"
