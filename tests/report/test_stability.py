"""What the report says of how firm zones are: plainly where they do not hold, nothing where nothing can be told."""

from __future__ import annotations

import pytest
from make_run import decided, planned, profile, run_dict, write

from bitzones.analysis.analyze import analyse, read_run
from bitzones.analysis.plan import Fused, SplitGroup, SplitHalf
from bitzones.analysis.results import Analysis, Decision
from bitzones.report.markdown import decisions, stability
from bitzones.report.markdown.summary import headline


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyse(read_run(write(tmp_path_factory.mktemp("run"), run_dict(planned(), profile()))))


def having(analysis: Analysis, **changes: object) -> tuple[Analysis, Decision]:
    decision = decided(analysis).model_copy(update=changes)
    return analysis.model_copy(update={"decision": decision}), decision


def test_zones_that_the_plan_follows(analysis: Analysis) -> None:
    text = decisions.zones(analysis)
    assert "solved around the searched plan" in text
    assert "The plan agrees with the zones of all 12 layers" in text
    assert "two halves of the sequences agree on 12 of 12 layers (100%), n = 20 and 20 sequences." in text
    assert "From separate sensitivities, where the halves share no plan, they agree on " in text
    assert headline(analysis)[0].endswith("; split-half agreement on 12 of 12")


def test_zones_that_the_plan_does_not_follow(analysis: Analysis) -> None:
    changed, _ = having(analysis, contradicted=(3,))
    assert "**The recommended plan differs from the zones in 1 of 12 layers**. layer 3 is SAFE and stored as qint2:hqq" in decisions.zones(
        changed
    )
    assert "; the plan differs from the zone in 1 of them; split-half agreement" in headline(changed)[0]


def test_halves_that_differ_are_said_plainly(analysis: Analysis) -> None:
    found = decided(analysis).split_half[0]
    lost = found.model_copy(update={"agree": found.layers[:9], "holds": False})
    changed, decision = having(analysis, split_half=(lost,))
    assert (
        "agree on 9 of 12 layers (75%), n = 20 and 20 sequences. **Below 80%, the zones are not reliable**: those of layers 9-11 depend on"
        in (stability.split_half(decision))
    )
    assert headline(changed)[0].endswith("; split-half agreement on 9 of 12, so the zones are not reliable")


def test_halves_of_too_few_sequences_say_so(analysis: Analysis) -> None:
    few = SplitHalf(around="plan", sequences=(12, 11), layers=(0,), zones=(("INCONCLUSIVE",), ("INCONCLUSIVE",)), agree=None, holds=None)
    _, decision = having(analysis, split_half=(few, few.model_copy(update={"around": "reference"})))
    assert stability.split_half(decision).count("inconclusive, n = 12 and 11 sequences") == 1
    assert stability.split_half_in_short(decision) == ""


def test_no_layer_is_safe_at_a_budget_or_at_a_tolerance(analysis: Analysis) -> None:
    decision = decided(analysis)
    assert stability.none_safe(decision) == ""
    zones = tuple(zone for zone in decision.zones if zone.zone != "SAFE")
    unsafe = decision.model_copy(update={"zones": zones})
    assert stability.none_safe(unsafe) == "**No layer is SAFE** at 4 average bits."
    plan = unsafe.plan.model_copy(update={"budget": unsafe.plan.budget.model_copy(update={"tolerance": 0.0512})})
    said = stability.none_safe(unsafe.model_copy(update={"plan": plan}))
    assert said == "**No layer is SAFE** at a tolerance of 0.0512 nats per token, 4 average bits."


def test_a_plan_that_cannot_be_served_fused_says_which_groups(analysis: Analysis) -> None:
    split = tuple(SplitGroup(layer=layer, group="attn.qkv") for layer in (0, 1, 4))
    changed, decision = having(analysis, fused=Fused(groups=24, split=split))
    text = decisions.plan(changed)
    assert "**It cannot be served fused**: 3 of the 24 groups that serving engines fuse mix formats" in text
    assert "(attn.qkv of layers 0-1, 4)" in text
    assert "can be served fused: each of the 24" in stability.fused(decision.model_copy(update={"fused": Fused(groups=24, split=())}))
    assert "fused" not in decisions.plan(analysis)
