"""Every way a run file can be wrong is one line that says where; a right one gives the same analysis every time."""

from __future__ import annotations

import copy
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import make_run
import pytest
from make_run import accuracy, cells, profile, run_dict, sensitivity, write

from bitzones.decide.analysis import PROCESS_KEYS, TIME_KEYS, Analysis, repeatable
from bitzones.decide.collect import analyse, read_run
from bitzones.errors import PlanError, RunFileError
from bitzones.profile import Budget
from bitzones.records import AccuracyCell, FailedCell, SensitivityCell

GOLDEN = Path(__file__).parent / "golden"
COLUMNS = [name for name, field in AccuracyCell.model_fields.items() if str(field.annotation).startswith("tuple[")]
Data = dict[str, Any]


def refused(tmp_path: Path, data: Any) -> str:
    path = tmp_path / "run.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    with pytest.raises(RunFileError) as caught:
        analyse(read_run(path))
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def cell_of(data: Data, kind: str) -> Data:
    return next(b["extra_info"]["bitzones"] for b in data["benchmarks"] if b["extra_info"]["bitzones"]["kind"] == kind)


@pytest.fixture(scope="module")
def good() -> Data:
    return run_dict()


@pytest.fixture
def data(good: Data) -> Data:
    return copy.deepcopy(good)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON, or truncated"),
        ('{"benchmarks": [{"fulln', "not JSON, or truncated"),
        ("[1, 2]", "not written by pytest-benchmark"),
        ('{"benchmarks": 3}', "not written by pytest-benchmark"),
        ('{"machine_info": {}, "benchmarks": []}', "not by a bitzones run"),
        ('{"benchmarks": [], "bitzones": {"schema": 99}}', "schema number is 99"),
        ('{"benchmarks": [], "bitzones": 3}', "key 'bitzones'"),
        ("[" * 100_000, "not JSON"),
        ("1" * 10_000, "not JSON"),
    ],
)
def test_what_is_no_run_file(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(tmp_path, text)


def test_a_missing_file_a_folder_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "bytes.json"):
        with pytest.raises(RunFileError, match=r"cannot be read|not JSON"):
            read_run(path)


def test_a_file_cut_anywhere_is_one_line(tmp_path: Path) -> None:
    whole = json.dumps(run_dict(make_run.small()))
    for cut in range(1, len(whole), 997):
        refused(tmp_path, whole[:cut])


def nan_in_kl(data: Data) -> None:
    cell_of(data, "sensitivity")["measurements"][3]["kl_nats"][7] = math.nan


def infinite_round(data: Data) -> None:
    cell_of(data, "latency")["rounds_s"][2] = math.inf


def other_schema(data: Data) -> None:
    cell_of(data, "memory")["schema"] = 1


def unknown_kind(data: Data) -> None:
    cell_of(data, "memory")["kind"] = "energy"


def unknown_key(data: Data) -> None:
    cell_of(data, "memory")["watts"] = 3


def doubled(data: Data) -> None:
    data["benchmarks"].append(data["benchmarks"][0])


def no_cells(data: Data) -> None:
    data["benchmarks"] = []


def other_items(data: Data) -> None:
    cell_of(data, "accuracy")["item_ids"][0] = "another"


def other_task(data: Data) -> None:
    cell_of(data, "accuracy")["task_sha256"] = "x"


def other_calibration(data: Data) -> None:
    cell_of(data, "divergence")["calibration_sha256"] = "x"


def unknown_format(data: Data) -> None:
    cell_of(data, "sensitivity")["measurements"][0]["format"] = "qint3"


def part_twice(data: Data) -> None:
    cell = cell_of(data, "sensitivity")
    cell["parts"].append(cell["parts"][0])


def module_twice(data: Data) -> None:
    cell = cell_of(data, "sensitivity")
    cell["parts"][1]["modules"] = cell["parts"][0]["modules"]


def no_tokens(data: Data) -> None:
    data["benchmarks"] = [b for b in data["benchmarks"] if b["extra_info"]["bitzones"]["kind"] != "divergence"]
    cell = cell_of(data, "sensitivity")
    cell["sequence_tokens"] = [0] * len(cell["sequence_tokens"])


def no_weights(data: Data) -> None:
    for part in cell_of(data, "sensitivity")["parts"]:
        part["parameters"] = 0


