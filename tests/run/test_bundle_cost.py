"""A bundle beside the one plan of its memory: every figure is that of the plan alone, and the verdict follows from the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle
import tiny_models
import torch

import bitzones
from bitzones import serve
from bitzones.analysis.reader import RunFile
from bitzones.data import sequences
from bitzones.data.sequences import TokenSequence
from bitzones.deploy import quanto_checkpoint
from bitzones.deploy.export_request import ExportRequest
from bitzones.deploy.plan_file import PlanFile
from bitzones.evaluation import kl
from bitzones.run import bundle_cost, bundle_speed, session_record
from bitzones.run.session import Session
from bitzones.schema import profile_files
from bitzones.schema.errors import BitzonesError, ModelError, PlanError, RunFileError
from bitzones.schema.sensitivity_cells import SensitivityCell
from bitzones.serve import bundle_card, bundle_writer
from bitzones.serve.bundle_writer import Bundled
from bitzones.serve.cost_record import BundleCost, OnePlan, Switching, TaskAccuracy, TaskCost
from bitzones.stats.bootstrap import bootstrap_p, resample_weights, weighted_ratio
from bitzones.stats.intervals import Estimate, wilson_interval
from bitzones.stats.verdicts import verdict

NAMES = {"short": "science_mini", "long": "word_problems_mini"}
FAST = {
    "formats": 'formats = ["qint4", "qint2:hqq"]',
    "sensitivity": '[sensitivity]\ntokens = 300\nbatch = 16\ngranularity = "layer"',
    "plans": "[plans]\nrounds = 0\nrandom = 0",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle.source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def session(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    place = tmp_path_factory.mktemp("profile") / "tiny.toml"
    place.write_text(tiny_models.profile_text(str(source), **FAST), encoding="utf-8")
    return Session(profile_files.load(str(place)))


@pytest.fixture(scope="module")
def run_file(session: Session, tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    """What `read_run` reads, with a sweep and nothing else."""
    place = tmp_path_factory.mktemp("run") / "run.json"
    place.write_text("{}", encoding="utf-8")
    cell: SensitivityCell = session.sweep()
    return RunFile(path=str(place), measured_at=None, run=session_record.run_record(session), cells=(cell,))


@pytest.fixture(scope="module")
def plans(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PlanFile, dict[str, PlanFile]]:
    base, tasks = tiny_bundle.files(tmp_path_factory.mktemp("plans"), source)
    return base, {NAMES[name]: planned for name, planned in tasks.items()}


@pytest.fixture(scope="module")
def bundled(plans: tuple[PlanFile, dict[str, PlanFile]], tmp_path_factory: pytest.TempPathFactory) -> Bundled:
    return tiny_bundle.made(tmp_path_factory.mktemp("made") / "bundle", *plans)


@pytest.fixture(scope="module")
def cost(bundled: Bundled, run_file: RunFile) -> Iterator[BundleCost]:
    with pytest.MonkeyPatch.context() as patch:  # speed is not what is tested here
        patch.setattr(bundle_speed, "NEW_TOKENS", 2)
        patch.setattr(bundle_speed, "ROUNDS", 1)
        yield bundle_cost.measure(bundled.folder, run_file)


def test_memory_is_read_off_and_the_one_plan_stays_within_it(cost: BundleCost, bundled: Bundled, plans: tuple[PlanFile, Any]) -> None:
    served = serve.load(bundled.folder)
    assert (cost.dtype, cost.resident_bytes) == ("float32", served.resident_bytes)
    assert cost.base_resident_bytes == serve.load(bundled.folder / "base").resident_bytes
    extra = sum(task.stored_bytes for task in bundled.record.tasks)
    assert cost.stored_bytes == cost.one_plan.budget_bytes == plans[0].plan.stored_bytes + extra
    assert cost.one_plan.stored_bytes <= cost.one_plan.budget_bytes
    assert cost.switching.modules == len({module for task in bundled.record.tasks for module in task.modules})
    assert 0 < cost.switching.median_s <= cost.switching.p99_s
    assert set(cost.tokens_per_s) == {*served.tasks, "one plan"}


def test_quality_is_that_of_the_plan_alone_on_the_tasks_own_test_items(
    cost: BundleCost, plans: tuple[PlanFile, dict[str, PlanFile]], session: Session, tmp_path: Path
) -> None:
    """Computed again from the plan's own checkpoint, without a bundle."""
    task = next(task for task in cost.tasks if task.name == "science_mini")
    quanto_checkpoint.apply(ExportRequest(plans[1]["science_mini"], tmp_path / "alone", tiny_bundle.CPU))
    alone = serve.load(tmp_path / "alone").model
    items = session.scored["science_mini"].items  # type: ignore[union-attr]
    rows = sequences.SequenceSet(tuple(sequences.sequences(session.tokenizer, [items])))
    taken = sequences.SequenceSet(rows.sequences[: task.sequences])
    nats = kl.whole(session.variants.reference, alone, sequences.batches(taken, 16, torch.device("cpu")), task.sequences)
    assert task.sequences_sha256 == taken.sha256
    assert task.kl.value == pytest.approx(sum(nats) / sum(taken.sequence_tokens), rel=1e-9)
    assert task.kl_difference.value == pytest.approx(task.kl.value - task.kl_one_plan.value, rel=1e-9)
    assert task.accuracy is not None
    assert (task.accuracy.gained - task.accuracy.lost) / task.accuracy.n == pytest.approx(
        task.accuracy.task.value - task.accuracy.one_plan.value
    )


