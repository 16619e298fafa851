"""Plans by task: a planted gain is told, a planted nothing is not, and zones depend on the task where it was planted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from make_run import run_dict, write
from make_slices import ALIKE, APART, TASKS, sliced, sliced_profile

from bitzones.analysis.analyze import analyse, read_run
from bitzones.analysis.results import Analysis
from bitzones.analysis.slice_figures import SlicesReading
from bitzones.schema.plan_cells import PlansCell
from bitzones.schema.record import Record

SCIENCE, WORDS = TASKS


def analysed(folder: Path, found: Sequence[Record], **changes: Any) -> Analysis:
    return analyse(read_run(write(folder, run_dict(found, sliced_profile(**changes)))))


def read(folder: Path, planted: Mapping[str, Sequence[float]], **given: Any) -> SlicesReading:
    found = analysed(folder, sliced(planted, **given)).slices
    assert found is not None
    return found


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analysed(tmp_path_factory.mktemp("apart"), sliced())


def test_a_run_with_one_plan_has_no_slices(tmp_path: Path) -> None:
    found = analyse(read_run(write(tmp_path, run_dict())))
    assert found.slices is None
    assert '"slices"' not in found.to_json()
    assert Analysis.model_validate_json(found.to_json()) == found


def test_each_plan_gains_on_its_own_task_and_costs_on_the_other(apart: Analysis) -> None:
    found = apart.slices
    assert found is not None
    assert Analysis.model_validate_json(apart.to_json()) == apart
    words = {(made.made_for, made.measured_on): made.against.word for made in found.crossed if made.against is not None}
    assert {key: word for key, word in words.items() if key[1] is not None} == {
        (SCIENCE, SCIENCE): "better",
        (WORDS, WORDS): "better",
        (SCIENCE, WORDS): "worse",
        (WORDS, SCIENCE): "worse",
    }
    assert found.recommended == TASKS
    assert [item.outcome for item in found.slices] == ["gains", "gains"]


def test_differences_are_those_of_the_same_sequences(apart: Analysis) -> None:
    """The difference of two KLs in the table is the paired one, and the plan for all has none."""
    found = apart.slices
    assert found is not None
    for made in found.crossed:
        base = found.crossing(None, made.measured_on)
        assert base is not None
        if made.against is None:
            assert made.made_for is None
            continue
        assert made.against.difference.value == pytest.approx(made.kl.value - base.kl.value)
        assert made.against.ratio is not None
        assert made.against.ratio.value == pytest.approx(made.kl.value / base.kl.value)
        assert made.stored_bytes <= apart.plans.budget_bytes  # type: ignore[union-attr]


def test_plans_of_slices_are_plans_of_the_run_s_budget(apart: Analysis) -> None:
    found = apart.slices
    assert found is not None
    assert apart.decision is not None
    for item in found.slices:
        plan = item.decision.plan
        assert (plan.name, plan.origin) == (item.name, "slice")
        assert plan.budget == apart.decision.plan.budget
        assert plan.achieved.stored_bytes <= plan.budget.stored_bytes
        own = found.crossing(item.name, item.name)
        assert own is not None
        assert (plan.measured_kl, plan.measured_sequences) == (own.kl, item.held_out_sequences)
        assert (plan.held_out_sha256, plan.sequences_sha256) == (item.name[0] * 64, item.name[0] * 64)
    first, second = (item.decision.plan.units for item in found.slices)
    assert (first["layers.0"], first["layers.5"]) == (second["layers.5"], second["layers.0"]), "each protects the layer of its task"
    assert first["layers.0"] != first["layers.5"]


def test_the_layers_that_were_planted_depend_on_the_task(apart: Analysis) -> None:
    found = apart.slices
    assert found is not None
    assert found.depending == (0, 5)
    assert found.tests == 6
    told = {layer.layer: {share.slice: share.told for share in layer.shares} for layer in found.layers}
    assert told[0] == told[5] == dict.fromkeys(TASKS, True)
    first, second = found.layers[0].shares
    assert first.ratio is not None
    assert second.ratio is not None
    assert first.ratio.value == pytest.approx(1 / second.ratio.value)
    assert first.ratio.value == pytest.approx(first.share / second.share)
    assert (first.p_value, first.p_adjusted) == (second.p_value, second.p_adjusted)
    assert sum(layer.shares[0].share for layer in found.layers) == pytest.approx(1)


def test_where_tasks_are_alike_one_plan_serves_all(tmp_path: Path) -> None:
    found = read(tmp_path, ALIKE)
    assert found.recommended == ()
    assert found.depending == ()
    assert not any(share.told for layer in found.layers for share in layer.shares)


def test_a_plan_that_is_the_plan_for_all_is_said_to_be(tmp_path: Path) -> None:
    planted = {SCIENCE: (20.0, 1.0, 1.0, 0.05, 0.05, 0.2), WORDS: (10.0, 0.5, 0.5, 0.025, 0.025, 0.1)}
    found = read(tmp_path, planted, right={("plan", SCIENCE): 400, ("plan", WORDS): 300})
    assert [item.same_as for item in found.slices] == ["", ""]
    assert [item.outcome for item in found.slices] == ["same", "same"]
    assert {made.against.word for made in found.crossed if made.against is not None} == {"same"}
    assert {(made.made_for, made.task): made.k for made in found.accuracy} == {
        (name, task): k for name in (None, *TASKS) for task, k in ((SCIENCE, 400), (WORDS, 300))
    }, "it answered as the plan for all"
    assert all(made.verdict is None for made in found.accuracy)


def test_a_gain_in_kl_with_a_loss_in_accuracy_is_not_recommended(tmp_path: Path) -> None:
    right = {("plan", SCIENCE): 450, ("plan", WORDS): 400, ("plan:science_mini", SCIENCE): 380, ("plan:science_mini", WORDS): 400}
    found = read(tmp_path, APART, right=right)
    assert {item.name: item.outcome for item in found.slices} == {SCIENCE: "loses", WORDS: "gains"}
    own = next(made for made in found.accuracy if (made.made_for, made.task) == (SCIENCE, SCIENCE))
    assert (own.lost, own.gained, own.verdict.word) == (70, 0, "worse")  # type: ignore[union-attr]
    assert found.slices[0].decision.plan.accuracy[0].share.value == 380 / 500


def test_a_plan_that_is_better_everywhere_is_no_special_one(tmp_path: Path) -> None:
    """The search for all stopped at a poor plan: the plan for one task beats it on all text."""
    cells = sliced(ALIKE)
    plans = next(cell for cell in cells if isinstance(cell, PlansCell))
    assert len(plans.plans) == 1
    worse = plans.plans[0].model_copy(update={"kl_nats": tuple(3 * value for value in plans.plans[0].kl_nats or ())})
    poor = _poor(cells, worse.units)
    found = analysed(tmp_path, poor).slices
    assert found is not None
    assert {item.outcome for item in found.slices} == {"for all"}
    assert found.recommended == ()


def _poor(cells: Sequence[Record], good: Mapping[str, str]) -> list[Record]:
    """The same run whose search for all ended with the formats of two layers exchanged, and that measured accordingly."""
    from make_slices import harm, owners_of, trial

    from bitzones.schema.plan_cells import NamedTrial, SearchCell
    from bitzones.schema.sensitivity_cells import SensitivityCell

    swapped = dict(good) | {"layers.0": good["layers.4"], "layers.4": good["layers.0"]}
    sweep = next(cell for cell in cells if isinstance(cell, SensitivityCell))
    owners = owners_of(TASKS, 40)
    judged = harm(ALIKE, owners, sweep.sequence_tokens, 2)
    found: list[Record] = []
    for cell in cells:
        if isinstance(cell, SearchCell):
            start = trial(sweep, swapped, harm(ALIKE, owners, sweep.sequence_tokens, 1))
            found.append(cell.model_copy(update={"start": start, "around": None}))
        elif isinstance(cell, PlansCell):
            both = (("plan", "search", swapped), ("plan:science_mini", "slice", good))
            plans = tuple(NamedTrial(name=name, origin=origin, **trial(sweep, units, judged).model_dump()) for name, origin, units in both)  # type: ignore[arg-type]
            found.append(cell.model_copy(update={"plans": plans}))
        else:
            found.append(cell)
    return found


def test_too_few_sequences_tell_nothing(tmp_path: Path) -> None:
    found = read(tmp_path, APART, each=12)
    assert {item.outcome for item in found.slices} == {"not told"}
    assert found.tests == 0
    assert found.depending == ()
    assert all(share.ratio is None or share.ratio.low is None for layer in found.layers for share in layer.shares)


def test_three_slices_are_each_set_against_the_others(tmp_path: Path) -> None:
    planted = {**APART, "third": (0.2, 1.0, 20.0, 0.05, 0.05, 0.2)}
    found = read(tmp_path, planted, by="domain")
    assert found.by == "domain"
    assert found.tests == 18
    assert found.depending == (0, 2, 5)
    assert [item.outcome for item in found.slices] == ["gains"] * 3
    own = [made.against for made in found.crossed if made.made_for == made.measured_on and made.against is not None]
    other = [made.against for made in found.crossed if made.against is not None and made.measured_on not in (made.made_for, None)]
    assert ({gain.tests for gain in own}, {gain.tests for gain in other}) == ({3}, {6}), "families are corrected apart"


def test_without_held_out_plans_nothing_is_recommended(tmp_path: Path) -> None:
    cells = [cell for cell in sliced() if not isinstance(cell, PlansCell)]
    found = analysed(tmp_path, cells).slices
    assert found is not None
    assert {item.outcome for item in found.slices} == {"not measured"}
    assert found.crossed == ()
    assert found.depending == (0, 5), "zones need no held-out sequences"
