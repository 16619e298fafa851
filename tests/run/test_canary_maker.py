"""The record of a plan, and requests computed by both models: against what the models compute when they are asked directly."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import make_plan
import pytest
import tiny_models
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import bitzones
from bitzones.backends import quantizing
from bitzones.deploy.plan_file import PlanFile, check_plan
from bitzones.monitor.state import opened
from bitzones.run import canary_maker, shadow
from bitzones.run.session import Session
from bitzones.schema import profile_files
from bitzones.schema.canary_record import CanaryRecord, read_canary
from bitzones.schema.errors import ArgumentError, BitzonesError, ModelError
from bitzones.schema.run_record import Run


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def run(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("profile") / "tiny.toml"
    place.write_text(tiny_models.profile_text(str(source)), encoding="utf-8")
    profile = profile_files.load(str(place))
    session = Session(profile)
    return Run(
        bitzones="0.1.0",
        profile=profile,
        model=session.variants.info(),
        variants=session.variants.formats,
        environment=session.environment(),
    )


@pytest.fixture(scope="module")
def plan(source: Path) -> PlanFile:
    made = make_plan.for_tiny_llama(source, hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest())
    size = sum(2 * tiny_models.llama(torch.bfloat16).get_parameter(f"{name}.weight").numel() for name in made.assignment)
    return check_plan(made.model_copy(update={"reference_bytes": size}))


@pytest.fixture(scope="module")
def record(run: Run, plan: PlanFile) -> CanaryRecord:
    return canary_maker.made(run, plan, None, None, 30)


def quantized(source: Path, plan: PlanFile) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    bitzones.apply(plan.plan, model)
    quantizing.set_compute_dtype(model, torch.float32)
    return model.eval()


@torch.no_grad()
def last(model: PreTrainedModel, ids: tuple[int, ...]) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
    return found


def test_it_predicts_what_the_plans_model_and_the_reference_compute(record: CanaryRecord, source: Path, plan: PlanFile) -> None:
    model = quantized(source, plan)
    reference = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).float()
    for prompt in record.prompts[:5]:
        for found, expected in ((prompt.plan, last(model, prompt.prompt_ids)), (prompt.reference, last(reference, prompt.prompt_ids))):
            assert len(found.token_ids) == record.top == 20
            assert torch.allclose(torch.tensor(found.logprobs), expected[list(found.token_ids)], atol=1e-4)
            assert found.logprobs[0] == max(found.logprobs)
            assert found.logprobs[-1] >= float(expected.sort(descending=True).values[19]) - 1e-4


def test_prompts_are_beginnings_that_the_tokenizer_gives_back(record: CanaryRecord, run: Run) -> None:
    whole = [sequence.ids for sequence in Session(run.profile).held_out.sequences]
    tokenizer = tiny_models.tokenizer()
    assert len({prompt.prompt_ids for prompt in record.prompts}) == len(record.prompts) == 30
    for prompt in record.prompts:
        assert any(ids[: len(prompt.prompt_ids)] == prompt.prompt_ids for ids in whole)
        assert tuple(tokenizer(prompt.text)["input_ids"]) == prompt.prompt_ids
        assert len(prompt.prompt_ids) >= canary_maker.SHORTEST


def test_it_says_what_another_dtype_and_the_plan_cost(record: CanaryRecord) -> None:
    assert (record.dtype, record.noise_dtype) == ("float32", "bfloat16")
    assert all(0 < prompt.noise_nats < 0.01 for prompt in record.prompts)
    assert record.kl_nats > 0.01, "a random model at 2 bits is far from itself"


def test_the_sensitivity_set_is_described_by_task(record: CanaryRecord) -> None:
    found = record.traffic.sequences
    assert {sequence.domain for sequence in found} == {"science_mini", "word_problems_mini"}
    assert all(sequence.tokens == sequence.characters + 1 for sequence in found), "one token per character, and the one that opens"
    assert all(3 < sequence.entropy_nats < 5.6 and sequence.nll_nats > 3 for sequence in found), "a random model of 257 tokens"


def test_it_is_written_and_read_back(record: CanaryRecord, tmp_path: Path) -> None:
    (tmp_path / "canary.json").write_text(record.model_dump_json(by_alias=True), encoding="utf-8")
    again = read_canary(tmp_path / "canary.json")
    assert again == record
    assert again.sha256 == record.sha256


@pytest.fixture(scope="module")
def folder(source: Path, plan: PlanFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("served") / "model"
    bitzones.export(plan.plan, place)
    return place


def test_a_folder_that_is_served_has_the_record_of_its_plan(run: Run, record: CanaryRecord, folder: Path) -> None:
    found = canary_maker.made(run, None, folder, None, 30)
    assert (found.served, found.task) == (str(folder), None), "a folder of one plan has no tasks"
    assert [prompt.prompt_ids for prompt in found.prompts] == [prompt.prompt_ids for prompt in record.prompts]
    for one, other in zip(found.prompts, record.prompts, strict=True):
        assert dict(zip(one.plan.token_ids, one.plan.logprobs, strict=True)) == pytest.approx(
            dict(zip(other.plan.token_ids, other.plan.logprobs, strict=True)), abs=1e-5
        )


def test_another_model_than_the_runs_is_refused(run: Run, plan: PlanFile) -> None:
    assert run.model is not None
    other = run.model_copy(update={"model": run.model.model_copy(update={"sha256": "0" * 64})})
    with pytest.raises(ModelError, match="another SHA-256"):
        canary_maker.made(other, plan, None, None)


@pytest.mark.parametrize("given", [{"prompts": 0}, {"prompts": 20_000}, {"plan": "a", "model": "b"}, {"task": "svamp"}])
def test_arguments_that_make_no_sense(given: dict[str, object]) -> None:
    with pytest.raises(ArgumentError):
        bitzones.make_canary("run.json", **given)  # type: ignore[arg-type]


# --- shadowing


@pytest.fixture
def run_file(run: Run, tmp_path: Path) -> Path:
    """A file with the run and one cell, which shadowing does not read."""
    cell = {"kind": "failed", "schema": 4, "variant": "w4", "of": "memory", "reason": "not asked"}
    data = {"bitzones": json.loads(run.model_dump_json(by_alias=True)), "benchmarks": [{"extra_info": {"bitzones": cell}}]}
    (tmp_path / "run.json").write_text(json.dumps(data), encoding="utf-8")
    return tmp_path / "run.json"


def test_the_kl_is_that_of_the_two_models(
    run_file: Path, record: CanaryRecord, folder: Path, source: Path, plan: PlanFile, tmp_path: Path
) -> None:
    log, prompt = tmp_path / "log.jsonl", "How many apples?"
    log.write_text(json.dumps({"prompt": prompt, "domain": "fruit"}) + "\n" + json.dumps({"prompt": "x" * 600}) + "\n", encoding="utf-8")
    with opened(tmp_path / "state") as state:
        found = shadow.batch(run_file, record, state, log, folder, None, 1.0, "cpu", lambda line: None)
        again = shadow.batch(run_file, record, state, log, folder, None, 1.0, "cpu", lambda line: None)
    ids = torch.tensor([tiny_models.tokenizer()(prompt)["input_ids"]])
    with torch.no_grad():
        reference = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).float()
        p, q = (model(input_ids=ids).logits[0].log_softmax(-1) for model in (reference, quantized(source, plan)))
    (domain,) = found.domains
    assert (domain.domain, domain.prompts, domain.tokens, found.passed_over) == ("fruit", 1, 17, 1)
    assert domain.kl_nats == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3)
    assert domain.bound_nats == pytest.approx(shadow.MARGIN * (record.kl_high_nats or record.kl_nats))
    assert (again.requests, again.domains) == (0, found.domains), "what was read is not read again"


def test_a_domain_that_costs_more_is_to_be_calibrated_on(run_file: Path, record: CanaryRecord, folder: Path, tmp_path: Path) -> None:
    cheap = record.model_copy(update={"kl_nats": record.kl_nats / 20, "kl_high_nats": None})
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"prompt": f"What is {n} and {n}?", "task": "sums"}) + "\n" for n in range(60)), encoding="utf-8")
    with opened(tmp_path / "one") as one, opened(tmp_path / "other") as other:
        found = shadow.batch(run_file, cheap, one, log, folder, "base", 1.0, "cpu", lambda line: None)
        fine = shadow.batch(run_file, record, other, log, folder, "base", 1.0, "cpu", lambda line: None)
    assert [(domain.domain, domain.alarm) for domain in found.domains] == [("sums", True)]
    assert not fine.alarm
    assert found.domains[0].low is not None


def test_a_share_of_the_requests_is_sampled_and_always_the_same() -> None:
    from bitzones.monitor.request_log import Request

    chosen = [n for n in range(20_000) if shadow.is_sampled(Request(prompt=f"p{n}"), n, 0.01)]
    assert 140 < len(chosen) < 260
    assert chosen == [n for n in range(20_000) if shadow.is_sampled(Request(prompt=f"p{n}"), n, 0.01)]


@pytest.mark.parametrize(("line", "task"), [('{"task": "a"}', None), ('{"prompt": "abc"}', "none")])
def test_what_cannot_be_shadowed_is_a_line(
    line: str, task: str | None, run_file: Path, record: CanaryRecord, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "log").write_text(line + "\n", encoding="utf-8")
    with opened(tmp_path / "state") as state:
        with pytest.raises(BitzonesError) as caught:
            shadow.batch(run_file, record, state, tmp_path / "log", folder, task, 1.0, "cpu", lambda line: None)
        assert "\n" not in str(caught.value)
        assert state.value(f"shadow {(tmp_path / 'log').resolve()}") is None, "the log was not read on"
