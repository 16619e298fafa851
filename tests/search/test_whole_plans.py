"""Recommended is what measuring recommends: planted harm is seen, a search that lost is dropped, noise decides nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import make_run
import numpy as np
import pytest
from make_run import analysed, caveats, decided, planned, run_dict, sensitivity, without, write
from make_search import TOGETHER, held_out, searched, trial

from bitzones.analysis.analyze import analyse, read_run
from bitzones.analysis.plan_ranking import history
from bitzones.analysis.plan_verdicts import PlansReading
from bitzones.analysis.results import Analysis, CalibratedFormats
from bitzones.report.markdown.method import methodology
from bitzones.report.markdown.summary import headline, summary
from bitzones.report.mermaid.flow import overview
from bitzones.schema.cells import FailedCell
from bitzones.schema.plan_cells import NamedTrial, PlansCell, SearchCell, SearchRound
from bitzones.schema.profile import PLAN
from bitzones.schema.profile_sections import Budget, Plans
from bitzones.schema.record import Record


def plans_of(analysis: Analysis) -> PlansReading:
    assert analysis.plans is not None
    return analysis.plans


def changed(found: list[Record], name: str, factor: float | None, noise: float = 0.0) -> list[Record]:
    """The run, but one plan's held-out KL is ``factor`` times the searched plan's; None: it gave NaN."""

    def spoil(cell: Record) -> Record:
        if not isinstance(cell, PlansCell):
            return cell
        base = np.array(next(plan.kl_nats for plan in cell.plans if plan.origin == "search"))
        kl = None if factor is None else tuple((base * factor * np.random.default_rng(1).lognormal(0, noise, len(base))).tolist())
        plans = tuple(plan.model_copy(update={"kl_nats": kl}) if plan.name == name else plan for plan in cell.plans)
        return cell.model_copy(update={"plans": plans})

    return [spoil(cell) for cell in found]


@pytest.fixture(scope="module")
def cells() -> list[Record]:
    return planned()


@pytest.fixture(scope="module")
def analysis(cells: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analysed(tmp_path_factory.mktemp("run"), cells)


def test_a_plan_that_wins_is_the_plan(analysis: Analysis, cells: list[Record]) -> None:
    plans, plan = plans_of(analysis), decided(analysis).plan
    search = next(cell for cell in cells if isinstance(cell, SearchCell))
    assert (plans.recommended, plans.beaten_by, plans.not_told) == (PLAN, (), ())
    assert (plan.name, plan.origin, plan.units) == (PLAN, "search", search.found.units)
    assert plan.achieved.stored_bytes == search.found.stored_bytes <= plan.budget.stored_bytes
    assert plan.measured_kl == plans.named(PLAN).measured
    assert plan.predicted_kl == plans.named(PLAN).predicted
    assert (plan.measured_sequences, plan.held_out_sha256) == (30, "h" * 64)
    assert {unit.unit: unit.format for unit in decided(analysis).units} == search.found.units
    assert sum(zone.plan_bytes for zone in decided(analysis).zones) == search.found.stored_bytes
    assert plan.assignment.keys() == {
        module for layer in range(12) for module in (f"model.layers.{layer}.q_proj", f"model.layers.{layer}.o_proj")
    }
    sizes = {name: None if plan.assignment[name] == "qint8" else 96 for name in plan.assignment if plan.assignment[name] != "bf16"}
    assert plan.group_sizes == sizes


def test_what_units_do_together_is_measured_and_not_predicted(analysis: Analysis) -> None:
    """The additive plan has neighbours at 2 bits, the searched one has none."""
    plans = plans_of(analysis)
    ratios = {name: plans.named(name).ratio for name in (PLAN, "additive")}
    assert ratios[PLAN] is not None
    assert ratios["additive"] is not None
    assert ratios["additive"].value / ratios[PLAN].value == pytest.approx(1 + TOGETHER)
    assert ratios[PLAN].interval is not None
    assert ratios[PLAN].interval.low < 1 < ratios[PLAN].interval.high
    fisher, predicted = plans.named(PLAN).fisher, plans.named(PLAN).predicted
    assert fisher is not None
    assert predicted is not None
    assert fisher.value == pytest.approx(predicted.value, rel=0.2)  # signs are drawn apart for each unit: no interaction is planted


def test_held_out_sequences_are_resampled_by_themselves(analysis: Analysis, cells: list[Record]) -> None:
    cell = next(cell for cell in cells if isinstance(cell, PlansCell))
    plan = next(plan for plan in cell.plans if plan.origin == "search")
    measured = plans_of(analysis).named(PLAN).measured
    assert measured is not None
    assert measured.value == pytest.approx(sum(plan.kl_nats or ()) / sum(cell.sequence_tokens))
    assert (plans_of(analysis).sequences, plans_of(analysis).tokens) == (30, sum(cell.sequence_tokens))


def test_a_rival_that_measures_lower_is_recommended_and_the_report_says_so(cells: list[Record], tmp_path: Path) -> None:
    found = analysed(tmp_path, changed(cells, "random 1", 0.8))
    plans, plan = plans_of(found), decided(found).plan
    assert (plans.recommended, plans.beaten_by) == ("random 1", ("random 1",))
    assert plans.named("random 1").searched is not None
    assert (plan.name, plan.origin, plan.measured_kl) == ("random 1", "random", plans.named("random 1").measured)
    cell = next(cell for cell in cells if isinstance(cell, PlansCell))
    assert plan.units == next(item.units for item in cell.plans if item.name == "random 1")
    assert plan.accuracy == ()
    said = "The searched plan does not win: random 1 measured lower, and random 1 is recommended"
    assert said in headline(found)[2]
    assert "Plan (random 1): " in headline(found)[1]
    assert "; plan (searched, not recommended) 86.0% (" in headline(found)[3]
    text = summary(found)
    assert f"**{said}.** The recommended plan was not evaluated on any task: variant `plan` is the searched plan." in text
    assert "Its accuracy was **not measured**." in text
    assert "plan_accuracy_not_measured" in caveats(found)


def test_a_rival_that_is_lower_by_noise_changes_nothing(cells: list[Record], tmp_path: Path) -> None:
    found = analysed(tmp_path, changed(cells, "additive", 0.97, noise=0.5))
    plans = plans_of(found)
    additive, plan = plans.named("additive"), plans.named(PLAN)
    assert additive.measured is not None
    assert plan.measured is not None
    assert additive.searched is not None
    assert (plans.recommended, plans.not_told, additive.searched.word) == (PLAN, ("additive",), "inconclusive")
    assert "cannot be told from additive" in headline(found)[2]
    assert caveats(found)["plans_not_told_apart"].names == ("additive",)


def test_the_winner_is_the_least_of_those_told_to_be_better(cells: list[Record], tmp_path: Path) -> None:
    found = analysed(tmp_path, changed(changed(cells, "random 1", 0.7), "additive", 0.8))
    assert plans_of(found).beaten_by == ("random 1", "additive")
    assert decided(found).plan.name == "random 1"


def test_what_exceeds_the_budget_or_is_of_another_cannot_win(analysis: Analysis, cells: list[Record], tmp_path: Path) -> None:
    plans = plans_of(analysis)
    uniform = plans.named("uniform qint4")
    assert not uniform.within_budget
    assert uniform.searched is not None
    assert uniform.searched.word == "worse"
    found = analysed(tmp_path, changed(cells, "3 bits", 0.1))
    assert plans_of(found).named("3 bits").within_budget
    assert plans_of(found).recommended == PLAN


def test_a_searched_plan_that_gives_nan_is_not_recommended(cells: list[Record], tmp_path: Path) -> None:
    found = analysed(tmp_path, changed(cells, PLAN, None))
    assert plans_of(found).recommended == "additive"
    assert all(item.searched is None for item in plans_of(found).plans)
    assert "The searched plan could not be measured, and additive is recommended" in headline(found)[2]


def test_too_few_held_out_sequences_tell_no_plan_from_another(cells: list[Record], tmp_path: Path) -> None:
    sweep = sensitivity()
    few = held_out(sweep, searched(sweep), sequences=19)
    found = analysed(tmp_path, [*without(PlansCell, cells), few])
    plans = plans_of(found)
    assert {item.searched.word for item in plans.plans if item.searched} == {"inconclusive"}
    assert plans.recommended == PLAN
    assert decided(found).plan.measured_kl is not None
    assert decided(found).plan.measured_kl.low is None
    assert caveats(found)["few_held_out_sequences"].n == 19
    assert "19 sequences are too few for a bootstrap: inconclusive." in summary(found)


def test_differences_are_paired(analysis: Analysis) -> None:
    """Both plans vary with the sequences; their ratio hardly does, for the same sequences are hard for both."""
    item = plans_of(analysis).named("additive")
    assert item.searched is not None
    assert item.searched.ratio is not None
    assert item.searched.ratio.interval is not None
    assert item.searched.ratio.interval.high - item.searched.ratio.interval.low < 1e-9
    assert item.searched.difference.value < 0


@pytest.mark.parametrize("of", ["fisher", "search", "plans"])
def test_what_failed_is_listed_and_all_else_reported(cells: list[Record], tmp_path: Path, of: Any) -> None:
    left = [cell for cell in cells if getattr(cell, "kind", "") != of]
    found = analysed(tmp_path, [*left, FailedCell(variant="bf16", of=of, reason="out of memory")])
    assert [failure.of for failure in found.failures] == [of]
    text = summary(found)
    assert "out of memory" in text
    assert ("## Measured plans" in text) == (of != "plans")
    assert ("## Search" in text) == (of != "search")
    assert ("## Fisher proxy" in text) == (of != "fisher")
    assert decided(found).plan.name == PLAN
    assert (decided(found).plan.measured_kl is None) == (of == "plans")
    assert len(decided(found).plan.accuracy) == 3


def test_a_plan_that_was_only_searched_is_not_called_measured(cells: list[Record], tmp_path: Path) -> None:
    found = analysed(tmp_path, without(PlansCell, cells))
    assert headline(found)[1].endswith("not measured")
    assert headline(found)[1].startswith("Plan (searched): ")
    assert "search_not_held_out" in caveats(found)
    assert "not yet" in overview(found)


def test_without_search_and_plans_it_is_the_plan_of_least_sum(tmp_path: Path) -> None:
    found = analysed(tmp_path, make_run.cells())
    plan = decided(found).plan
    assert (plan.name, plan.origin, plan.measured_kl, plan.measured_sequences, plan.accuracy) == ("additive", "additive", None, None, ())
    assert (found.plans, found.search, found.fisher_proxy) == (None, None, ())


def test_plans_without_a_sweep_are_still_measured(cells: list[Record], tmp_path: Path) -> None:
    left = [cell for cell in cells if getattr(cell, "kind", "") not in ("sensitivity", "fisher")]
    found = analysed(tmp_path, left)
    assert found.decision is None
    item = plans_of(found).named(PLAN)
    assert (item.predicted, item.fisher, item.ratio, item.average_bits) == (None, None, None, None)
    assert item.measured is not None
    assert "## Measured plans" in summary(found)


def test_the_variant_of_the_plan_stands_beside_the_sum_of_its_units(analysis: Analysis, cells: list[Record]) -> None:
    whole = next(item for item in analysis.whole if item.variant == PLAN)
    assert whole.added == decided(analysis).plan.predicted_kl
    search = next(cell for cell in cells if isinstance(cell, SearchCell))
    assert whole.measured.value == pytest.approx(sum(search.found.kl_nats or ()) / sum(search.sequence_tokens))
    assert "| the plan " not in summary(analysis)


def test_accuracy_of_the_plan_goes_with_it(analysis: Analysis) -> None:
    found = decided(analysis).plan.accuracy
    assert [(item.task, item.metric, item.n) for item in found] == [
        ("science_mini", "acc", 500),
        ("science_mini", "acc_norm", 500),
        ("word_problems_mini", "exact_match", 500),
    ]
    assert [item.share.value for item in found] == [0.86, 0.852, 0.66]
    assert all(item.verdict is not None and item.verdict.word == "worse" for item in found)
    assert "Its accuracy [95%]: science_mini (acc) 86.0% [" in summary(analysis)


def test_the_search_is_told_round_by_round(analysis: Analysis) -> None:
    found = analysis.search
    assert found is not None
    assert [(step.accepted, step.changed) for step in found.steps] == [(True, 2), (False, 0)]
    assert found.changed == 2
    assert found.steps[-1].kl == found.found
    assert found.ratio is not None
    assert found.ratio.value == pytest.approx(found.found.value / found.start.value)  # type: ignore[union-attr]
    assert found.ended == "no_improvement"


@pytest.mark.parametrize(
    ("rounds", "allowed", "ended"),
    [
        ([], 0, "no_rounds"),
        ([True], 1, "rounds_done"),
        ([True, False], 3, "no_improvement"),
        ([None], 3, "nothing_proposed"),
    ],
)
def test_why_a_search_ended(rounds: list[bool | None], allowed: int, ended: str) -> None:
    cell = searched(sensitivity())
    tried = cell.rounds[0].trials
    made = [SearchRound(around=(), trials=() if kind is None else tried, accepted=0 if kind else None) for kind in rounds]
    found = history(cell.model_copy(update={"rounds": tuple(made)}), 20, 0, allowed)
    assert found.ended == ended


def test_a_trial_without_a_kl_is_no_least_one() -> None:
    cell = searched(sensitivity())
    failed = cell.rounds[0].trials[0].model_copy(update={"kl_nats": None})
    only = SearchRound(around=(), trials=(failed,), accepted=None)
    found = history(cell.model_copy(update={"start": failed, "rounds": (only,)}), 20, 0, 1)
    assert (found.start, found.found, found.ratio, found.steps[0].least) == (None, None, None, None)


def test_the_headline_names_the_rivals(analysis: Analysis) -> None:
    lines = headline(analysis)
    assert "not recommended" not in lines[3]
    assert lines[1].startswith("Plan (searched): 0.220 MB instead of 0.885 MB")
    assert "measured on n = 30 held-out sequences, predicted 1.16 (" in lines[1]
    assert lines[2].startswith(
        "The searched plan wins: every other plan within the budget measured higher. KL of others: best baseline additive "
    )
    assert "uniform qint4 1.03 (0.897 to 1.17) at 4.33 bits, over the budget" in lines[2]


def test_the_frontier_goes_by_bytes_and_names_the_plan(analysis: Analysis) -> None:
    text = summary(analysis).split("## Other budgets\n", 1)[1].split("\n## ", 1)[0]
    rows = [[unit.strip() for unit in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")][2:]
    stored = [int(row[3].replace(",", "")) for row in rows]
    assert stored == sorted(stored)
    assert [row[0] for row in rows].count("**plan**") == 1
    assert {row[0] for row in rows} >= {"3 bits", "6 bits", "additive", "uniform qint8"}
    assert not any("random" in row[0] for row in rows)


def test_random_plans_are_one_row_and_folded(analysis: Analysis) -> None:
    text = summary(analysis).split("## Measured plans\n", 1)[1].split("\n## ", 1)[0]
    table, folded = text.split("<details>", 1)
    randoms = sum(item.origin == "random" for item in plans_of(analysis).plans)
    assert f"| {randoms} random plans " in table
    assert "| random 1 " not in table
    assert "| random 1 " in folded
    assert f"better than {randoms} of {randoms}" in table


def test_a_plan_may_leave_units_as_they_are(tmp_path: Path) -> None:
    """The reference costs nothing in KL and all of its bytes, and has no group size."""
    sweep = sensitivity()
    search = searched(sweep)
    units = {**dict.fromkeys(search.found.units, "qint2:hqq"), "layers.0": "bf16"}
    plan = trial(sweep, units, sweep.sequence_tokens, 5)
    cell = SearchCell(**{**search.model_dump(by_alias=True), "start": plan.model_dump(), "rounds": ()})
    compared = held_out(sweep, cell)
    found = analysed(tmp_path, [sweep, cell, compared])
    assert isinstance(compared.plans[0], NamedTrial)
    assert decided(found).plan.name != PLAN  # its neighbours at 2 bits harm each other
    alone = analysed(tmp_path, [sweep, cell])
    assert decided(alone).plan.units == units
    assert not any(name.startswith("model.layers.0.") for name in decided(alone).plan.group_sizes)


def test_a_recommended_rival_that_answered_the_tasks_has_its_accuracy(cells: list[Record], tmp_path: Path) -> None:
    """`random` is the best random plan; here it beats the searched one."""
    named = make_run.profile(plans=Plans(accuracy=("random",)))
    answers = [*changed(cells, "random 1", 0.8), make_run.accuracy("science_mini", "random", 420)]
    found = analyse(read_run(write(tmp_path, run_dict(answers, named))))
    plan = decided(found).plan
    first = plan.accuracy[0]
    assert (plan.name, first.task, first.metric, first.share.value) == ("random 1", "science_mini", "acc", 0.84)
    assert "was not evaluated" not in summary(found)
    assert "random 84.0% (" in headline(found)[3]


def test_a_search_for_fewer_bytes_says_what_it_kept(cells: list[Record], tmp_path: Path) -> None:
    """The same run under a tolerance: bytes before and after, the tolerance, and zones at both."""
    search = next(cell for cell in cells if isinstance(cell, SearchCell))
    kept = search.model_copy(update={"tolerance_nats": 2.0 * sum(search.start.kl_nats or ()), "budget_bytes": search.found.stored_bytes})
    plans = next(cell for cell in cells if isinstance(cell, PlansCell)).model_copy(update={"budget_bytes": kept.budget_bytes})
    others = [cell for cell in cells if not isinstance(cell, SearchCell | PlansCell)]
    nats = kept.tolerance_nats / sum(kept.sequence_tokens)  # type: ignore[operator]
    found = analyse(read_run(write(tmp_path, run_dict([*others, kept, plans], make_run.profile(budget=Budget(tolerance=nats))))))
    assert found.search is not None
    assert found.search.tolerance == pytest.approx(nats)
    text = summary(found)
    assert f"stored bytes from {kept.start.stored_bytes:,} to {kept.found.stored_bytes:,}" in text
    assert f"The tolerance is {nats:.3g} nats per token: each round looks for fewer bytes within it" in text
    assert f"Zones of 12 layers at a tolerance of {nats:.3g} nats per token, " in headline(found)[0]


def with_twins(found: list[Record], stock: float, separate: float) -> list[Record]:
    """The run with what the plan would be without calibration, and with modules rounded alone, at so many times its KL."""

    def add(cell: Record) -> Record:
        if not isinstance(cell, PlansCell):
            return cell
        plan = cell.plans[0]
        kl = {origin: tuple(times * nats for nats in plan.kl_nats or ()) for origin, times in (("stock", stock), ("separate", separate))}
        twins = [
            NamedTrial.model_validate({**plan.model_dump(), "name": f"a {origin} plan", "origin": origin, "kl_nats": kl[origin]})
            for origin in kl
        ]
        return cell.model_copy(update={"plans": (*cell.plans, *twins)})

    return [add(cell) for cell in found]


@pytest.mark.parametrize(
    ("stock", "says"),
    [
        (4.0, "(0.25 (0.25 to 0.25) times), nats/token on n = 30 held-out sequences"),
        (0.5, "; calibration makes it worse"),
        (1.0, "; inconclusive"),
    ],
)
def test_the_headline_says_what_calibration_buys(cells: list[Record], tmp_path: Path, stock: float, says: str) -> None:
    found = analysed(tmp_path, with_twins(cells, stock, 0.5))
    (line,) = [line for line in headline(found) if line.startswith("Effect of calibration at ")]
    plan = plans_of(found).named(PLAN).measured
    assert plan is not None
    assert f"KL {plan.value:.3g} (" in line
    assert says in line
    assert "modules rounded alone" not in line


def test_modules_rounded_alone_are_no_rival(cells: list[Record], tmp_path: Path) -> None:
    found = analysed(tmp_path, with_twins(cells, 4.0, 0.5))
    assert plans_of(found).recommended == PLAN
    assert "a separate plan: the plan's formats, each module rounded on its own" in summary(found)


def test_like_is_compared_with_like(cells: list[Record], tmp_path: Path) -> None:
    """The searched plan rounded alone has twice its KL, and a random plan, rounded alone too, one and a half times."""

    def alone(cell: Record) -> Record:
        if not isinstance(cell, PlansCell):
            return cell
        words = {"random": "alone", "separate": "alone", "search": "in sequence"}
        return cell.model_copy(update={"plans": tuple(p.model_copy(update={"rounded": words.get(p.origin)}) for p in cell.plans)})

    twins = changed(with_twins(cells, 4.0, 2.0), "random 1", 1.5)
    assert plans_of(analysed(tmp_path, twins)).recommended == PLAN
    found = analysed(tmp_path, [alone(cell) for cell in twins])
    assert plans_of(found).recommended == "random 1"
    against = plans_of(found).named("random 1").searched
    assert against is not None
    assert against.ratio is not None
    assert against.ratio.value == pytest.approx(2.0 / 1.5)
    assert (
        "To save time, 5 random plans were rounded module by module; they are compared with the searched plan rounded the same way."
        in summary(found)
    )
    assert "rounded module by module" not in summary(analysed(tmp_path, twins))


def test_without_both_families_nothing_is_said_of_calibration(analysis: Analysis) -> None:
    assert not any("Effect of calibration" in line for line in headline(analysis))


def test_the_method_says_what_was_rounded_on_and_what_could_not_be(analysis: Analysis) -> None:
    assert "Calibrated formats" not in methodology(analysis)
    why = {"an.expert": "3 tokens reached it, and 96 input features need at least as many"}
    rounding = CalibratedFormats(sequences_sha256="e" * 64, sequences=2, tokens=5, damping=0.01, fallbacks={PLAN: why})
    text = methodology(analysis.model_copy(update={"formats": ("qint4:gptq",), "calibration": rounding}))
    assert "on 5 tokens of 2 sequences" in text
    assert "Modules with too few tokens, rounded without calibration: plan 1." in text
