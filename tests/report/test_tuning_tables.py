"""A run whose plan was tuned: the tuned plan is recommended where it measures lower, and every table says what tuning bought."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import make_domains
import pytest
from make_run import analysed, planned, profile

from bitzones.analysis.results import Analysis
from bitzones.report.markdown import headline, tuning_tables
from bitzones.report.markdown.summary import headline as lines
from bitzones.report.markdown.summary import summary
from bitzones.report.writer import carry_weights
from bitzones.schema.plan_cells import NamedTrial, PlansCell
from bitzones.schema.profile import TUNED
from bitzones.schema.profile_sections import Tuning
from bitzones.schema.tuning_cells import TunedWeights, TuningCell

WEIGHTS = TunedWeights(
    file="tuned.safetensors",
    sha256="0" * 64,
    sequences_sha256="1" * 64,
    tokens=900,
    validation_tokens=240,
    steps=10,
    best_step=8,
    norms=False,
    before=0.5,
    after=0.25,
)
LOST_ON_LAW = {"helps": 0.05, "harms": 0.4}
"""Nats per token of the tuned plan on an unseen domain; the plan before loses 0.15."""


def tuning_cell() -> TuningCell:
    return TuningCell(
        variant=TUNED,
        weights=WEIGHTS,
        parameters=1234,
        sequence_tokens=(10,) * 24,
        before_nats=tuple(5.0 + number / 10 for number in range(24)),
        after_nats=tuple(2.5 + number / 20 for number in range(24)),
        history=((0, 0.5), (8, 0.25), (10, 0.26)),
    )


def with_tuned(cell: Any, share: float) -> Any:
    """A cell of whole plans with the tuned one, which costs a share of what the searched one does."""
    if not isinstance(cell, PlansCell):
        return cell
    found = next(item for item in cell.plans if item.origin == "search")
    tuned = NamedTrial(
        name=TUNED,
        origin="tuned",
        rounded="tuned",
        units=found.units,
        stored_bytes=found.stored_bytes,
        kl_nats=tuple(share * nats for nats in found.kl_nats or ()),
    )
    return cell.model_copy(update={"plans": (*cell.plans, tuned)})


def run(folder: Path, law: str = "helps", share: float = 0.5) -> Analysis:
    cells = [*(with_tuned(cell, share) for cell in planned()), tuning_cell(), *make_domains.domains()]
    cells += [make_domains.domain("tasks", TUNED, lost=0.05), make_domains.domain("law", TUNED, lost=LOST_ON_LAW[law])]
    settings = make_domains.settings(cell for cell in cells if getattr(cell, "kind", "") == "domain")
    return analysed(folder, cells, of=profile(domains=settings, tuning=Tuning()))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return run(tmp_path_factory.mktemp("run"))


def test_a_tuned_plan_that_measures_lower_is_the_plan_with_its_file_of_weights(tuned):
    assert tuned.plans is not None
    assert tuned.plans.recommended == TUNED
    assert tuned.decision is not None
    assert tuned.decision.plan.name == TUNED
    assert tuned.decision.plan.tuning == WEIGHTS
    assert tuned.decision.plan.units == next(item for item in planned() if getattr(item, "kind", "") == "search").found.units


def test_one_that_does_not_is_not(tmp_path):
    found = run(tmp_path, share=1.0)
    assert found.decision is not None
    assert (found.decision.plan.name, found.decision.plan.tuning) == ("plan", None)


def test_gains_are_paired_by_text(tuned):
    assert tuned.tuning is not None
    gains = {item.text: item for item in tuned.tuning.gains}
    assert set(gains) == {"held out", "tasks", "law"}
    assert gains["held out"].share == pytest.approx(-0.5)
    assert gains["law"].unseen
    assert gains["tasks"].tuned_on
    for item in gains.values():
        assert item.word == "better"
        assert item.difference.value == pytest.approx(item.after.value - item.before.value)
    assert tuned.tuning.validation.difference.value == pytest.approx(-2.5 / 10 - 23 / 400)


def test_domains_compare_the_recommended_plan(tuned):
    assert tuned.domains is not None
    law = next(item for item in tuned.domains.domains if item.name == "law")
    assert law.subject == TUNED
    assert {row.variant for row in law.compared} >= {"plan", "w4"}
    assert {row.variant: row.word for row in law.compared}["plan"] == "better"


def test_the_third_line_says_what_tuning_bought_on_unseen_text(tuned):
    third = lines(tuned)[2]
    assert third == tuning_tables.in_short(tuned.tuning)
    assert "unseen" in third
    assert "law KL from" in third
    assert third in " ".join(headline.answers(tuned)[2].details)
    assert "## Tuning" in summary(tuned)


def test_a_gain_on_tuned_text_that_unseen_text_pays_for_is_warned_of(tuned, tmp_path):
    paid = run(tmp_path, law="harms")
    assert paid.tuning is not None
    assert paid.tuning.one_sided
    assert "harms" in lines(paid)[2]
    assert "harms" not in lines(tuned)[2]


def test_a_tuning_that_found_nothing_says_so(tuned):
    assert tuned.tuning is not None
    weights = WEIGHTS.model_copy(update={"best_step": 0})
    assert "no step lowered" in tuning_tables.in_short(tuned.tuning.model_copy(update={"weights": weights}))


def test_weights_follow_the_plan_into_another_folder(tuned, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / WEIGHTS.file).write_bytes(b"weights")
    (tmp_path / "report").mkdir()
    carry_weights(tuned, tmp_path / "run" / "run.json", tmp_path / "report")
    assert (tmp_path / "report" / WEIGHTS.file).read_bytes() == b"weights"
    carry_weights(tuned, tmp_path / "elsewhere" / "run.json", tmp_path / "run")  # nothing to copy: what is there stays
    assert (tmp_path / "run" / WEIGHTS.file).read_bytes() == b"weights"
