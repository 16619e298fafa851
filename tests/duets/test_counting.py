"""Instructions of two sides, counted by whatever counts here. Sides are checkouts whose bitzones only burns a known number of steps."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import make_run
import pytest

from bitzones.duets import counting, instruction_counters
from bitzones.duets.instruction_counters import Callgrind, Perf
from bitzones.duets.sides import Side, side
from bitzones.duets.watch import DuetWatch
from bitzones.regression.compare import compare
from bitzones.regression.duet_changes import side_run
from bitzones.schema.errors import DuetError, MeasureError, NotMeasuredError

PACKAGE = """
class Compared:
    def to_markdown(self):
        return "x" * {steps}

def analyze(run):
    {broken}
    return sum(range({steps}))

def write_report(run, folder):
    return sum(range({steps}))

def compare(old, new):
    assert old != new
    return Compared()
"""


def checkout(folder: Path, steps: int, broken: str = "pass") -> Side:
    package = folder / "src" / "bitzones"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(PACKAGE.format(steps=steps, broken=broken), encoding="utf-8")
    return side(str(folder), "OLD")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITZONES_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run.json"
    path.write_text("{}", encoding="utf-8")
    return path


def needs_counter(folder: Path) -> None:
    try:
        instruction_counters.instruction_counter(folder)
    except NotMeasuredError as error:
        pytest.skip(str(error))


def test_more_work_is_worse_and_the_same_is_the_same(tmp_path: Path, run: Path) -> None:
    needs_counter(tmp_path)
    sides = checkout(tmp_path / "old", 20_000), checkout(tmp_path / "new", 40_000)
    said: list[str] = []
    found = counting.count(sides, run, make_run.profile(), 120, DuetWatch(say=said.append))
    cells = {cell.work: cell for cell in found.new.cells}  # type: ignore[union-attr]
    verdicts = {cell.detail: cell.status for cell in compare(side_run(found, found.old), side_run(found, found.new), found.gate).cells}
    assert verdicts["collect"] == verdicts["report"] == "worse"
    assert len(cells["collect"].counts) == 2  # seen, and repeated by new processes
    assert said[-1].startswith("again, by new processes: collect, report")
    assert (found.way, found.cells, found.stopped) == ("counted", (), "")


def test_a_side_that_fails_is_one_line(tmp_path: Path, run: Path) -> None:
    needs_counter(tmp_path)
    sides = checkout(tmp_path / "old", 10), checkout(tmp_path / "new", 10, "raise ValueError('cannot read this')")
    with pytest.raises(DuetError, match="NEW: its process ended with exit code 1: ValueError: cannot read this"):
        counting.count(sides, run, make_run.profile(), 120, DuetWatch())


def test_a_machine_without_counters_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(NotMeasuredError, match="instructions cannot be counted here: there is no perf; there is no valgrind"):
        instruction_counters.instruction_counter(tmp_path)


@pytest.mark.parametrize(
    ("csv", "count"),
    [("# started\n\n633515999,,instructions:u,14226724,100.00,,\n", 633515999), ("<not supported>,,instructions:u,0,100.00,,\n", None)],
)
def test_what_perf_writes(tmp_path: Path, csv: str, count: int | None) -> None:
    (tmp_path / "perf.csv").write_text(csv, encoding="ascii")
    if count is None:
        with pytest.raises(MeasureError, match="perf counted nothing: <not supported>"):
            Perf().counts(tmp_path, ["collect"])
    else:
        assert Perf().counts(tmp_path, ["collect"]) == {"collect": count}


def test_what_callgrind_writes(tmp_path: Path) -> None:
    for number, (work, count) in enumerate({"collect": 633, "compare": 103}.items(), 1):
        part = tmp_path / f"callgrind.out.{number}"
        part.write_text(
            f"version: 1\npart: {number}\ndesc: Trigger: Client Request: {work}\nevents: Ir\ntotals: {count}\n", encoding="utf-8"
        )
    counter = Callgrind(tmp_path / "switches.so")
    assert counter.counts(tmp_path, ["compare", "collect"]) == {"compare": 103, "collect": 633}
    with pytest.raises(MeasureError, match="callgrind counted nothing of report"):
        counter.counts(tmp_path, ["collect", "report"])


def committed(folder: Path) -> str:
    """A repository of one commit with a bitzones in it; its hash."""
    checkout(folder, 1)
    (folder / "profiles").mkdir()
    (folder / "bench").mkdir()
    for name in ("profiles", "bench"):
        (folder / name / "kept").touch()
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for step in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *step], check=True, timeout=60)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def test_a_commit_is_a_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    folder = tmp_path / "repository"
    commit = committed(folder)
    (folder / "src" / "bitzones" / "__init__.py").write_text("changed = True\n", encoding="utf-8")
    monkeypatch.chdir(folder / "src")
    found = side("git:HEAD", "OLD")
    text = (Path(found.source) / "bitzones" / "__init__.py").read_text(encoding="utf-8")
    assert (found.whose, "changed" in text, commit in found.source.replace("-", "")) == ("own", False, True)
    with pytest.raises(DuetError, match="OLD: git:v9: no commit of a bitzones repository here"):
        side("git:v9", "OLD")
