"""A session whose sweep is adaptive: what it is raced for, what it starts from, and the plan that follows from it."""

from __future__ import annotations

import pytest
import tiny_models

from bitzones.analysis.validation import faults
from bitzones.run import sweeping
from bitzones.run.journal import Entry
from bitzones.run.session import Session
from bitzones.run.session_record import run_record
from bitzones.schema import profile_files
from bitzones.search import local_search

TOKENS = 2200
"""More than the 20 sequences of the first round."""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("run")
    text = tiny_models.profile_text(
        str(tiny_models.save(folder / "model")),
        formats='formats = ["qint4", "qint2:hqq"]',
        plans="[plans]\nrounds = 0\nrandom = 0",
        sensitivity=f'[sensitivity]\ntokens = {TOKENS}\nbatch = 16\ngranularity = "layer"\nlayers = [0, 1]',
        budget="[budget]\naverage_bits = 3.2",
    )
    (folder / "own.toml").write_text(text, encoding="utf-8")
    made = Session(profile_files.load(str(folder / "own.toml")).resolved(effort="adaptive"))
    made.search()
    return made


def test_it_is_raced_for_the_profile_s_budget_and_starts_from_whole_variants(session: Session) -> None:
    cell = session.sweep()
    effort = cell.adaptive
    assert effort is not None
    assert effort.looks[0] == 20
    assert effort.looks[-1] == len(cell.sequence_tokens) > 20
    assert effort.budget == int(3.2 * sum(unit.parameters for unit in cell.units) / 8)
    assert effort.uniform_kl_nats == {
        name: session.divergence(variant).kl_nats for variant, name in session.variants.uniform.items() if variant != session.reference_id
    }
    assert session.divergence("w4") is session.divergence("w4")


def test_the_expected_menu_is_what_the_sweep_offers(session: Session) -> None:
    menu, bench = sweeping.expected_menu(session), local_search.workbench(session.variants, session.sweep(), session.sensitivity_batches, 1)
    assert menu.formats == bench.menu.formats
    assert (menu.stored_bytes == bench.menu.stored_bytes).all()


def test_every_beginning_of_its_order_mirrors_the_tasks(session: Session) -> None:
    strata, effort = session.sets.strata("sensitivity"), session.sweep().adaptive
    assert effort is not None
    assert set(strata) == {"0 science_mini", "0 word_problems_mini"}
    first = [strata[place] for place in effort.order[:20]]
    share = strata.count("0 science_mini") / len(strata)
    assert abs(first.count("0 science_mini") - 20 * share) <= 1


def test_its_cells_are_free_of_faults_and_taken_up_by_a_resumed_run(session: Session) -> None:
    cells = [session.sweep(), session.search(), *(session.divergence(name) for name in ("w4", "w2"))]
    assert list(faults(run_record(session), cells)) == []
    again = Session(session.profile)
    again.adopt([Entry(bench=cell.kind, rounds_s=(1.0,), cell=cell) for cell in cells])
    assert again.sweep() is cells[0]
    assert again.divergence("w2") is cells[3]