def test_the_finished_bundle_tells_what_was_measured(cost: BundleCost, bundled: Bundled) -> None:
    before = serve.load(bundled.folder).sha256
    bundle_writer.write_cost(bundled.folder, cost)
    assert BundleCost.model_validate_json((bundled.folder / "cost.json").read_bytes()) == cost
    assert "## Is the bundle worth it?" in (bundled.folder / "README.md").read_text(encoding="utf-8")
    assert serve.load(bundled.folder).sha256 == before  # what was measured of a bundle does not change it


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (lambda run: run.model_copy(update={"cells": ()}), RunFileError, "no sweep"),
        (lambda run: with_profile(run, tasks=()), PlanError, "no task or domain of the run"),
        (
            lambda run: with_profile(run, model=run.run.profile.model.model_copy(update={"source": "embedded:tiny"})),
            ModelError,
            "is not the bundle's",
        ),
    ],
)
def test_a_run_that_does_not_fit_is_refused(
    spoil: Callable[[RunFile], RunFile], error: type[BitzonesError], said: str, run_file: RunFile, bundled: Bundled
) -> None:
    with pytest.raises(error, match=said):
        bundle_cost.measure(bundled.folder, spoil(run_file))


def with_profile(run: RunFile, **changes: Any) -> RunFile:
    return run.model_copy(update={"run": run.run.model_copy(update={"profile": run.run.profile.model_copy(update=changes)})})


def test_a_folder_that_is_no_bundle_is_refused(run_file: RunFile, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="bitzones bundle writes it"):
        bundle_cost.measure(tmp_path, run_file)
    with pytest.raises(RunFileError):
        bitzones.measure_bundle(tmp_path, tmp_path / "gone.json")


# --- the verdict, from figures made by hand


def a_task(name: str, difference: float, p: float, lost: int = 0, gained: int = 0) -> TaskCost:
    nats = Estimate(value=0.1, low=0.09, high=0.11)
    answers = TaskAccuracy(
        metric="acc",
        n=500,
        task=wilson_interval(400 + gained - lost, 500),
        one_plan=wilson_interval(400, 500),
        base=wilson_interval(390, 500),
        lost=lost,
        gained=gained,
        verdict=verdict(lost, gained, 500),
    )
    return TaskCost(
        name=name,
        sequences=40,
        tokens=400,
        sequences_sha256="0" * 64,
        kl=nats,
        kl_one_plan=nats,
        kl_base=nats,
        kl_difference=Estimate(value=difference, low=difference - 0.01, high=difference + 0.01),
        kl_p=p,
        accuracy=answers,
    )


def a_cost(*tasks: TaskCost) -> BundleCost:
    return BundleCost(
        bitzones="0",
        bundle_sha256="0" * 64,
        run_sha256="0" * 64,
        device="a <b>CPU</b>",
        threads=1,
        dtype="float32",
        resident_bytes=3_000_000,
        base_resident_bytes=2_000_000,
        stored_bytes=1_500_000,
        base_stored_bytes=1_000_000,
        switching=Switching(n=1000, median_s=5e-6, p99_s=6e-5, modules=14),
        tokens_per_s={"base": 10.0},
        one_plan=OnePlan(budget_bytes=1_500_000, stored_bytes=1_400_000, average_bits=4.0, formats={"qint4": 12}),
        tasks=tasks,
    )


BETTER, WORSE, SAME = (-0.05, 0.004), (0.05, 0.004), (-0.05, 0.2)


@pytest.mark.parametrize(
    ("tasks", "worth", "said"),
    [
        ([a_task("a", *BETTER), a_task("b", *SAME)], "worth it", "**The bundle is worth it**"),
        ([a_task("a", *SAME, lost=0, gained=20)], "worth it", "**The bundle is worth it**"),
        ([a_task("a", *WORSE), a_task("b", *SAME)], "not worth it", "**The bundle is not worth it**"),
        ([a_task("a", *SAME, lost=20, gained=0)], "not worth it", "**The bundle is not worth it**"),
        ([a_task("a", *BETTER), a_task("b", *WORSE)], "inconclusive", "**That depends on the tasks**"),
        ([a_task("a", *BETTER, lost=20, gained=0)], "inconclusive", "**That depends on the tasks**"),
        ([a_task("a", *SAME)], "inconclusive", "**Not shown**"),
    ],
)
def test_worth_it_takes_a_task_that_is_told_better_and_none_that_is_told_worse(tasks: list[TaskCost], worth: str, said: str) -> None:
    cost = a_cost(*tasks)
    assert cost.worth == worth
    assert said in bundle_card.cost_section(cost)
    assert "<b>" not in bundle_card.cost_section(cost)


def test_p_values_are_corrected_for_all_tests_of_the_bundle() -> None:
    """Two tasks without answers: p of the first alone is that of its sign test by bootstrap, twice that after Holm's correction."""
    rows = sequences.SequenceSet(tuple(TokenSequence((1,) * 10, 0, ()) for _ in range(40)))
    one = np.linspace(0.5, 1.5, 40)
    lower, like = one - 0.2, one + np.tile([0.1, -0.1], 20)
    found = [
        bundle_cost._Measured(name, rows, {name: own, "base": one, "one plan": one}, {}) for name, own in (("lower", lower), ("like", like))
    ]
    first, second = bundle_cost._judged(found)
    weights = resample_weights(40, 2000, 0)
    alone = [bootstrap_p(weighted_ratio(weights, own - one, np.full(40, 10.0))) for own in (lower, like)]
    assert (first.kl_p, second.kl_p) == (2 * alone[0], alone[1])
    assert (first.better, first.worse, second.better, second.worse) == (True, False, False, False)
    assert first.kl_difference.value == pytest.approx(-0.02)
