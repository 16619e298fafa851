"""A terminal shows what the page shows: in color where somebody looks, as plain lines in a pipe."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from make_run import hostile, run_dict, small, without, write
from rich.console import Console

from bitzones.analysis.analyze import analyse, read_run
from bitzones.analysis.results import Analysis
from bitzones.report.terminal.screen import show
from bitzones.schema.sensitivity_cells import SensitivityCell


def shown(analysis: Analysis, *, terminal: bool, width: int = 100) -> str:
    out = io.StringIO()
    show(
        analysis,
        Console(file=out, force_terminal=terminal, width=width, color_system="truecolor" if terminal else None, legacy_windows=False),
    )
    return out.getvalue()


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyse(read_run(write(tmp_path_factory.mktemp("run"), run_dict(small()))))


def test_a_pipe_gets_plain_lines(analysis: Analysis) -> None:
    text = shown(analysis, terminal=False)
    assert "\x1b" not in text
    assert "Which layers stay at 4 bits or more? Layers 0-2" in text
    assert ["whole", "layer", "█4", "×4", "▒4", "░2"] in [line.split() for line in text.splitlines()]
    assert "science_mini -2.5 points: inconclusive" in text


def test_a_terminal_gets_the_map_in_shades(analysis: Analysis) -> None:
    text = shown(analysis, terminal=True)
    assert "48;2;109;16;32" in text, "the darkest shade, of the most sensitive layer"
    assert "◐ TRANSITION" in text
    assert "inconclusive" in text


def test_a_narrow_terminal_folds_the_map(tmp_path: Path) -> None:
    found = analyse(read_run(write(tmp_path)))
    heads = {
        width: [line.split()[1] for line in shown(found, terminal=True, width=width).splitlines() if line.startswith("layer ")]
        for width in (46, 100)
    }
    assert heads == {46: ["0", "8"], 100: ["0"]}, "twelve layers, eight of which fit the narrow one"


def test_no_plan_and_no_sensitivity(tmp_path: Path) -> None:
    found = analyse(read_run(write(tmp_path, run_dict(without(SensitivityCell, small())))))
    assert "No plan" in shown(found, terminal=True)
    assert "No plan" in shown(found, terminal=False)


def test_hostile_names_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    found = analyse(read_run(write(tmp_path, hostile())))
    assert "\x1b[31m" not in shown(found, terminal=True)
    assert "\u202e" not in shown(found, terminal=False)
