"""Instructions of two sides: worse only where all processes agree, and only counts of one counter on one file are compared."""

from __future__ import annotations

import make_run
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitzones.analysis.reader import RunFile
from bitzones.regression.compare import compare
from bitzones.regression.instruction_changes import instructions
from bitzones.report.regression.delta import delta, delta_lines
from bitzones.schema.instructions_cell import InstructionsCell
from bitzones.schema.profile_sections import Gate
from bitzones.schema.run_record import Run

COUNTS = st.lists(st.integers(1, 10**12), min_size=1, max_size=4).map(tuple)


def cell(*counts: int, **other: str) -> InstructionsCell:
    return InstructionsCell.model_validate({"work": "collect", "counter": "callgrind", "run_sha256": "a" * 64, "counts": counts} | other)


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ((1000,), (1050,), "same"),
        ((1000,), (1051,), "worse"),
        ((1000,), (950,), "same"),
        ((1000,), (949,), "better"),
        ((1000, 1002), (1060, 1055), "worse"),
        ((1000, 1010), (1060, 1100), "inconclusive"),  # 1060 is no 5% more than 1010
        ((1000, 1000), (1000, 1200), "inconclusive"),
        ((1000, 1200), (900, 950), "inconclusive"),
    ],
)
def test_a_change_is_one_where_all_processes_agree(old: tuple[int, ...], new: tuple[int, ...], status: str) -> None:
    found = instructions(cell(*old), cell(*new), 0.05)
    assert (found.family, found.metric.status) == (None, status)


def test_values_are_medians() -> None:
    metric = instructions(cell(1000, 1002, 1010), cell(2000, 2002), 0.05).metric
    assert (metric.old, metric.new, metric.n, metric.units, metric.unit) == (1002.0, 2001.0, 2, "processes", "instructions")


@given(COUNTS, COUNTS, st.floats(0, 1))
def test_exchanging_the_sides_never_leaves_it_worse(old: tuple[int, ...], new: tuple[int, ...], tolerance: float) -> None:
    there, back = (instructions(a, b, tolerance).metric.status for a, b in ((cell(*old), cell(*new)), (cell(*new), cell(*old))))
    assert (there, back) != ("worse", "worse")
    assert instructions(cell(*old), cell(*old[:1]), 1e12).metric.status == "same"


@pytest.mark.parametrize("other", [{"counter": "perf"}, {"run_sha256": "b" * 64}])
def test_other_counts_are_not_compared(other: dict[str, str]) -> None:
    assert instructions(cell(1000), cell(5000, **other), 0.05).metric.status == "incomparable"


def side(*counts: int) -> RunFile:
    run = Run(bitzones="1", profile=make_run.profile(), model=None, variants={}, environment=None)
    return RunFile(path="side", measured_at="2026-11-30T00:00:00", run=run, cells=(cell(*counts),))


def test_a_comparison_judges_and_words_them() -> None:
    found = compare(side(100_000_000), side(110_000_000), Gate())
    assert [(item.kind, item.detail, item.status) for item in found.cells] == [("instructions", "collect", "worse")]
    assert "100.0 M" in delta(found, 1)
    assert any("100.0 M -> 110.0 M (+10.00%)" in line for line in delta_lines(found, 1))
    assert compare(side(100_000_000), side(110_000_000), Gate(instructions=0.2)).cells[0].status == "same"
