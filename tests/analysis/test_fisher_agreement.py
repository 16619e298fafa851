"""The Fisher proxy is compared with the measurement: known correlations come out, too little is inconclusive, disagreements named."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from make_run import caveats, run_dict, sensitivity, write
from make_search import fisher

from bitzones.analysis.analyze import analyse, read_run
from bitzones.analysis.fisher_agreement import agreement, proxy_scores
from bitzones.analysis.layer_sensitivity import measured_of
from bitzones.analysis.plan_verdicts import FisherReading
from bitzones.report.markdown.summary import summary
from bitzones.schema.sensitivity_cells import FisherCell, SensitivityCell
from bitzones.stats.correlation import spearman

FORMATS = ("qint8", "qint4", "qint2:hqq")


def readings(sweep: SensitivityCell, cell: FisherCell) -> tuple[FisherReading, ...]:
    return agreement(proxy_scores(cell, 50, 0), measured_of(sweep, FORMATS, 50, 0))


def exact_scores(sweep: SensitivityCell, cell: FisherCell, factor: float) -> FisherCell:
    """Scores that give the measured KL times a factor, to the last digit."""
    kl = {(item.unit, item.format): np.array(item.kl_nats) for item in sweep.measurements}
    scores = tuple(
        item.model_copy(update={"nats": tuple(np.tile(np.sqrt(2 * factor * kl[item.unit, item.format]), cell.samples).tolist())})
        for item in cell.scores
    )
    return cell.model_copy(update={"scores": scores})


def test_a_screen_that_is_right_up_to_a_factor() -> None:
    sweep = sensitivity()
    found = readings(sweep, exact_scores(sweep, fisher(sweep), 0.5))
    assert [item.format for item in found] == list(FORMATS)
    for item in found:
        assert item.spearman is not None
        assert (item.units, item.spearman.value, item.disagreements) == (12, pytest.approx(1.0), ())
        assert item.median_ratio == pytest.approx(0.5)


def test_ranks_that_differ_are_named_with_both_ranks() -> None:
    sweep = sensitivity()
    cell = exact_scores(sweep, fisher(sweep), 1.0)
    swap = {"layers.5": "layers.3", "layers.3": "layers.5"}
    scores = {(item.unit, item.format): item.nats for item in cell.scores}
    turned = tuple(item.model_copy(update={"nats": scores[swap.get(item.unit, item.unit), item.format]}) for item in cell.scores)
    (*_, lowest) = readings(sweep, cell.model_copy(update={"scores": turned}))
    assert {item.unit for item in lowest.disagreements} == {"layers.3", "layers.5"}
    five = next(item for item in lowest.disagreements if item.unit == "layers.5")
    assert (five.exact_rank, five.fisher_rank) == (1, 12)
    assert lowest.spearman is not None
    assert lowest.spearman.value == pytest.approx(1 - 6 * 2 * 11**2 / (12**3 - 12))


@pytest.mark.parametrize(("layers", "sequences"), [(9, 40), (12, 19)])
def test_too_little_tells_nothing(layers: int, sequences: int) -> None:
    sweep = sensitivity(layers, sequences)
    assert all(item.spearman is None and item.median_ratio is not None for item in readings(sweep, fisher(sweep)))


def test_a_unit_that_was_not_measured_is_left_out() -> None:
    sweep = sensitivity()
    failed = sweep.measurements[2].model_copy(update={"kl_nats": None, "failure": "NaN"})
    sweep = sweep.model_copy(update={"measurements": (*sweep.measurements[:2], failed, *sweep.measurements[3:])})
    assert [item.units for item in readings(sweep, fisher(sweep))] == [12, 12, 11]


def test_the_correlation_is_that_of_the_whole_sample() -> None:
    sweep = sensitivity()
    cell = fisher(sweep)
    tokens = sum(sweep.sequence_tokens)
    kl = [sum(item.kl_nats or ()) / tokens for item in sweep.measurements if item.format == "qint4"]
    guess = [sum(a * a for a in item.nats) / 2 / cell.samples / tokens for item in cell.scores if item.format == "qint4"]
    found = next(item for item in readings(sweep, cell) if item.format == "qint4")
    assert found.spearman is not None
    assert found.spearman.value == pytest.approx(float(spearman(np.array(kl), np.array(guess))))


def test_a_plan_s_second_order_holds_interactions() -> None:
    """Two units that pull the same way do four times the harm of one; two that pull apart cancel."""
    sweep = sensitivity(layers=2, sequences=24)
    cell = fisher(sweep)
    one = cell.scores[0].nats
    for sign, factor in ((1, 4.0), (-1, 0.0)):
        scores = tuple(
            item.model_copy(update={"nats": one if item.unit == "layers.0" else tuple(sign * a for a in one)}) for item in cell.scores
        )
        found = proxy_scores(cell.model_copy(update={"scores": scores}), 50, 0)
        alone = found.of_plan({"layers.0": "qint8", "layers.1": "bf16"}, "bf16")
        both = found.of_plan({"layers.0": "qint8", "layers.1": "qint4"}, "bf16")
        assert alone is not None
        assert both is not None
        assert both.value == pytest.approx(factor * alone.value)
    untouched = found.of_plan({"layers.0": "bf16", "layers.1": "bf16"}, "bf16")
    assert untouched is not None
    assert untouched.value == 0
    assert found.of_plan({"layers.0": "qint3", "layers.1": "bf16"}, "bf16") is None


def test_the_section_says_where_they_disagree_and_when_nothing_can_be_told(tmp_path: Path) -> None:
    sweep = sensitivity()
    text = summary(analyse(read_run(write(tmp_path, run_dict([sweep, fisher(sweep)])))))
    found = text.split("## Fisher proxy\n", 1)[1].split("\n## ", 1)[0]
    assert "- At qint2:hqq they disagree most on layers." in found
    few = sensitivity(layers=9)
    analysis = analyse(read_run(write(tmp_path, run_dict([few, fisher(few)]))))
    assert re.search(r"(?:\| +inconclusive \|[^|]*\n?.*){3}", summary(analysis), re.DOTALL)
    assert caveats(analysis)["fisher_order"].names == ("qint8", "qint4", "qint2:hqq")
