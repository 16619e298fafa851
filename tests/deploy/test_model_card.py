"""The model card says what was done and how far it is from the original, and shows a stranger's words as words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import make_plan
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitzones.analysis.plan import Plan, PlanAccuracy
from bitzones.deploy.model_card import escaped, layer_table, model_card
from bitzones.stats.intervals import Estimate, Interval
from bitzones.stats.verdicts import Verdict

LAYERS = {"l.0.q": 0, "l.0.k": 0, "l.1.q": 1, "l.1.k": 1}
ASSIGNMENT = {"l.0.q": "qint4", "l.0.k": "qint4", "l.1.q": "qint2:hqq", "l.1.k": "bf16", "lm_head": "qint8"}
SIZES = {"l.0.q": 96, "l.0.k": 96, "l.1.q": 96, "lm_head": None}


def card(plan: Plan) -> str:
    assert plan.model is not None
    return model_card(plan, plan.model, LAYERS, 8_000_000, 4_000_000)


def front_matter(text: str) -> list[str]:
    opening, body, _ = text.split("---\n", 2)
    assert opening == ""
    return body.splitlines()


def test_layers_are_rows_and_modules_stand_where_formats_differ() -> None:
    assert layer_table(make_plan.plan(ASSIGNMENT, SIZES), LAYERS).splitlines() == [
        "| layer | formats |",
        "| --- | --- |",
        "| 0 | qint4 |",
        "| 1 | qint2:hqq: q; bf16: k |",
        "| others | qint8: lm_head |",
    ]


def test_the_whole_card() -> None:
    text = card(make_plan.plan(ASSIGNMENT, SIZES))
    assert "8.000 MB in bfloat16, 4.000 MB here" in text
    assert "predicted 0.0156 nats per token (95% interval 0.0133 to 0.0183)" in text
    assert "predicted, not measured as a whole" in text
    assert "3.50 stored bits per weight" in text
    assert "torch 2.13.0" in text
    assert "Accuracy on tasks: not measured with this plan." in text
    assert 'from_pretrained(".")' in text


def test_what_was_measured_is_said_to_be() -> None:
    plan = make_plan.plan(ASSIGNMENT, SIZES)
    measured = Plan.model_validate({**plan.model_dump(by_alias=True), "measured_kl": {"value": 0.02, "low": 0.01, "high": 0.03}})
    text = card(measured)
    assert "measured as a whole: 0.02 nats per token (95% interval 0.01 to 0.03); predicted 0.0156" in text
    assert "not measured as a whole" not in text
    few = card(plan.model_copy(update={"measured_kl": Estimate(value=0.02, low=None, high=None), "measured_sequences": 9}))
    assert "measured as a whole on 9 held-out sequences: 0.02 nats per token (no interval: too few sequences)" in few


def test_accuracy_stands_with_its_interval_and_its_verdict() -> None:
    share = Interval(value=0.5, low=0.4, high=0.6)
    verdict = Verdict(word="non-inferior", within=0.012)
    known = PlanAccuracy(task="t|x", metric="acc", n=100, share=share, verdict=verdict)
    alone = PlanAccuracy(task="u", metric="exact_match", n=90, share=share, verdict=None)
    text = card(make_plan.plan(ASSIGNMENT, SIZES).model_copy(update={"accuracy": (known, alone)}))
    assert "| t&#124;x | acc | 100 | 50.0% | 40.0% to 60.0% | non-inferior (margin 1.2 points) |" in text
    assert "| u | exact_match | 90 | 50.0% | 40.0% to 60.0% | not measured |" in text


@pytest.mark.parametrize(
    ("source", "base"),
    [
        ("owner/name-7B", ['base_model: "owner/name-7B"', "base_model_relation: quantized"]),
        ("embedded:tiny", ['# base_model: no id of the hub: "embedded:tiny"']),
        ("/data/models/x", ['# base_model: no id of the hub: "/data/models/x"']),
        ("a\nlicense: mit", ['# base_model: no id of the hub: "a\\nlicense: mit"']),
        ("a\u2028license: mit", ['# base_model: no id of the hub: "a\\u2028license: mit"']),
    ],
)
def test_the_hub_gets_a_base_model_only_where_it_knows_one(source: str, base: list[str]) -> None:
    lines = front_matter(card(make_plan.plan(ASSIGNMENT, SIZES, source=source)))
    assert lines == [*base, "library_name: optimum-quanto", "pipeline_tag: text-generation", "tags: [quanto, bitzones]"]


def test_a_folder_of_the_name_of_a_hub_id_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert front_matter(card(make_plan.plan(ASSIGNMENT, SIZES, source="owner/name")))[0] == '# base_model: no id of the hub: "owner/name"'


def test_the_title_does_not_tell_where_the_model_lay() -> None:
    text = card(make_plan.plan(ASSIGNMENT, SIZES, source="/home/me/models/smol/"))
    assert "\n# smol, quantized layer by layer\n" in text


EVIL = "<img src=x onerror=alert(1)> [a](https://b.c) | `c` www.d.e\n# f"


def test_nothing_that_a_stranger_wrote_is_markup() -> None:
    names = {f"l.0.{EVIL}": 0}
    plan = make_plan.plan(
        {f"l.0.{EVIL}": "qint4", EVIL: "qint8"},
        {f"l.0.{EVIL}": 96, EVIL: None},
        source=EVIL,
        sha256=EVIL,
        architecture=EVIL,
        compute_dtype=EVIL,
    )
    plan = Plan.model_validate({**plan.model_dump(by_alias=True), "bitzones": EVIL, "versions": {EVIL: EVIL}, "sequences_sha256": EVIL})
    assert plan.model is not None
    text = model_card(plan, plan.model, names, 1, 1)
    body = text.split("---\n", 2)[2]
    assert "<img" not in body
    assert "[a]" not in body
    assert "`c`" not in body
    assert "https://b" not in body
    assert "www.d" not in body
    assert [line for line in body.splitlines() if line.startswith("# ")] == [body.splitlines()[1]]


@given(st.text())
def test_escaped_text_is_one_line_without_markup(text: str) -> None:
    shown = escaped(text)
    assert len(shown.splitlines()) <= 1
    assert not set(re.sub(r"&#\d+;", "", shown)) & set("<>[]|`*&#!~$\\\"'{}^@")
    assert "://" not in shown


@given(st.text(min_size=1))
def test_the_front_matter_keeps_its_lines(source: str) -> None:
    lines = front_matter(card(make_plan.plan(ASSIGNMENT, SIZES, source=source)))
    assert lines[-3:] == ["library_name: optimum-quanto", "pipeline_tag: text-generation", "tags: [quanto, bitzones]"]
    value = lines[0].partition("base_model: ")[2].removeprefix("no id of the hub: ")
    assert json.loads(value) == source