def huge(data: Data) -> None:
    cell_of(data, "sensitivity")["measurements"][0]["stored_bytes"] = 10**30


def two_sweeps(data: Data) -> None:
    data["benchmarks"].append(copy.deepcopy(data["benchmarks"][-1]))
    data["benchmarks"][-1]["extra_info"]["bitzones"]["variant"] = "w8"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (nan_in_kl, r"benchmark bench/test_sensitivity\.py::test\[\d+\]: measurements\.3\.kl_nats\.7 is nan"),
        (infinite_round, r"bench/test_latency\.py.*rounds_s\.2 is inf"),
        (other_schema, r"bench/test_memory\.py.*schema number is 1"),
        (unknown_kind, r"bench/test_memory\.py.*'energy'"),
        (unknown_key, r"bench/test_memory\.py.*watts"),
        (doubled, "duplicate cells: accuracy bf16 science_mini stands twice"),
        (no_cells, "the run is empty"),
        (other_items, "task science_mini: .* asked other items"),
        (other_task, "task science_mini: .* asked other items"),
        (other_calibration, "other calibration sequences"),
        (unknown_format, "qint3.*not one of the profile's"),
        (part_twice, "a part stands twice"),
        (module_twice, "a module belongs to two parts"),
        (no_tokens, "no sequence has a scored token"),
        (no_weights, "no weights"),
        (huge, "cannot be"),
        (two_sweeps, "2 sensitivity cells"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_spoiled_cell_is_named(tmp_path: Path, data: Data, spoil: Callable[[Data], None], said: str) -> None:
    spoil(data)
    assert re.search(said, refused(tmp_path, data))


def test_without_sensitivity_there_is_one_line_with_the_reason(tmp_path: Path) -> None:
    rest = [cell for cell in cells() if not isinstance(cell, SensitivityCell)]
    assert "no sensitivity cell" in refused(tmp_path, run_dict(rest))
    failed = FailedCell(variant="bf16", of="sensitivity", reason="out of memory")
    assert "it failed: out of memory" in refused(tmp_path, run_dict([*rest, failed]))


def test_an_error_cannot_move_the_cursor(tmp_path: Path, data: Data) -> None:
    data["benchmarks"][0]["fullname"] = "a\x1b[2J\nb\ud800"
    data["benchmarks"][0]["extra_info"]["bitzones"]["tokens"] = "many"
    message = refused(tmp_path, data)
    assert "\x1b" not in message
    assert message.encode()


def test_an_infeasible_budget_names_the_range(tmp_path: Path) -> None:
    run_file = read_run(write(tmp_path, run_dict([sensitivity()], profile(budget=Budget(average_bits=2.1)))))
    with pytest.raises(PlanError, match=r"from 2\.3\d+ to 16\.000"):
        analyse(run_file)


def test_sensitivity_alone_is_enough(tmp_path: Path) -> None:
    analysis = analyse(read_run(write(tmp_path, run_dict([sensitivity()]))))
    assert analysis.zones
    assert (analysis.accuracy, analysis.latency, analysis.memory, analysis.layers, analysis.whole) == ((), (), (), (), ())
    for name in ("accuracy", "latency", "memory", "attention"):
        assert any(f"{name}" in line and "no such cell" in line for line in analysis.cannot_tell)


def test_other_benchmarks_are_counted_not_read(tmp_path: Path, data: Data) -> None:
    data["benchmarks"] += [{"fullname": "mine"}, {"fullname": "mine too", "extra_info": {"a": 1}}, 7]
    assert analyse(read_run(write(tmp_path, data))).foreign_benchmarks == 3


def test_figures_of_a_run_known_by_construction(tmp_path: Path, data: Data) -> None:
    analysis = analyse(read_run(write(tmp_path, data)))
    w2 = next(a for a in analysis.accuracy if (a.task, a.variant) == ("science_mini", "w2"))
    assert (w2.k, w2.n, w2.chance, w2.format) == (160, 500, 0.25, "qint2:hqq")
    assert w2.against is not None
    assert (w2.against.lost, w2.against.gained, w2.against.verdict.word) == (280, 0, "worse")
    assert [whole.variant for whole in analysis.whole] == ["w8", "w4", "w2"]
    assert [whole.ratio.value for whole in analysis.whole if whole.ratio] == pytest.approx([1.0, 1.2, 1.8])
    decode = next(item for item in analysis.latency if (item.phase, item.variant) == ("decode", "w4"))
    assert decode.ratio is not None
    assert decode.ratio.value == pytest.approx(1.5)
    assert decode.low_quartile_s <= decode.median_s <= decode.high_quartile_s <= decode.p95_s
    assert analysis.memory[0].process["device_used"].value is None
    assert analysis.memory[0].share_of_reference == 1.0


def test_pairs_go_by_item_not_by_place(tmp_path: Path) -> None:
    one, other = accuracy("science_mini", "bf16", 300), accuracy("science_mini", "w8", 300)
    turned = {key: getattr(other, key)[::-1] for key in COLUMNS}
    found = analyse(
        read_run(write(tmp_path, run_dict([one, AccuracyCell(**{**other.model_dump(by_alias=True), **turned}), sensitivity()])))
    )
    against = found.accuracy[1].against
    assert against is not None
    assert (against.lost, against.gained) == (0, 0)


def test_a_reference_at_zero_can_lose_nothing(tmp_path: Path) -> None:
    found = [accuracy("word_problems_mini", variant, right, 60, chance=0.0) for variant, right in (("bf16", 1), ("w4", 0))]
    analysis = analyse(read_run(write(tmp_path, run_dict([*found, sensitivity()]))))
    against = analysis.accuracy[1].against
    assert against is not None
    assert (against.smallest_drop, against.verdict.word) == (None, "cannot tell")
    assert any("60 items can show no loss" in line for line in analysis.cannot_tell)


def test_few_rounds_are_said(tmp_path: Path, data: Data) -> None:
    assert not any("rounds are fewer" in line for line in analyse(read_run(write(tmp_path, data))).cannot_tell)
    cell = cell_of(data, "latency")
    cell["rounds_s"] = cell["rounds_s"][:5]
    assert any("5 rounds are fewer than 20" in line for line in analyse(read_run(write(tmp_path, data))).cannot_tell)


def test_same_file_same_analysis(tmp_path: Path, data: Data) -> None:
    path = write(tmp_path, data)
    assert analyse(read_run(path)).model_dump_json() == analyse(read_run(path)).model_dump_json()


def test_two_runs_differ_in_times_only(tmp_path: Path, data: Data) -> None:
    first = analyse(read_run(write(tmp_path, data))).model_dump(mode="json", by_alias=True)
    data["datetime"] = "2027-01-01T00:00:00"
    for benchmark in data["benchmarks"]:
        cell = benchmark["extra_info"]["bitzones"]
        if "seconds_s" in cell:
            cell["seconds_s"] *= 2
        if "rounds_s" in cell:
            cell["rounds_s"] = [value * 1.7 for value in cell["rounds_s"]]
        if "process_rss" in cell:
            cell["process_rss"]["value"] += 4096
    second = analyse(read_run(write(tmp_path, data))).model_dump(mode="json", by_alias=True)
    assert first != second
    assert repeatable(first) == repeatable(second)


def test_what_is_stripped_is_there_and_little(tmp_path: Path, data: Data) -> None:
    found = analyse(read_run(write(tmp_path, data))).model_dump(mode="json", by_alias=True)
    text = json.dumps(found)
    assert all(f'"{key}"' in text for key in TIME_KEYS | PROCESS_KEYS)
    left = json.dumps(repeatable(found))
    assert not any(f'"{key}"' in left for key in ("median_s", "seconds_s", "tokens_per_s", "measured_at", "rss"))
    assert '"stored_bytes"' in left


def test_the_schema_is_readable() -> None:
    schema = Analysis.model_json_schema()
    fields = schema["$defs"]["Paired"]["properties"]
    assert fields["lost"]["description"] == "Items that the reference has right and the variant wrong."
    assert "schema" in Analysis.model_json_schema(by_alias=True)["properties"]


def close(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(close(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(close, ours, theirs))
    return ours == theirs or (isinstance(ours, float) and math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-12))


def test_golden_analysis() -> None:
    """To change it on purpose: ``python tests/make_run.py``, and read the difference."""
    found = analyse(read_run(GOLDEN / "run.json")).model_dump(mode="json", by_alias=True)
    assert close(found, json.loads((GOLDEN / "analysis.json").read_text(encoding="utf-8")))


def test_collecting_imports_nothing_that_measures() -> None:
    code = "import sys, bitzones.decide.collect, bitzones.show.report; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "optimum", "scipy", "hypothesis"} & set(loaded)
