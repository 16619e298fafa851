"""``bitzones run`` from a profile to a report, and what the user sees when it cannot."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import processes
import pytest
import tiny_models
import torch

from bitzones.analysis.results import repeatable
from bitzones.deploy.plan_file import read_plan
from bitzones.run import runner
from bitzones.schema.errors import MeasureError

REPORT = {
    "run.json",
    "pytest.log",
    "report.html",
    "summary.md",
    "overview_diagram.md",
    "technical_diagram.md",
    "analysis.json",
    "plan.json",
}
CELLS = 37
REPORT |= {"layer_map.svg", "layer_map.png", "frontier.svg", "frontier.png"}


@dataclass(frozen=True)
class Run:
    folder: Path
    done: processes.Done

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))


def bitzones(*arguments: str, folder: Path, **environment: str) -> processes.Done:
    return processes.run("bitzones", arguments, folder, environment)


def one_line(done: processes.Done, code: int = 2) -> str:
    """The only line that a user's mistake prints."""
    assert done.code == code, done.err
    lines = done.err.strip().splitlines()
    said = [line for line in lines if line.startswith("bitzones: ")]
    assert len(said) == 1, done.err
    assert lines[-1] == said[0]
    assert "Traceback" not in done.err + done.out
    return said[0]


SMALL = {
    "tasks": '[[tasks]]\nname = "science_mini"\nlimit = 4\n[[tasks]]\nname = "word_problems_mini"\nlimit = 4',
    "sensitivity": "[sensitivity]\ntokens = 900\nbatch = 8",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runner")
    tiny_models.save(folder / "model")
    (folder / "good.toml").write_text(tiny_models.profile_text(str(folder / "model"), **SMALL), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def good(place: Path) -> Run:
    return Run(place / "report", bitzones("run", "good.toml", "-o", "report", folder=place))


@pytest.fixture(scope="module")
def overflowing(place: Path) -> Run:
    """A model whose 4- and 2-bit scales overflow in one layer: the weights that do it are multiplied by zero, so the reference works."""
    model = tiny_models.llama(torch.bfloat16)
    model.get_submodule("model.layers.1.input_layernorm").weight[:2] = 0
    model.get_submodule("model.layers.1.self_attn.q_proj").weight[0, :2] = torch.tensor([3e38, -3e38])
    tiny_models.save(place / "overflowing", model)
    text = tiny_models.profile_text(str(place / "overflowing"), budget="[budget]\naverage_bits = 12.0", **SMALL)
    (place / "overflowing.toml").write_text(text, encoding="utf-8")
    return Run(place / "partly", bitzones("run", "overflowing.toml", "-o", "partly", folder=place))


def test_a_run_writes_the_whole_report_and_nothing_half_written(good: Run) -> None:
    assert good.done.code == 0, good.done.err
    assert {path.name for path in good.folder.iterdir()} == REPORT
    assert all(path.stat().st_size > 0 for path in good.folder.iterdir())
    assert (good.folder / "summary.md").read_text(encoding="utf-8").startswith("# bitzones: ")
    for name in ("overview_diagram.md", "technical_diagram.md"):
        assert "```mermaid" in (good.folder / name).read_text(encoding="utf-8")


def test_the_last_screen_says_what_matters_and_where_the_report_is(good: Run) -> None:
    *lines, last = good.done.out.strip().splitlines()
    assert last == "report: report/report.html"
    assert [line.split()[0].rstrip(":") for line in lines] == ["Zones", "Plan", "No", "Accuracy", "Accuracy"]
    summary = (good.folder / "summary.md").read_text(encoding="utf-8")
    assert sum(line.startswith("- ") for line in summary.splitlines()[:10]) == len(lines)


def test_the_bar_counts_cells_to_the_end(good: Run) -> None:
    cells = len(good.read("run.json")["benchmarks"])
    assert cells == CELLS
    one_each = 6  # units, layers, sensitivity, fisher, search, plans
    assert cells == 6 * 2 + 5 * 2 + 5 + 4 + one_each  # accuracy, of a baseline too, latency, memory, divergence; the plan is a variant
    assert f"{cells}/{cells}" in good.done.err


def test_the_numbers_of_the_report_are_the_measured_ones(good: Run) -> None:
    cells = [benchmark["extra_info"]["bitzones"] for benchmark in good.read("run.json")["benchmarks"]]
    correct = {(c["task"], c["variant"]): sum(c["correct"]) for c in cells if c["kind"] == "accuracy"}
    reported = [a for a in good.read("analysis.json")["accuracy"] if a["metric"] != "acc_norm"]
    assert {(a["task"], a["variant"]): a["k"] for a in reported} == correct
    (sensitivity,) = [c for c in cells if c["kind"] == "sensitivity"]
    kl = {(m["unit"], m["format"]): sum(m["kl_nats"]) for m in sensitivity["measurements"]}
    assert len(kl) == tiny_models.LAYERS * 3
    for unit in sensitivity["units"]:
        assert 0 < kl[unit["name"], "qint8"] < kl[unit["name"], "qint4"] < kl[unit["name"], "qint2:hqq"]


def test_two_runs_of_one_profile_decide_the_same(good: Run, place: Path) -> None:
    """The second by pytest and ``bitzones collect``, the two-step way, with the profile from the environment."""
    measured = processes.run(
        "pytest",
        [str(runner.bench_folder()), "--benchmark-json=again.json", "-q", "-p", "no:cacheprovider"],
        place,
        {"BITZONES_PROFILE": "good.toml"},
    )
    assert measured.code == 0, measured.out
    collected = bitzones("collect", "again.json", "-o", "again", folder=place)
    assert collected.code == 0, collected.err
    again = Run(place / "again", collected).read("analysis.json")
    assert again["profile"] == good.read("analysis.json")["profile"]
    first, second = repeatable(good.read("analysis.json")), repeatable(again)
    assert first == second
    assert first["decision"]["zones"]


def test_a_plan_made_elsewhere_is_measured_beside_the_run_s(good: Run, place: Path) -> None:
    (place / "all8.json").write_text(json.dumps({"*": "qint8"}), encoding="utf-8")
    before = (good.folder / "run.json").read_bytes()
    done = bitzones("verify", "report/run.json", "--plan", "all8.json", "-o", "verified", folder=place)
    assert done.code == 0, done.err
    assert (good.folder / "run.json").read_bytes() == before
    found = Run(place / "verified", done).read("analysis.json")
    plans = {item["name"]: item for item in found["plans"]["plans"]}
    assert plans["all8"]["origin"] == "foreign"
    assert plans["all8"]["measured"]["value"] == pytest.approx(plans["uniform qint8"]["measured"]["value"], rel=1e-9)
    answered = {(item["task"], item["metric"], item["variant"]): item["k"] for item in found["accuracy"]}
    assert all(answered[task, metric, "all8"] == answered[task, metric, "w8"] for task, metric, variant in answered if variant == "w8")
    assert "all8" in (place / "verified" / "summary.md").read_text(encoding="utf-8")
    again = bitzones("verify", "verified/run.json", "--plan", "all8.json", "-o", "verified", folder=place)
    assert "the run has a plan or variant named 'all8' already; rename the file" in one_line(again)


def test_failed_cells_are_named_and_the_report_is_written_all_the_same(overflowing: Run) -> None:
    assert overflowing.done.code == 1, overflowing.done.err
    assert {path.name for path in overflowing.folder.iterdir()} == {*REPORT, "journal.jsonl"}  # with --resume the others are tried again
    assert "7 cells failed: the report names them" in " ".join(overflowing.done.err.split())
    cells = [benchmark["extra_info"]["bitzones"] for benchmark in overflowing.read("run.json")["benchmarks"]]
    failed = {(c["of"], c["variant"], c["detail"]) for c in cells if c["kind"] == "failed"}
    tasks = ("science_mini", "word_problems_mini")
    whole = {(of, v, d) for v in ("w4", "w2") for of, d in [("divergence", ""), *(("accuracy", task) for task in tasks)]}
    assert failed == {*whole, ("fisher", "bf16", "")}
    assert len(cells) == CELLS
    summary = (overflowing.folder / "summary.md").read_text(encoding="utf-8")
    assert "the log-likelihood of an answer is NaN or infinite" in summary


def test_a_unit_that_cannot_be_measured_is_said_and_the_others_are_measured(overflowing: Run) -> None:
    cells = [benchmark["extra_info"]["bitzones"] for benchmark in overflowing.read("run.json")["benchmarks"]]
    (sensitivity,) = [c for c in cells if c["kind"] == "sensitivity"]
    failed = {(m["unit"], m["format"]) for m in sensitivity["measurements"] if m["failure"]}
    assert failed == {("model.layers.1", "qint4"), ("model.layers.1", "qint2:hqq")}
    assert all(m["kl_nats"] is None for m in sensitivity["measurements"] if m["failure"])


# --- what ends a run before its end


def started(place: Path, report: str, *more: str) -> processes.Running:
    return processes.start("bitzones", ["run", "good.toml", "-o", report, *more], place)


def cells_reached(running: processes.Running, journal: Path, cells: int) -> None:
    """Wait until so many cells are finished; a journal has one line more."""
    while running.process.is_alive():
        if journal.is_file() and journal.read_bytes().count(b"\n") > cells:
            return
        time.sleep(0.01)
    raise AssertionError(f"it ended before {cells} cells were finished: {running.ended()}")


# An interrupt between two lines leaves a frame without a line number, on which pytest's own traceback fails; seen once.
@pytest.mark.flaky(reruns=2, only_rerun="NoneType")
def test_a_run_that_is_killed_and_interrupted_and_resumed_gives_what_one_gives_that_is_not(good: Run, place: Path) -> None:
    folder, journal = place / "killed", place / "killed" / "journal.jsonl"
    shutil.rmtree(folder, ignore_errors=True)
    running = started(place, "killed", "--resume")
    cells_reached(running, journal, 3)
    second = bitzones("run", "good.toml", "-o", "killed", folder=place)
    assert f"killed: another run is writing here (process {running.process.pid})" in one_line(second)
    running.send(signal.SIGKILL)
    assert running.ended().code == -signal.SIGKILL
    assert not (folder / "run.json").exists()

    kept = journal.read_bytes()
    running = started(place, "killed", "--resume")
    cells_reached(running, journal, kept.count(b"\n") + 7)
    running.send(signal.SIGINT)
    done = running.ended()
    assert done.code == 130, done.err
    finished = journal.read_bytes().count(b"\n") - 1
    assert f"interrupted: {finished} of {CELLS} cells were finished; --resume goes on from there" in done.err
    assert "Traceback" not in done.err
    assert "# bitzones: " in (folder / "interrupted" / "summary.md").read_text(encoding="utf-8")
    assert not (folder / "run.json").exists()
    assert journal.read_bytes().startswith(kept)

    running = started(place, "killed", "--resume")
    cells_reached(running, journal, CELLS - 3)  # the sweep, the search and the plans are behind it
    running.send(signal.SIGKILL)
    running.ended()
    kept = journal.read_bytes()
    journal.write_bytes(kept[:-20])  # as if killed while it wrote
    finished = kept.count(b"\n") - 2

    done = bitzones("run", "good.toml", "-o", "killed", "--resume", folder=place)
    assert done.code == 0, done.err
    said = " ".join(done.err.split())
    assert "its last line is truncated" in said
    assert f"resuming: {finished} finished cells are taken from killed/journal.jsonl" in said
    assert {path.name for path in folder.iterdir()} == REPORT | {"interrupted"}
    resumed = Run(folder, done)
    assert repeatable(resumed.read("analysis.json")) == repeatable(good.read("analysis.json"))
    assert outline(resumed.read("run.json")) == outline(good.read("run.json"))


def outline(run: Any) -> Any:
    """A run file without its times, once it is seen that they fit one another."""
    for benchmark in run["benchmarks"]:
        cell, stats = benchmark["extra_info"]["bitzones"], benchmark["stats"]
        assert stats["min"] > 0
        assert stats["rounds"] == len(stats["data"])
        assert stats["data"] == cell.get("rounds_s", stats["data"])
        assert stats["total"] == pytest.approx(sum(stats["data"]))
    kept = ("name", "group", "params", "param", "options")
    shape = [{key: b[key] for key in kept} | {"stats": sorted(b["stats"]), "rounds": b["stats"]["rounds"]} for b in run["benchmarks"]]
    return [run["bitzones"], sorted(run), shape]


def test_cells_of_another_run_are_not_taken_up(place: Path) -> None:
    running = started(place, "other")
    journal = place / "other" / "journal.jsonl"
    cells_reached(running, journal, 1)
    running.send(signal.SIGKILL)
    running.ended()
    kept = journal.read_bytes()
    (place / "seeded.toml").write_text("seed = 7\n" + (place / "good.toml").read_text(encoding="utf-8"), encoding="utf-8")
    said = one_line(bitzones("run", "seeded.toml", "-o", "other", "--resume", folder=place))
    assert "journal.jsonl: of another run, whose cells are not mixed in: profile.seed is 0 there and 7 here; run without --resume" in said
    assert journal.read_bytes() == kept


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with little room."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_leaves_the_earlier_report_whole(place: Path, full_disk: Path) -> None:
    report = full_disk / "report"
    report.mkdir()
    earlier = {name: name * 300 for name in ("run.json", "summary.md", "analysis.json", "plan.json")}
    for name, text in earlier.items():
        (report / name).write_text(text, encoding="utf-8")
    said = one_line(bitzones("run", "good.toml", "-o", str(report), folder=place))
    assert "cannot be written: No space left on device" in said
    assert {name: (report / name).read_text(encoding="utf-8") for name in earlier} == earlier
    lines = (report / "journal.jsonl").read_bytes()
    assert lines.endswith(b"\n")
    assert lines.count(b"\n") > 1
    assert {path.name for path in report.iterdir()} == {*earlier, "journal.jsonl", "pytest.log"}


# --- mistakes


MISTAKES = [
    ("unknown", "", "no profile is named 'unknown' (there are: "),
    ("wrong.toml", "sensitivity.tokns", "wrong.toml: unknown key sensitivity.tokns; did you mean tokens?"),
    ("wrong.toml", "latency.rounds", "wrong.toml: latency.rounds = 'many'"),
]


def wrong_profile(folder: Path, key: str) -> None:
    changes = {
        "": {},
        "sensitivity.tokns": {"sensitivity": "[sensitivity]\ntokns = 5"},
        "latency.rounds": {"latency": '[latency]\nrounds = "many"'},
    }[key]
    (folder / "wrong.toml").write_text(tiny_models.profile_text("/nowhere", **changes), encoding="utf-8")


@pytest.mark.parametrize(("name", "key", "said"), MISTAKES)
def test_a_wrong_profile_is_one_line_for_bitzones(name: str, key: str, said: str, tmp_path: Path) -> None:
    wrong_profile(tmp_path, key)
    assert said in one_line(bitzones("run", name, "-o", "report", folder=tmp_path))
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(("name", "key", "said"), MISTAKES)
def test_a_wrong_profile_is_one_line_for_pytest(name: str, key: str, said: str, tmp_path: Path) -> None:
    wrong_profile(tmp_path, key)
    done = processes.run("pytest", [str(runner.bench_folder()), f"--bitzones-profile={name}"], tmp_path)
    assert done.code == 4, done.out + done.err
    (line,) = [line for line in (done.out + done.err).splitlines() if line.strip()]
    assert line.startswith("ERROR: ")
    assert said in line


def test_a_profile_in_the_environment_is_overruled_by_the_option(tmp_path: Path) -> None:
    done = processes.run("pytest", [str(runner.bench_folder()), "--bitzones-profile=unknown"], tmp_path, {"BITZONES_PROFILE": "other"})
    assert "'unknown'" in done.out + done.err
    done = processes.run("pytest", [str(runner.bench_folder())], tmp_path, {"BITZONES_PROFILE": "other"})
    assert (done.code, "'other'" in done.out + done.err) == (4, True)


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "profile.toml").write_text(tiny_models.profile_text("/nowhere/model"), encoding="utf-8")
    said = one_line(bitzones("run", "profile.toml", "-o", "report", folder=tmp_path))
    assert "'/nowhere/model' is not understood" in said
    assert {path.name for path in (tmp_path / "report").iterdir()} <= {"pytest.log"}


def test_a_file_in_place_of_the_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("mine", encoding="utf-8")
    assert "cannot be written" in one_line(bitzones("run", "tiny", "-o", "report", folder=tmp_path))
    assert (tmp_path / "report").read_text(encoding="utf-8") == "mine"


def test_benches_are_found_in_a_checkout_and_their_absence_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (runner.bench_folder() / "test_accuracy.py").is_file()
    monkeypatch.setattr(runner, "__file__", "/nowhere/bitzones/run/runner.py")
    with pytest.raises(MeasureError, match="benches are missing"):
        runner.bench_folder()


def test_a_run_by_task_adds_plans_to_the_cells_of_a_run(good: Run, place: Path) -> None:
    by_task = Run(place / "by-task", bitzones("run", "good.toml", "--by-task", "-o", "by-task", folder=place))
    assert by_task.done.code == 0, by_task.done.err
    assert {path.name for path in by_task.folder.iterdir()} == REPORT | {"plans"}
    tasks = {"science_mini", "word_problems_mini"}
    plans = {path.stem: read_plan(path).plan for path in (by_task.folder / "plans").iterdir()}
    assert {name: plan.name for name, plan in plans.items()} == {task: task for task in tasks}
    (line,) = (line for line in by_task.done.out.splitlines() if line.startswith("Plans by task: "))
    assert "one plan serves all" in line or "a plan of its own is recommended for" in line

    one, each = (
        {(cell["kind"], cell["variant"], cell.get("task")): cell for cell in (b["extra_info"]["bitzones"] for b in run["benchmarks"])}
        for run in (good.read("run.json"), by_task.read("run.json"))
    )
    assert ("slices", "bf16", None) in each.keys() - one.keys()
    assert {key[1] for key in each.keys() - one.keys()} <= {"bf16", *(f"plan:{task}" for task in tasks)}
    assert one.keys() <= each.keys(), "every cell of a run with one plan"
    by_name = {plan["name"]: plan["origin"] for plan in each["plans", "bf16", None]["plans"]}
    assert {name for name, origin in by_name.items() if origin == "slice"} <= {f"plan:{task}" for task in tasks}
    counts = {item["name"]: len(item["sensitivity"]) for item in each["slices", "bf16", None]["slices"]}
    assert all(count >= 20 for count in counts.values()), "the profile asks for fewer"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--by-domain",), "plans.by = domain: a plan for each domain needs at least two sources in [[sensitivity.text]]"),
        (("--by-task",), "plans.by = task: a plan for each task needs at least two [[tasks]]; this profile has 'science_mini' only"),
    ],
)
def test_a_profile_that_cannot_be_taken_apart_is_refused_in_one_line(place: Path, arguments: tuple[str, ...], said: str) -> None:
    text = (place / "good.toml").read_text(encoding="utf-8")
    alone = text.replace('[[tasks]]\nname = "word_problems_mini"\nlimit = 4', "")
    (place / "alone.toml").write_text(alone, encoding="utf-8")
    assert said in one_line(bitzones("run", "alone.toml", *arguments, "-o", "refused", folder=place))
    assert not (place / "refused").exists()
