"""Every change of a run has one word, and nothing that is gone or cannot be compared passes as the same."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from make_run import accuracy, latency, memory, planned, profile, run_dict, write

from bitzones.analysis.reader import read_run
from bitzones.regression.change_points import trend
from bitzones.regression.compare import compare, same_profile
from bitzones.regression.comparison import CellDelta, Comparison
from bitzones.regression.metrics import readings
from bitzones.report.regression.metric_files import metrics_files
from bitzones.schema.cells import FailedCell
from bitzones.schema.profile_sections import Gate, Zones

Data = dict[str, Any]
Cells = dict[tuple[str, str, str], CellDelta]


@pytest.fixture(scope="module")
def good() -> Data:
    return run_dict(planned(layers=6))


def compared(tmp_path: Path, old: Data, new: Data, gate: Gate | None = None) -> Comparison:
    return compare(read_run(write(tmp_path, old, "old.json")), read_run(write(tmp_path, new, "new.json")), gate or Gate())


def by_key(comparison: Comparison) -> Cells:
    return {(cell.kind, cell.variant, cell.detail): cell for cell in comparison.cells}


def cell_of(data: Data, kind: str, variant: str, **facts: Any) -> Data:
    cells = [benchmark["extra_info"]["bitzones"] for benchmark in data["benchmarks"]]
    return next(c for c in cells if (c["kind"], c["variant"]) == (kind, variant) and all(c[k] == v for k, v in facts.items()))


def changed(data: Data, change: Callable[[Data], None]) -> Data:
    other = copy.deepcopy(data)
    change(other)
    return other


def test_a_run_beside_itself_is_the_same_everywhere(tmp_path: Path, good: Data) -> None:
    found = compared(tmp_path, good, good)
    assert {cell.status for cell in found.cells if cell.kind != "latency"} == {"same"}
    assert not [cell for cell in found.cells if cell.status in {"worse", "better"}]
    assert found.moved == ()
    assert found.other_machine is None
    assert list(found.differences) == []


def slower(data: Data) -> None:
    cell = cell_of(data, "latency", "w4", phase="decode")
    cell["rounds_s"] = [value * 1.3 for value in cell["rounds_s"]]


def faster(data: Data) -> None:
    cell = cell_of(data, "latency", "w4", phase="decode")
    cell["rounds_s"] = [value / 1.3 for value in cell["rounds_s"]]


def heavier(data: Data) -> None:
    cell_of(data, "memory", "w4")["stored_bytes"] += 1


def lighter(data: Data) -> None:
    cell_of(data, "memory", "w4")["stored_bytes"] -= 1


def forgetful(data: Data) -> None:
    cell = cell_of(data, "accuracy", "w4", task="science_mini")
    right = [index for index, value in enumerate(cell["correct"]) if value]
    for index in right[:20]:
        cell["correct"][index] = False


def apart(data: Data) -> None:
    cell = cell_of(data, "divergence", "w4")
    cell["kl_nats"] = [value * 1.5 for value in cell["kl_nats"]]


def unit_apart(data: Data) -> None:
    item = next(m for m in cell_of(data, "sensitivity", "bf16")["measurements"] if (m["unit"], m["format"]) == ("layers.3", "qint4"))
    item["kl_nats"] = [value * 1.5 for value in item["kl_nats"]]


@pytest.mark.parametrize(
    ("change", "key", "status"),
    [
        (slower, ("latency", "w4", "decode-b1-p64-n16"), "worse"),
        (faster, ("latency", "w4", "decode-b1-p64-n16"), "better"),
        (heavier, ("memory", "w4", ""), "worse"),
        (lighter, ("memory", "w4", ""), "better"),
        (forgetful, ("accuracy", "w4", "science_mini"), "worse"),
        (apart, ("divergence", "w4", ""), "worse"),
        (unit_apart, ("sensitivity", "bf16", ""), "worse"),
    ],
)
def test_a_change_is_found_where_it_is_and_nowhere_else(
    tmp_path: Path, good: Data, change: Callable[[Data], None], key: tuple[str, str, str], status: str
) -> None:
    cells = by_key(compared(tmp_path, good, changed(good, change)))
    assert cells[key].status == status
    assert not [other for other, cell in cells.items() if other != key and cell.status in {"worse", "better"}]


def test_what_was_worse_is_better_the_other_way_round(tmp_path: Path, good: Data) -> None:
    bad = changed(changed(good, forgetful), apart)
    cells = by_key(compared(tmp_path, bad, good))
    assert cells["accuracy", "w4", "science_mini"].status == cells["divergence", "w4", ""].status == "better"


def test_a_tolerance_lets_pass_what_it_allows(tmp_path: Path, good: Data) -> None:
    bad = changed(changed(good, heavier), apart)
    cells = by_key(compared(tmp_path, good, bad, Gate(bytes=0.01, kl=0.6)))
    assert cells["memory", "w4", ""].status == cells["divergence", "w4", ""].status == "same"


def test_gone_failed_and_new(tmp_path: Path, good: Data) -> None:
    def lose(data: Data) -> None:
        gone = cell_of(data, "memory", "w8")
        data["benchmarks"] = [b for b in data["benchmarks"] if b["extra_info"]["bitzones"] is not gone]
        failed = FailedCell(variant="w4", of="latency", detail="decode", reason="out of memory").model_dump(mode="json")
        broken = cell_of(data, "latency", "w4", phase="decode")
        next(b for b in data["benchmarks"] if b["extra_info"]["bitzones"] is broken)["extra_info"]["bitzones"] = failed

    bad = changed(good, lose)
    cells = by_key(compared(tmp_path, good, bad))
    assert (cells["memory", "w8", ""].status, cells["latency", "w4", "decode-b1-p64-n16"].status) == ("missing", "failed")
    assert "out of memory" in cells["latency", "w4", "decode-b1-p64-n16"].reason
    back = by_key(compared(tmp_path, bad, good))
    assert back["memory", "w8", ""].status == back["latency", "w4", "decode-b1-p64-n16"].status == "new"


def test_a_renamed_benchmark_hides_nothing(tmp_path: Path, good: Data) -> None:
    def rename(data: Data) -> None:
        slower(data)
        for number, benchmark in enumerate(data["benchmarks"]):
            benchmark["fullname"] = f"renamed {number}"

    assert by_key(compared(tmp_path, good, changed(good, rename)))["latency", "w4", "decode-b1-p64-n16"].status == "worse"


@pytest.mark.parametrize("fact", ["cpu", "threads", "device_name", "quanto_extension"])
def test_times_of_another_machine_are_not_compared_but_the_rest_is(tmp_path: Path, good: Data, fact: str) -> None:
    def move(data: Data) -> None:
        data["bitzones"]["environment"][fact] = 7 if fact == "threads" else "another"
        slower(data)
        heavier(data)

    found = compared(tmp_path, good, changed(good, move))
    cells = by_key(found)
    assert found.other_machine is not None
    assert {cell.status for key, cell in cells.items() if key[0] == "latency"} == {"incomparable"}
    assert cells["memory", "w4", ""].status == "worse"
    assert cells["accuracy", "w4", "science_mini"].status == "same"


def test_other_releases_on_the_same_machine_are_compared_and_named(tmp_path: Path, good: Data) -> None:
    def release(data: Data) -> None:
        data["bitzones"]["environment"]["versions"]["torch"] = "2.14.0"
        slower(data)

    found = compared(tmp_path, good, changed(good, release))
    assert by_key(found)["latency", "w4", "decode-b1-p64-n16"].status == "worse"
    assert found.differences == ("torch: 2.13.0 -> 2.14.0",)


def test_other_sequences_other_questions_and_another_format_are_incomparable(tmp_path: Path, good: Data) -> None:
    def alter(data: Data) -> None:
        for benchmark in data["benchmarks"]:
            cell = benchmark["extra_info"]["bitzones"]
            if cell["kind"] in {"divergence", "sensitivity", "fisher", "search"}:
                cell["sequences_sha256"] = "d" * 64
            if cell["kind"] == "accuracy" and cell["task"] == "science_mini":
                cell["task_version"] = 2
        data["bitzones"]["variants"]["w8"] = "qint8:other"

    cells = by_key(compared(tmp_path, good, changed(good, alter)))
    for key in (("divergence", "w4", ""), ("sensitivity", "bf16", ""), ("accuracy", "w4", "science_mini"), ("memory", "w8", "")):
        assert cells[key].status == "incomparable", key
    assert "was qint8" in cells["memory", "w8", ""].reason


def test_a_unit_that_cannot_be_measured_any_more_fails_its_cell(tmp_path: Path, good: Data) -> None:
    small = run_dict([cell for cell in planned(layers=6) if getattr(cell, "kind", "") == "sensitivity"])

    def fail(data: Data) -> None:
        cell_of(data, "sensitivity", "bf16")["measurements"][2] |= {"kl_nats": None, "failure": "NaN"}

    assert by_key(compared(tmp_path, small, changed(small, fail)))["sensitivity", "bf16", ""].status == "failed"


def test_moved_layers_are_told(tmp_path: Path) -> None:
    small = run_dict([cell for cell in planned(layers=6) if getattr(cell, "kind", "") == "sensitivity"])

    def shift(data: Data) -> None:
        for item in cell_of(data, "sensitivity", "bf16")["measurements"]:
            if item["unit"] == "layers.3":
                item["kl_nats"] = [value * 1000 for value in item["kl_nats"]]

    found = compared(tmp_path, small, changed(small, shift))
    assert found.moved is not None
    assert (3, "SAFE") in [(item.layer, item.old) for item in found.moved]


def test_zones_are_compared_on_one_basis(tmp_path: Path, good: Data) -> None:
    """A run with a search and the same run without one: nothing that was measured moved, so no layer did."""

    def unsearched(data: Data) -> None:
        data["benchmarks"] = [b for b in data["benchmarks"] if b["extra_info"]["bitzones"]["kind"] not in {"search", "plans"}]

    found = compared(tmp_path, good, changed(good, unsearched))
    assert (found.moved, found.zones_around) == ((), "reference")


def test_a_grid_is_matched_shape_by_shape(tmp_path: Path) -> None:
    """Twice as slow at batch 4 only: compare, the trend and the exported metrics all see that shape and no other."""
    shapes = [("decode", batch, compiled) for batch in (1, 4) for compiled in (False, True)] + [
        ("prefill", 1, False),
        ("prefill", 4, False),
    ]

    def grid(slow: float) -> list[Any]:
        return [
            latency("w4", phase, slow if (phase, batch, compiled) == ("decode", 4, False) else 1.0).model_copy(
                update={"batch": batch, "tokens": batch * (16 if phase == "decode" else 64), "compiled": compiled}
            )
            for phase, batch, compiled in shapes
        ]

    paths = [write(tmp_path, run_dict(grid(slow)), f"{name}.json") for name, slow in (("old", 1.0), ("new", 2.0))]
    old, new = map(read_run, paths)
    found = compare(old, new, Gate())
    assert {str(cell.key): cell.status for cell in found.cells if cell.status == "worse"} == {"latency w4 decode-b4-p64-n16": "worse"}
    assert [(str(point.reading.cell), point.change) for point in trend([old, new]).changes] == [("latency w4 decode-b4-p64-n16", "worse")]
    names = [reading.name for reading in readings(new)]
    assert len(set(names)) == len(names) == len(shapes)
    assert len(json.loads(metrics_files(readings(new), "bencher")["bencher.json"])) == len(shapes)


def test_the_key_of_a_failed_cell_is_that_of_its_result(tmp_path: Path) -> None:
    """Also where the profile times one shape and calls it by its phase alone."""
    lost = FailedCell(variant="w8", of="latency", detail="decode", reason="out of memory")
    run = read_run(write(tmp_path, run_dict([latency("w4", "decode", 1.0), lost, memory("w4")])))
    assert [str(cell.key) for cell in run.cells] == ["latency w4 decode-b1-p64-n16", "latency w8 decode-b1-p64-n16", "memory w4"]


def test_a_run_of_the_last_release_still_compares(tmp_path: Path, good: Data) -> None:
    def age(data: Data) -> None:
        data["bitzones"]["schema"] = 2
        for benchmark in data["benchmarks"]:
            benchmark["extra_info"]["bitzones"]["schema"] = 2

    found = compared(tmp_path, changed(good, age), changed(good, heavier))
    assert by_key(found)["memory", "w4", ""].status == "worse"


def test_tolerances_do_not_make_another_profile(tmp_path: Path) -> None:
    cells = [memory("bf16"), memory("w4")]
    runs = [
        read_run(write(tmp_path, run_dict(cells, of=of), f"{number}.json"))
        for number, of in enumerate((profile(), profile(gate=Gate(time=0.5)), profile(zones=Zones(resamples=51))))
    ]
    assert same_profile(runs[0], runs[1])
    assert not same_profile(runs[0], runs[2])


def test_a_thousand_cells_are_compared_without_torch(tmp_path: Path) -> None:
    cells = []
    for number in range(100):
        cells += [memory("w4").model_copy(update={"variant": f"v{number}"}), latency("w4", "decode", 1.0)]
        cells[-1] = cells[-1].model_copy(update={"variant": f"v{number}"})
        cells += [accuracy(f"task{task}", f"v{number}", 50, items=60) for task in range(8)]
    data = run_dict(cells)
    data["bitzones"]["variants"] |= {f"v{number}": "qint4" for number in range(100)}
    files = [str(write(tmp_path, data, name)) for name in ("old.json", "new.json")]
    code = (
        "import sys; from bitzones.cli.main import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, "compare", *files], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "no regression: 1000 same"
    assert done.stdout.splitlines()[-1] == "[]"


def test_disturbed_times_are_incomparable(tmp_path: Path, good: Data) -> None:
    none = {"value": None, "unit": "bytes", "status": "unsupported"}
    figures = dict.fromkeys(("device_used_peak", "process_used_peak", "other_processes", "clocks_held_share"), none)

    def disturb(data: Data) -> None:
        slower(data)
        cell_of(data, "latency", "w4", phase="decode")["gpu"] = {**figures, "period_s": 0.1, "samples": 9, "contended": ["hot in 40% of 9"]}

    for old, new in ((good, changed(good, disturb)), (changed(good, disturb), good)):
        cell = by_key(compared(tmp_path, old, new))["latency", "w4", "decode-b1-p64-n16"]
        assert cell.status == "incomparable"
        assert "hot in 40%" in cell.reason


def test_another_shape_is_incomparable(tmp_path: Path, good: Data) -> None:
    def compile_it(data: Data) -> None:
        cell_of(data, "latency", "w4", phase="decode")["compiled"] = True

    cell = by_key(compared(tmp_path, good, changed(good, compile_it)))["latency", "w4", "decode-b1-p64-n16-compile"]
    assert (cell.status, "compiled" in cell.reason) == ("incomparable", True)


def test_a_unit_that_could_never_be_measured_fails_nothing(tmp_path: Path) -> None:
    def fail(data: Data) -> None:
        cell_of(data, "sensitivity", "bf16")["measurements"][2] |= {"kl_nats": None, "failure": "NaN"}

    small = changed(run_dict([cell for cell in planned(layers=6) if getattr(cell, "kind", "") == "sensitivity"]), fail)
    assert by_key(compared(tmp_path, small, small))["sensitivity", "bf16", ""].status == "same"
