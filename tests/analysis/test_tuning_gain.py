"""What tuning bought, from cells with known figures: paired gains by text, and the warning where unseen text pays for it."""

from __future__ import annotations

import pytest

from bitzones.analysis.tuning_figures import TuningGain, TuningReading
from bitzones.analysis.tuning_gain import _negative
from bitzones.schema.tuning_cells import TunedWeights, TuningCell
from bitzones.stats.intervals import Estimate

WEIGHTS = TunedWeights(
    file="tuned.safetensors",
    sha256="0" * 64,
    sequences_sha256="1" * 64,
    tokens=900,
    validation_tokens=100,
    steps=10,
    best_step=8,
    norms=False,
    before=0.5,
    after=0.25,
)


def gain(text: str, difference: float, *, unseen: bool = False) -> TuningGain:
    found = Estimate(value=difference, low=difference - 0.01, high=difference + 0.01)
    word = "better" if difference < -0.01 else "worse" if difference > 0.01 else "inconclusive"
    before = Estimate(value=0.5, low=0.4, high=0.6)
    after = Estimate(value=0.5 + difference, low=0.3, high=0.6)
    return TuningGain(text=text, tuned_on=not unseen, unseen=unseen, n=30, before=before, after=after, difference=found, word=word)


def reading(*gains: TuningGain) -> TuningReading:
    return TuningReading(weights=WEIGHTS, parameters=7, validation=gain("validation split", -0.25), gains=gains)


def test_the_share_is_of_the_kl_before():
    assert gain("code", -0.2).share == pytest.approx(-0.4)


@pytest.mark.parametrize(
    ("seen", "unseen", "warned"), [(-0.2, 0.1, True), (-0.2, -0.1, False), (-0.2, 0.0, False), (0.1, 0.1, False), (0.0, 0.1, False)]
)
def test_it_warns_only_where_seen_text_gains_and_unseen_text_pays(seen, unseen, warned):
    assert reading(gain("code", seen), gain("law", unseen, unseen=True)).one_sided is warned


def test_an_interval_is_turned_round_with_its_value():
    assert _negative(Estimate(value=0.3, low=0.1, high=0.6)) == Estimate(value=-0.3, low=-0.6, high=-0.1)
    assert _negative(Estimate(value=0.3, low=None, high=None)) == Estimate(value=-0.3, low=None, high=None)


def test_a_cell_with_another_number_of_sequences_is_refused():
    with pytest.raises(ValueError, match="another number"):
        TuningCell(
            variant="tuned",
            weights=WEIGHTS,
            parameters=7,
            sequence_tokens=(5, 5),
            before_nats=(1.0, 1.0),
            after_nats=(1.0,),
            history=((0, 0.2),),
        )
