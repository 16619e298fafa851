"""A run whose profile tunes: the plan's variant, its file of weights, its place among the plans compared, and a resumed run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import tiny_models
import torch

from bitzones.run import plan_tuner, whole_plans
from bitzones.run.journal import Entry
from bitzones.run.session import Session
from bitzones.run.session_record import run_record
from bitzones.schema import profile_files
from bitzones.schema.errors import BitzonesError, PlanError
from bitzones.schema.profile import PLAN, TUNED, Profile
from bitzones.schema.progress import silent

NORM = "model.norm.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def profile(folder: Path) -> Profile:
    text = tiny_models.profile_text(
        str(tiny_models.save(folder / "model")),
        formats='formats = ["qint4", "qint2:gptq"]',
        tasks='[[tasks]]\nname = "science_mini"\nlimit = 8',
        held_out="[held_out]\ntokens = 200",
        plans="[plans]\nrounds = 0\nrandom = 0",
        sensitivity="[sensitivity]\ntokens = 200\nbatch = 16",
        calibration="[calibration]\ntokens = 800",
        tuning="[tuning]\ntokens = 800\nlearning_rate = 0.01\nnorms = true",
        budget="[budget]\naverage_bits = 3.2",
    )
    (folder / "own.toml").write_text(text, encoding="utf-8")
    return profile_files.load(str(folder / "own.toml"))


@pytest.fixture(scope="module")
def session(profile: Profile, folder: Path) -> Session:
    made = Session(profile, folder=folder)
    made.tune()
    return made


def test_the_tuning_set_shares_no_sequence_with_any_other(session):
    sets = session.sets
    others = {row.ids for found in (sets.sensitivity, sets.held_out, sets.calibration) for row in found.sequences}
    assert others.isdisjoint(row.ids for row in sets.tuning.sequences)
    assert sum(sets.tuning.sequence_tokens) >= 800


def test_the_cell_names_the_file_of_weights_beside_the_run(session, folder):
    cell = session.tune()
    data = (folder / plan_tuner.WEIGHTS_FILE).read_bytes()
    assert cell.weights.sha256 == hashlib.sha256(data).hexdigest()
    assert sum(cell.after_nats) < sum(cell.before_nats)
    assert not list(folder.glob(".*"))  # the state while it was tuned


def test_the_variant_has_the_plans_integers_and_bytes_and_other_scales(session):
    before, after = session.variants.whole(PLAN), session.variants.whole(TUNED)
    assert set(before) == set(after)
    changed = 0
    for name, weight in after.items():
        ours, theirs = weight.parts(), before[name].parts()
        assert torch.equal(ours.integers, theirs.integers)
        assert weight.stored_bytes == before[name].stored_bytes
        changed += not torch.equal(ours.scale, theirs.scale)
    assert changed > len(after) // 2
    assert not torch.equal(session.model(TUNED).get_parameter(NORM), session.model(PLAN).get_parameter(NORM))
    assert TUNED in run_record(session).variants


def test_it_is_compared_with_the_plan_on_held_out_sequences(session):
    cell = whole_plans.compare_plans(session, silent)
    plans = {plan.name: plan for plan in cell.plans}
    plan, tuned = plans[PLAN], plans[TUNED]
    assert (tuned.origin, tuned.rounded) == ("tuned", "tuned")
    assert (tuned.units, tuned.stored_bytes) == (plan.units, plan.stored_bytes)
    assert tuned.kl_nats != plan.kl_nats
    with torch.no_grad():  # the norms count too
        rows = session.held_out.sequences
        ids = torch.tensor([rows[0].ids])
        log_p, log_q = (session.model(name)(input_ids=ids).logits.log_softmax(-1) for name in (session.reference_id, TUNED))
    assert float((log_p.exp() * (log_p - log_q)).sum()) == pytest.approx(tuned.kl_nats[0], rel=1e-3)


def test_a_resumed_run_reads_the_weights_again_and_refuses_others(session, profile, folder, tmp_path):
    cells = [session.sweep(), session.search(), session.tune()]
    entries = [Entry(bench=str(number), rounds_s=(1.0,), cell=cell) for number, cell in enumerate(cells)]
    resumed = Session(profile, folder=folder)
    resumed.adopt(entries)
    for name, weight in resumed.variants.whole(TUNED).items():
        assert torch.equal(weight.parts().scale, session.variants.whole(TUNED)[name].parts().scale)
    with pytest.raises(PlanError, match="cannot be read"):
        Session(profile, folder=tmp_path).adopt(entries)
    with pytest.raises(BitzonesError, match="no known folder"):
        Session(profile).adopt(entries)
