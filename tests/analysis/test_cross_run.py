"""Two runs are compared where they can be, and a layer is named only where its ranks are told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_run import cells, run_dict, sensitivity, write

from bitzones.analysis.analyze import analyse, read_run
from bitzones.analysis.cross_run import pairs
from bitzones.analysis.results import Analysis


def analysed(folder: Path, harm: dict[str, float], layers: int = 12, sequences: int = 40) -> Analysis:
    cell = sensitivity(layers, sequences)
    planted = tuple(
        item.model_copy(update={"kl_nats": tuple((np.array(item.kl_nats) * harm.get(item.unit, 1.0)).tolist())})
        for item in cell.measurements
    )
    return analyse(read_run(write(folder, run_dict([cell.model_copy(update={"measurements": planted})]))))


def test_a_layer_that_matters_in_one_run_only(tmp_path: Path) -> None:
    one, two = analysed(tmp_path, {}), analysed(tmp_path, {"layers.5": 0.001, "layers.7": 1000.0})
    (pair,) = pairs((one, two))
    assert {5, 7} <= {item.layer for item in pair.shifts}
    assert 0 not in {item.layer for item in pair.shifts}, "most sensitive but one in both"
    shift = next(item for item in pair.shifts if item.layer == 5)
    assert shift.first.rank < shift.second.rank
    assert pair.layers == 12
    assert pair.spearman is not None


def test_a_run_against_itself(tmp_path: Path) -> None:
    one = analysed(tmp_path, {})
    (pair,) = pairs((one, one))
    assert pair.shifts == ()
    assert pair.spearman is not None
    assert pair.spearman.value == pytest.approx(1.0)


@pytest.mark.parametrize(("layers", "sequences"), [(4, 40), (12, 3)])
def test_too_little_to_tell(tmp_path: Path, layers: int, sequences: int) -> None:
    one, two = analysed(tmp_path, {}, layers, sequences), analysed(tmp_path, {"layers.3": 1e6}, layers, sequences)
    (pair,) = pairs((one, two))
    assert (pair.spearman is None) == (layers < 10)
    assert bool(pair.shifts) == (sequences >= 10), "without intervals no rank is told apart"


def test_models_of_other_depth_are_not_compared(tmp_path: Path) -> None:
    found: list[Any] = [analyse(read_run(write(tmp_path, run_dict(cells(layers=number))))) for number in (11, 12)]
    (pair,) = pairs(tuple(found))
    assert (pair.reason, pair.depths) == ("depths", (11, 12))
    assert pair.shifts == ()


def test_every_two_of_three(tmp_path: Path) -> None:
    one = analysed(tmp_path, {})
    assert [(pair.first, pair.second) for pair in pairs((one, one, one))] == [(0, 1), (0, 2), (1, 2)]
