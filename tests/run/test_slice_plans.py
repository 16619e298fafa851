"""A session whose profile makes a plan for each task: from one sweep, within one budget, as variants, and taken up by a resumed run."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models

from bitzones.analysis.validation import faults
from bitzones.run import slice_plans, whole_plans
from bitzones.run.journal import Entry
from bitzones.run.session import Session
from bitzones.run.session_record import run_record
from bitzones.schema import profile_files, slices
from bitzones.schema.errors import BitzonesError, NotMeasuredError
from bitzones.schema.profile import PLAN, Profile
from bitzones.schema.slices_cell import SlicesCell
from bitzones.search import goals, local_search
from bitzones.sensitivity import sweep

TASKS = ("science_mini", "word_problems_mini")


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    folder = tmp_path_factory.mktemp("run")
    text = tiny_models.profile_text(
        str(tiny_models.save(folder / "model")),
        formats='formats = ["qint4", "qint2:hqq"]',
        held_out="[held_out]\ntokens = 100",
        plans="[plans]\nrounds = 1\nrandom = 0",
        sensitivity='[sensitivity]\ntokens = 100\nbatch = 16\ngranularity = "group"',
        budget="[budget]\naverage_bits = 3.2",
    )
    (folder / "own.toml").write_text(text, encoding="utf-8")
    return profile_files.load(str(folder / "own.toml")).resolved(by="task")


@pytest.fixture(scope="module")
def session(profile: Profile) -> Session:
    made = Session(profile)
    made.compare()
    return made


def test_a_slice_s_part_of_the_sweep_is_a_sweep_of_its_sequences(session: Session) -> None:
    """Nothing is measured twice: what was measured on all sequences is what these alone give."""
    (first, _) = session.slices().slices
    own = session.sensitivity_set.of(first.sensitivity)
    again = session.on(
        own, lambda batches: sweep.exact_cell(session.variants, session.units, session.granularity, own, batches(), lambda share: None)
    )
    part = session.sweep().of_sequences(first.sensitivity, own.sha256)
    assert (part.sequences_sha256, part.sequence_tokens, part.units) == (again.sequences_sha256, again.sequence_tokens, again.units)
    for one, other in zip(part.measurements, again.measurements, strict=True):
        assert (one.unit, one.format, one.stored_bytes) == (other.unit, other.format, other.stored_bytes)
        assert np.allclose(one.kl_nats or (), other.kl_nats or (), rtol=1e-3, atol=1e-6)


def test_each_search_is_on_own_sequences_within_the_budget_of_all(session: Session) -> None:
    cell = session.slices()
    assert [item.name for item in cell.slices] == list(TASKS)
    whole = whole_plans.workbench(session, session.sensitivity_batches, session.sensitivity_set)
    for item in cell.slices:
        assert item.search.budget_bytes == session.search().budget_bytes
        assert item.search.found.stored_bytes <= item.search.budget_bytes
        (trial,) = local_search.trials(whole, [whole.choice(item.search.found.units)])
        assert trial.kl_nats is not None
        assert np.allclose([trial.kl_nats[n] for n in item.sensitivity], item.search.found.kl_nats or (), rtol=1e-3, atol=1e-6)
        separate = local_search.summed(whole, session.sweep().of_sequences(item.sensitivity, ""))
        start = whole.choice(item.search.start.units)
        rows = np.arange(len(start))
        everyone = whole.choice(session.search().start.units)
        assert separate[rows, start].sum() <= separate[rows, everyone].sum() * (1 + 1e-9), "the best sum on its own sequences"


def test_plans_of_slices_are_compared_and_the_cells_agree(session: Session) -> None:
    cell, compared = session.slices(), session.compare()
    known = [plan.units for plan in compared.plans]
    for item in cell.slices:
        assert item.search.found.units in known
    assert len({tuple(units.items()) for units in known}) == len(known), "no plan is measured twice"
    assert list(faults(run_record(session), [session.sweep(), session.search(), cell, compared])) == []


def test_a_slice_s_plan_is_a_variant_or_said_to_be_another_one(session: Session) -> None:
    cell, for_all = session.slices(), session.search().found.units
    for item in cell.slices:
        variant = slices.variant(item.name)
        if (same := cell.same_as(item.name, for_all)) is not None:
            with pytest.raises(NotMeasuredError, match=f"the plan for {item.name} is the plan for {same or 'all'}"):
                session.model(variant)
            continue
        session.model(variant)
        modules = {module: item.search.found.units[unit.name] for unit in session.units for module in unit.modules}
        assert session.variants.assignment(variant) == modules
    assert {slices.variant(item.name) for item in cell.slices if cell.same_as(item.name, for_all) is None} <= set(session.variants.formats)


def test_slices_that_share_a_plan_are_measured_once(session: Session) -> None:
    cell = session.slices()
    first, second = cell.slices
    alike = cell.model_copy(update={"slices": (first, second.model_copy(update={"search": first.search}))})
    other = dict.fromkeys(first.search.found.units, "none of these")
    assert (alike.same_as(first.name, other), alike.same_as(second.name, other)) == (None, first.name)
    assert alike.same_as(second.name, first.search.found.units) == ""


def test_a_resumed_run_takes_the_plans_from_its_journal(session: Session, profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(goals, "search_within", lambda *given: pytest.fail("searched again"))
    entries = [Entry(bench=cell.kind, rounds_s=(1.0,), cell=cell) for cell in (session.sweep(), session.search(), session.slices())]
    again = Session(profile)
    again.adopt(entries)
    assert again.slices() == session.slices()
    assert isinstance(entries[-1].cell, SlicesCell)


def test_without_plans_by_task_the_comparison_goes_on(session: Session, profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that fails has a cell of its own; the plan for all is compared with its baselines all the same."""

    def fails(*given: object) -> None:
        raise BitzonesError("no plan for this task")

    monkeypatch.setattr(slice_plans, "search_slices", fails)
    again = Session(profile)
    again.adopt([Entry(bench=cell.kind, rounds_s=(1.0,), cell=cell) for cell in (session.sweep(), session.search())])
    names = [plan.name for plan in again.compare().plans]
    assert PLAN in names
    assert not any(name in slices.variants(profile) for name in names)
    with pytest.raises(BitzonesError, match="no plan for this task"):
        again.slices()
