"""Releases side by side: planted differences come out in the right words, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from make_run import NASTY, VARIANTS, accuracy, divergence, memory, profile, run_dict, sensitivity, write

from bitzones.analysis.reader import read_run
from bitzones.regression.comparison import CellDelta
from bitzones.regression.release_matrix import Matrix, matrix
from bitzones.report.regression.matrix_page import matrix_lines, matrix_page
from bitzones.schema.cells import FailedCell, ReleaseCell
from bitzones.schema.errors import RunFileError
from bitzones.schema.record import Record

QUANTIZED = tuple(variant for variant in VARIANTS if variant != "bf16")


def release(variant: str, **changes: Any) -> ReleaseCell:
    return ReleaseCell(variant=variant, **{"modules": 84, "reload": "same", **changes})


def cells(surplus: float = 1.0, right: int = 415) -> list[Record]:
    sweep = sensitivity()
    found: list[Record] = [memory(variant) for variant in VARIANTS]
    found += [accuracy("science_mini", "bf16", 440), *(accuracy("science_mini", variant, right) for variant in QUANTIZED)]
    return [*found, *(divergence(sweep, variant, surplus) for variant in QUANTIZED), *map(release, QUANTIZED)]


def judged(folder: Path, baseline: str | None = None, **runs: list[Record]) -> Matrix:
    return matrix([read_run(write(folder, run_dict(found), f"{name}.json")) for name, found in runs.items()], baseline)


def by_key(found: Matrix, name: str) -> dict[tuple[str, str], CellDelta]:
    (item,) = [item for item in found.releases if item.name == name]
    return {(cell.kind, cell.variant): cell for cell in item.compared.cells}


def replaced(found: list[Record], *new: Any) -> list[Record]:
    slots = {(getattr(cell, "of", cell.kind), cell.variant) for cell in new}
    return [*(cell for cell in found if (cell.kind, cell.variant) not in slots), *new]  # type: ignore[attr-defined]


def test_the_same_release_twice_is_the_same_in_everything(tmp_path: Path) -> None:
    found = judged(tmp_path, first=cells(), again=cells())
    assert (found.name, [item.name for item in found.releases]) == ("again", ["first"])
    assert {cell.status for cell in by_key(found, "first").values()} == {"same"}
    assert matrix_lines(found) == [
        "first: accuracy same; KL to the reference same; stored bytes same; quantized as asked, saved and loaded same"
    ]
    assert "All 25 metrics are the same." in matrix_page(found)


def test_what_a_release_makes_worse_is_said_in_its_column(tmp_path: Path) -> None:
    bad = replaced(cells(surplus=1.5, right=330), release("w8", unasked=("lm_head",)), release("w4", reload="failed", reason="KeyError: x"))
    found = judged(tmp_path, "good", good=cells(), bad=bad)
    delta = by_key(found, "bad")
    assert {delta[kind, variant].status for kind in ("accuracy", "divergence") for variant in QUANTIZED} == {"worse"}
    assert {delta["memory", variant].status for variant in VARIANTS} == {"same"}
    assert delta["accuracy", "bf16"].status == "same"
    assert (delta["release", "w8"].status, delta["release", "w4"].status, delta["release", "w2"].status) == ("worse", "worse", "same")
    assert delta["release", "w8"].reason == "quantized as asked: 84 modules asked for, lm_head quantized unasked"
    assert delta["release", "w4"].reason == "saved and loaded: failed: KeyError: x"
    page, (line,) = matrix_page(found), matrix_lines(found)
    assert "**worse**: w8, w4, w2; same: bf16" in page
    assert line.startswith("bad: accuracy worse: w8, w4, w2; same: bf16; KL to the reference worse; stored bytes same;")
    assert "| **worse** " in page
    assert "lm_head quantized unasked" in page


def test_better_is_better_and_a_few_items_cannot_be_told(tmp_path: Path) -> None:
    found = judged(tmp_path, "old", old=replaced(cells(), release("w8", reload="unsupported", reason="no class")), new=cells(0.5, 413))
    delta = by_key(found, "new")
    assert {delta["divergence", variant].status for variant in QUANTIZED} == {"better"}
    assert delta["release", "w8"].status == "better"
    assert {delta["accuracy", variant].status for variant in QUANTIZED} <= {"same", "inconclusive"}


def test_what_a_release_does_not_have_is_missing(tmp_path: Path) -> None:
    why = "this release of quanto has no HqqOptimizer"
    kinds = [("accuracy", "science_mini"), ("memory", ""), ("divergence", ""), ("release", "")]
    gone = [FailedCell(variant="w2", of=of, detail=detail, status="not measured", reason=why) for of, detail in kinds]  # type: ignore[arg-type]
    found = judged(tmp_path, now=cells(), before=replaced(cells(), *gone), baseline="now")
    delta = by_key(found, "before")
    assert {delta[kind, "w2"].status for kind, _ in kinds} == {"missing"}
    assert why in delta["release", "w2"].reason
    assert "**missing**: w2; same: bf16, w8, w4" in matrix_page(found)


def test_every_figure_of_the_baseline_has_its_interval_and_n(tmp_path: Path) -> None:
    page = matrix_page(judged(tmp_path, other=cells(), base=cells()))
    (row,) = [line for line in page.splitlines() if line.startswith("| w4")][:1]
    assert "83.0% [79.5%, 86.0%], n = 500" in row
    assert ", n = 40" in row
    assert "84 modules asked for; computes the same" in row


def test_names_of_a_run_are_escaped(tmp_path: Path) -> None:
    bad = replaced(cells(), release("w8", unasked=(NASTY,)), release("w4", reload="failed", reason=NASTY))
    found = judged(tmp_path, "good", good=cells(), bad=bad)
    assert "<script" not in matrix_page(found)
    assert "\x1b" not in "".join([matrix_page(found), *matrix_lines(found)])


def test_what_cannot_stand_side_by_side_is_one_line(tmp_path: Path) -> None:
    run = read_run(write(tmp_path, run_dict(cells())))
    with pytest.raises(RunFileError, match="1 run files of 1 names: give two or more"):
        matrix([run])
    with pytest.raises(RunFileError, match="2 run files of 1 names"):
        matrix([run, run])
    with pytest.raises(RunFileError, match=r"no run file is named 'that', as the baseline \(there are: a, b\)"):
        judged(tmp_path, "that", a=cells(), b=cells())
    other = read_run(write(tmp_path, run_dict(cells(), profile(seed=7)), "other.json"))
    with pytest.raises(RunFileError, match=r"its profile is another than that of .*run.json"):
        matrix([other, run])
