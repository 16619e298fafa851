"""From the first screen alone: which layers stay at 4 bits or more, what the plan saves, what accuracy it costs and how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from make_run import decided, planned, profile, run_dict, small, without, write

from bitzones.analysis.analyze import analyse, read_run
from bitzones.analysis.results import Analysis
from bitzones.analysis.zones import ranges
from bitzones.report.markdown.headline import answers
from bitzones.schema.profile_sections import Budget, Zones
from bitzones.schema.quality_cells import AccuracyCell
from bitzones.schema.sensitivity_cells import SensitivityCell


def analysed(folder: Path, found: Any, **changes: Any) -> Analysis:
    return analyse(read_run(write(folder, run_dict(found, profile(zones=Zones(resamples=50), **changes)))))


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analysed(tmp_path_factory.mktemp("run"), small())


def test_layers_are_those_of_the_plan(analysis: Analysis) -> None:
    kept, *_ = answers(analysis)
    wide = tuple(unit.layer for unit in decided(analysis).units if unit.format != "qint2:hqq")
    assert kept.answer == f"Layers {ranges(wide)}"
    assert any("50 resampled plans" in line and "n = 24" in line for line in kept.details)


def test_layers_in_unit(tmp_path: Path) -> None:
    groups = ("attn.qkv", "mlp.down")
    found = analysed(tmp_path, planned(4, 24, groups), budget=Budget(average_bits=3.4))
    kept, *_ = answers(found)
    by_layer: dict[int, set[bool]] = {}
    for unit in decided(found).units:
        by_layer.setdefault(unit.layer, set()).add(unit.format != "qint2:hqq")
    partly = tuple(layer for layer, wide in by_layer.items() if len(wide) == 2)
    assert partly, "the example has layers in part"
    assert any(line.startswith("Some groups of each in layer") and ranges(partly) in line for line in kept.details)


def test_how_firm_the_layers_are(tmp_path: Path) -> None:
    found = analysed(tmp_path, planned(12, 44))
    decision = decided(found)
    (first, *_) = decision.split_half
    assert first.agree is not None
    contradicting = found.model_copy(update={"decision": decision.model_copy(update={"contradicted": (3, 7)})})
    said = [line for line in answers(contradicting)[0].details if line.startswith("Stability: ")]
    assert f"split-half agreement on {len(first.agree)} of 12" in said[0]
    assert said[0].endswith("The plan differs from the zone in 2 layers.")
    calm = found.model_copy(update={"decision": decision.model_copy(update={"contradicted": ()})})
    assert "differs" not in answers(calm)[0].details[-1]


def test_bytes_saved(analysis: Analysis) -> None:
    _, saved, _ = answers(analysis)
    plan = decided(analysis).plan
    assert saved.answer.startswith(f"{(plan.reference_bytes - plan.achieved.stored_bytes) / 1e6:.3f} MB (")
    assert any(line.startswith("Whole model with embeddings:") for line in saved.details)


def test_cost_with_interval_verdict_and_n(analysis: Analysis) -> None:
    *_, cost = answers(analysis)
    assert cost.answer == "science_mini -2.5 points: inconclusive"
    assert any("from 85.0% to 82.5% [68.1%, 91.3%]" in line and "n = 40" in line for line in cost.details)
    assert any("minimum detectable effect" in line or "no loss" in line for line in cost.details), (
        "where it cannot tell it says what it could have"
    )
    assert any(line.startswith("KL 0.476 [0.414, 0.539]") and "n = 30" in line for line in cost.details)


def test_accuracy_that_was_not_measured_is_not_made_up(tmp_path: Path) -> None:
    *_, cost = answers(analysed(tmp_path, without(AccuracyCell, small())))
    assert cost.answer == "Not measured"


def test_no_plan_says_why(tmp_path: Path) -> None:
    first, second = answers(analysed(tmp_path, without(SensitivityCell, small())))
    assert (first.answer, second.question) == ("No plan", "What do the uniform formats cost?")
    assert first.details[0].startswith("No sensitivity was measured")
    assert any(line.startswith("w2 on science_mini: ") and "worse" in line for line in second.details)
