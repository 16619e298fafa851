"""The map in characters says by sign, block and number what the colored one says, and folds deep models."""

from __future__ import annotations

from pathlib import Path

import pytest
from make_run import cells, run_dict, small, without, write

from bitzones.analysis.analyze import analyse, read_run
from bitzones.analysis.results import Analysis
from bitzones.report.terminal.text_map import lines, markdown_map
from bitzones.schema.sensitivity_cells import SensitivityCell


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyse(read_run(write(tmp_path_factory.mktemp("run"), run_dict(small()))))


def test_a_row_of_signs_and_a_row_of_blocks(analysis: Analysis) -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown_map(analysis).splitlines() if line.startswith("|")]
    assert rows[2] == ["zone", "◐", "◐", "◐", "✔"]
    assert rows[3] == ["whole layer", "█4", "×4", "▒4", "░2"]


def test_the_same_in_lines(analysis: Analysis) -> None:
    text = list(lines(analysis))
    assert text[1].split() == ["zone", "◐", "◐", "◐", "✔"]
    assert text[2].split() == ["whole", "layer", "█4", "×4", "▒4", "░2"]
    assert text[3].split() == ["layer", "0", "1", "2", "3"]


def test_a_deep_model_is_folded(tmp_path: Path) -> None:
    text = markdown_map(analyse(read_run(write(tmp_path, run_dict(cells(layers=34))))))
    heads = [line for line in text.splitlines() if line.startswith("| layer")]
    assert [head.split("|")[2].strip() for head in heads] == ["0", "16", "32"]
    assert all(len(line) < 200 for line in text.splitlines() if line.startswith("|")), "a table fits GitHub's column"


def test_nothing_without_sensitivity(tmp_path: Path) -> None:
    found = analyse(read_run(write(tmp_path, run_dict(without(SensitivityCell)))))
    assert not markdown_map(found)
    assert list(lines(found)) == []
