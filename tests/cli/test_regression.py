"""The guard as a user meets it: exit codes, files, tolerances of a project, baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import altair as alt
import pytest
from make_run import hostile, latency, memory, planned, run_dict, write
from typer.testing import CliRunner

from bitzones.cli import regression
from bitzones.cli.main import app
from bitzones.regression.baseline_store import stored
from bitzones.regression.change_points import trend as decided_trend
from bitzones.regression.comparison import Comparison
from bitzones.report.charts.vega import svg
from bitzones.report.regression.trend_page import trend_chart
from bitzones.schema.errors import BitzonesError

Data = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def runs(folder: Path) -> tuple[Data, Data]:
    """Two runs of two cells, the second with more bytes and measured a day later."""
    old, new = run_dict([memory("w4"), latency("w4", "decode", 1.0)]), run_dict([memory("w4"), latency("w4", "decode", 1.0)])
    new["benchmarks"][0]["extra_info"]["bitzones"]["stored_bytes"] += 1000
    noisy = new["benchmarks"][1]["extra_info"]["bitzones"]
    noisy["rounds_s"] = [value * (1.5 if number % 2 else 0.75) for number, value in enumerate(noisy["rounds_s"])]
    new["datetime"] = "2026-11-25T06:00:00+00:00"
    write(folder, old, "old.json")
    write(folder, new, "new.json")
    return old, new


def ran(*arguments: str) -> tuple[int, str]:
    """Exit code and output, as `bitzones.cli.main` would give them."""
    done = CliRunner().invoke(app, list(arguments))
    if isinstance(done.exception, BitzonesError):
        return 2, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_exit_codes_and_files(runs: tuple[Data, Data]) -> None:
    code, said = ran("compare", "old.json", "new.json", "-o", "out/delta.md", "--json", "out/delta.json")
    assert code == 1
    assert said.splitlines()[0] == "regression: 1 worse, 1 cannot tell"
    assert "worse: memory w4: stored bytes" in said
    assert Path("out/delta.md").read_text(encoding="utf-8").startswith("## bitzones: regression\n")
    found = Comparison.model_validate_json(Path("out/delta.json").read_text(encoding="utf-8"))
    assert [cell.status for cell in found.cells] == ["worse", "inconclusive"]
    assert sorted(path.name for path in Path("out").iterdir()) == ["delta.json", "delta.md"]
    assert ran("compare", "new.json", "old.json")[0] == 0


def test_fail_on_chooses(runs: tuple[Data, Data]) -> None:
    assert ran("compare", "old.json", "new.json", "--fail-on", "missing,failed")[0] == 0
    assert ran("compare", "old.json", "new.json", "--fail-on", "none")[0] == 0
    assert ran("compare", "new.json", "old.json", "--fail-on", "inconclusive")[0] == 1
    code, said = ran("compare", "old.json", "new.json", "--fail-on", "worst")
    assert code == 2
    assert "'worst' is not one of worse, missing" in said


def test_nothing_that_can_be_compared_is_not_the_same(folder: Path, runs: tuple[Data, Data]) -> None:
    old = run_dict([latency("w4", "decode", 1.0)])
    other = run_dict([latency("w4", "decode", 1.0)])
    other["bitzones"]["environment"]["cpu"] = "Another"
    write(folder, old, "a.json")
    write(folder, other, "b.json")
    code, said = ran("compare", "a.json", "b.json")
    assert code == 2
    assert said.startswith("cannot compare: 1 incomparable")


def test_a_projects_tolerances_have_the_last_word(folder: Path, runs: tuple[Data, Data]) -> None:
    Path("pyproject.toml").write_text("[tool.bitzones.gate]\nbytes = 0.05\n", encoding="utf-8")
    assert ran("compare", "old.json", "new.json")[0] == 0
    Path("other.toml").write_text("[tool.other]\n", encoding="utf-8")
    assert ran("compare", "old.json", "new.json", "--project", "other.toml")[0] == 1
    for text, said in (("byte = 1", "unknown key; allowed: time"), ("bytes = -1", "greater than"), ("bytes", "not valid TOML")):
        Path("pyproject.toml").write_text(f"[tool.bitzones.gate]\n{text}\n", encoding="utf-8")
        code, message = ran("compare", "old.json", "new.json")
        assert code == 2
        assert said in message
    Path("pyproject.toml").write_text("[tool.bitzones]\ngate = 3\n", encoding="utf-8")
    assert "is no table" in ran("compare", "old.json", "new.json")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("old.json",), "give OLD.json and NEW.json"),
        (("old.json", "new.json", "--against", "."), "give OLD.json and NEW.json"),
        (("old.json", "old.json"), "compared with itself"),
        (("old.json", "none.json"), "cannot be read"),
        (("old.json", "--against", "nowhere"), "no such folder"),
        (("old.json", "new.json", "-o", "old.json/delta.md"), "cannot be written"),
        (("old.json", "new.json", "--project", "none.toml"), "cannot be read"),
    ],
)
def test_mistakes_are_one_line(runs: tuple[Data, Data], arguments: tuple[str, ...], said: str) -> None:
    code, message = ran("compare", *arguments)
    assert code == 2
    assert said in message


def test_baselines_are_kept_listed_and_found(folder: Path, runs: tuple[Data, Data]) -> None:
    assert ran("baseline", "save", "old.json") == (0, "kept: .benchmarks/bitzones/0001_20261124T060000.json\n")
    assert "kept already" in ran("baseline", "save", "old.json")[1]
    assert ran("baseline", "save", "new.json", "--name", "v2")[1] == "kept: .benchmarks/bitzones/0002_v2.json\n"
    assert ran("baseline", "save", "new.json", "--name", "../v2", "--storage", "other")[0] == 2
    Path(".benchmarks/broken.json").write_text('{"benchmarks": [], "bitzones": {"schema": 99}}', encoding="utf-8")
    Path(".benchmarks/foreign.json").write_text('{"benchmarks": []}', encoding="utf-8")
    listed = ran("baseline", "list")[1].splitlines()
    assert [line[:7] for line in listed] == ["broken:", "2026-11", "2026-11"]
    assert ran("baseline", "show", "new.json") == (0, ".benchmarks/bitzones/0001_20261124T060000.json\n")
    code, said = ran("compare", "new.json", "--against", ".benchmarks")
    assert code == 1
    assert said.startswith("against .benchmarks/bitzones/0001_")


def test_a_baseline_is_of_the_same_profile_model_and_machine(folder: Path, runs: tuple[Data, Data]) -> None:
    ran("baseline", "save", "old.json")
    for number, (place, value, said) in enumerate(
        [
            (("bitzones", "environment", "cpu"), "Another", "machine"),
            (("bitzones", "model", "sha256"), "n" * 64, "model"),
            (("bitzones", "profile", "seed"), 7, "profile"),
        ]
    ):
        other = json.loads(Path("new.json").read_text(encoding="utf-8"))
        inner = other
        for step in place[:-1]:
            inner = inner[step]
        inner[place[-1]] = value
        path = write(folder, other, f"{number}.json")
        code, message = ran("compare", str(path), "--against", ".benchmarks")
        assert code == 2
        assert message.endswith(f"has another {said}")


def test_the_storage_of_pytest_benchmark_is_read(folder: Path, runs: tuple[Data, Data]) -> None:
    place = folder / ".benchmarks" / "Linux-CPython-3.11-64bit"
    place.mkdir(parents=True)
    (folder / "old.json").rename(place / "0001_abc.json")
    assert ran("baseline", "show", "new.json") == (0, ".benchmarks/Linux-CPython-3.11-64bit/0001_abc.json\n")


def test_names_are_escaped_wherever_they_stand(folder: Path) -> None:
    write(folder, run_dict(planned()), "old.json")
    write(folder, hostile(), "new.json")
    code, said = ran("compare", "old.json", "new.json", "-o", "delta.md")
    text = Path("delta.md").read_text(encoding="utf-8")
    assert code == 1
    for bad in ("<script", "](http", "\x1b", "\u202e", "```", "**b**", "%%{"):
        assert bad not in text
    assert "\x1b" not in said
    assert {line.count("|") for line in text.splitlines() if line.startswith("| ")} <= {9, 4}


def test_every_command_says_what_it_does() -> None:
    for name in ("compare", "baseline", "trend", "matrix", "export-metrics"):
        assert ran(name, "--help")[0] == 0
    assert set(regression.__all__) == {"compare", "export_metrics", "list_", "matrix", "register", "save", "show", "trend"}


def test_a_trend_marks_what_compare_calls_worse(folder: Path, runs: tuple[Data, Data]) -> None:
    third = json.loads(Path("new.json").read_text(encoding="utf-8"))
    third["datetime"] = "2026-11-26T06:00:00+00:00"
    third["bitzones"]["environment"]["versions"]["torch"] = "2.14.0"
    write(folder, third, "third.json")
    found = decided_trend(item.run for item in stored(folder) if item.run is not None)
    assert [(point.run, point.reading.name, point.change) for point in found.changes] == [(1, "stored bytes w4", "worse")]
    assert found.releases == ("", "", "torch: 2.13.0 -> 2.14.0")
    code, said = ran("trend", ".", "-o", "out/trend.html")
    assert (code, said) == (0, "3 runs, 1 change points: out/trend.html\n")
    text = Path("out/trend.html").read_text(encoding="utf-8")
    assert "Did anything become worse?" in text
    assert "torch: 2.13.0" in text


def test_every_chart_of_a_trend_is_vega_lite_and_can_be_drawn(folder: Path) -> None:
    for number in range(2):
        write(folder, run_dict(planned()) | {"datetime": f"2026-11-2{number}T06:00:00+00:00"}, f"{number}.json")
    found = decided_trend(item.run for item in stored(folder) if item.run is not None)
    for unit in ("share", "nats/token", "s", "bytes"):
        chart = trend_chart(found, unit)
        alt.Chart.from_dict(chart)  # raises where the schema does not know a word of it
        assert svg(chart).startswith("<svg")


def test_a_trend_of_one_run_is_none(folder: Path) -> None:
    write(folder, run_dict([memory("w4")]), "one.json")
    assert ran("trend", ".") == (2, "a trend takes two runs or more, and there is one")


def test_metrics_for_other_tools(folder: Path) -> None:
    write(folder, run_dict(planned()), "run.json")
    assert ran("export-metrics", "run.json")[0] == 0
    smaller, bigger = (json.loads(Path(f"metrics/custom{which}IsBetter.json").read_text()) for which in ("Smaller", "Bigger"))
    assert {item["unit"] for item in bigger} == {"share"}
    assert {item["unit"] for item in smaller} == {"s", "bytes", "nats/token"}
    assert bigger[0] == {
        "name": "accuracy (acc) bf16 science_mini",
        "unit": "share",
        "value": 0.88,
        "range": "0.84858 to 0.905625",
        "extra": "n = 500",
    }
    assert ran("export-metrics", "run.json", "--format", "bencher", "-o", "b")[0] == 0
    found = json.loads(Path("b/bencher.json").read_text())
    timed = found["time w4 decode, batch 1, 16 tokens"]["latency"]
    assert timed["lower_value"] < timed["value"] < timed["upper_value"]
    assert 1e6 < timed["value"] < 1e9  # nanoseconds
    assert ran("export-metrics", "run.json", "--format", "csv")[0] == 2


def test_releases_stand_on_the_axis(folder: Path, runs: tuple[Data, Data]) -> None:
    new = json.loads(Path("new.json").read_text(encoding="utf-8"))
    new["bitzones"]["environment"]["versions"]["torch"] = "2.14.0"
    write(folder, new, "new.json")
    chart = trend_chart(decided_trend(item.run for item in stored(folder) if item.run is not None), "bytes")
    assert [row["run"] for row in chart["concat"][0]["data"]["values"]] == ["1", "2 torch 2.14.0"]
