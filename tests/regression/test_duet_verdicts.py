"""What the quadruples of a duet say, and which changes do not stand."""

from __future__ import annotations

import math

import make_duet
import pytest
from pydantic import ValidationError

from bitzones.regression.duet_verdicts import control, verdict_of
from bitzones.schema.duet_cells import Quadruples
from bitzones.stats.sequential import PairedSequence

TOLERANCE = 0.02


def test_a_difference_is_the_mean_logarithm_of_two_rounds_less_that_of_the_two_others() -> None:
    found = Quadruples(orders=("ABBA", "BAAB"), rounds_s=((1.0, 2.0, 4.0, 8.0), (2.0, 1.0, 1.0, 4.0)), queued_s=((0.0,) * 4, (0.0,) * 4))
    assert found.of("A") == (1.0, 8.0, 1.0, 1.0)
    assert found.of("B") == (2.0, 4.0, 2.0, 4.0)
    assert found.differences == pytest.approx((0.0, math.log(8) / 2))


def test_orders_and_rounds_go_together() -> None:
    with pytest.raises(ValidationError, match="differ in length"):
        Quadruples(orders=("ABBA",), rounds_s=(), queued_s=())


@pytest.mark.parametrize(("ratio", "word"), [(1.10, "worse"), (1.0, "equivalent"), (0.9, "better"), (1.02, "inconclusive")])
def test_the_verdict_is_where_the_interval_lies(ratio: float, word: str) -> None:
    found = verdict_of(make_duet.cell(ratio, again=ratio), TOLERANCE)
    assert found.word == word
    assert found.ratio.low is not None
    assert found.ratio.high is not None
    assert found.ratio.low < ratio < found.ratio.high
    assert found.n == 60


def test_a_change_that_new_processes_do_not_show_does_not_stand() -> None:
    found = verdict_of(make_duet.cell(1.10, again=1.0), TOLERANCE)
    assert (found.word, found.reason) == ("inconclusive", "new processes did not repeat it: equivalent")


def test_a_change_in_the_other_direction_repeats_nothing() -> None:
    assert verdict_of(make_duet.cell(1.10, again=0.9), TOLERANCE).word == "inconclusive"


def test_a_change_that_was_not_measured_again_does_not_stand() -> None:
    assert verdict_of(make_duet.cell(1.10, again=None).model_copy(update={"again": None}), TOLERANCE).word == "inconclusive"


def test_a_side_that_differs_from_itself_proves_nothing() -> None:
    found = verdict_of(make_duet.cell(1.10, control=make_duet.quadruples(1.05)), TOLERANCE)
    assert (found.word, found.reason) == ("inconclusive", "the new side is worse than itself")


def test_a_change_without_its_control_does_not_stand() -> None:
    """As where the user interrupts before the last step."""
    found = verdict_of(make_duet.cell(1.10, control=None), TOLERANCE)
    assert (found.word, found.control, found.reason) == ("inconclusive", None, "the new side was not measured against itself")


def test_the_error_is_shared_among_the_cells() -> None:
    alone, among = (verdict_of(make_duet.cell(1.0, family=family), TOLERANCE).ratio for family in (1, 100))
    assert alone.low is not None
    assert among.low is not None
    assert among.low < alone.low
    assert among.low == pytest.approx(math.exp(PairedSequence(make_duet.quadruples(1.0).differences, 0.05 / 100).interval.low))  # type: ignore[union-attr]


def test_a_side_against_itself_names_the_smallest_change_it_would_have_seen() -> None:
    """60 quadruples whose differences spread by 1%: four standard errors (0.5%) and the tolerance."""
    found = control(make_duet.quadruples(1.0), 1, TOLERANCE)
    assert (found.word, found.alarms) == ("equivalent", 0)
    assert found.smallest_change == pytest.approx(0.026, abs=0.003)
    assert control(Quadruples(), 1, TOLERANCE).smallest_change is None
