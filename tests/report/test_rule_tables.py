"""The section on rules of thumb: every rule has a row and a reason, nothing is claimed that was not tested, and names cannot break it."""

from __future__ import annotations

from bitzones.analysis.plan import PlanBudget
from bitzones.analysis.plan_verdicts import RuleAudit, RuleReading
from bitzones.report.markdown.rule_tables import critical, rules
from bitzones.stats.intervals import Interval

NASTY = "a|b<script>alert(1)</script>\n\n# h `c` [x](http://y)"


def reading(**changes: object) -> RuleReading:
    values: dict[str, object] = {
        "rule": "weight kurtosis",
        "claim": "the heavier the tails, the more sensitive",
        "source": "folklore",
        "layers": 30,
        "critical": 6,
        "spearman": Interval(value=0.8, low=0.55, high=0.91),
        "p": 0.00001,
        "p_adjusted": 0.00002,
        "flagged": (3, 4, 5, 9),
        "precision": Interval(value=0.75, low=0.3, high=0.95),
        "recall": Interval(value=0.5, low=0.19, high=0.81),
        "base_rate": 0.2,
        "statistic": "entropy",
        "verdict": "holds",
        "reason": "better_than_random",
    }
    return RuleReading.model_validate({**values, **changes})


def missing(rule: str) -> RuleReading:
    nothing = dict.fromkeys(("spearman", "p", "p_adjusted", "precision", "recall", "base_rate"))
    return reading(rule=rule, claim="unknown", layers=0, critical=0, flagged=(), verdict="not measured", reason="no_statistic", **nothing)


def row(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_says_everything_that_was_found() -> None:
    assert row(rules([reading()]), "weight kurtosis") == [
        "weight kurtosis: the heavier the tails, the more sensitive",
        "0.80 [0.55, 0.91]",
        "< 0.0001",
        "3-5, 9",
        "75% [30%, 95%]",
        "20.0%",
        "50% [19%, 81%]",
        "**holds**",
    ]
    assert row(rules([reading(p_adjusted=0.0234)]), "weight kurtosis")[2] == "0.023"


def test_what_is_missing_is_never_a_number() -> None:
    assert row(rules([missing("entropy")]), "entropy") == ["entropy: unknown", "-", "-", "-", "-", "-", "-", "**not measured**"]


def test_the_answer_comes_first_and_names_names() -> None:
    failed = reading(rule="depth", verdict="does not hold", reason="mostly_not_critical")
    text = rules([reading(), failed, missing("entropy")])
    assert text.startswith(
        "## Do the rules of thumb hold?\n\n2 of 3 rules could be tested against the measured sensitivity of n = 30 layers"
    )
    assert "6 of them critical. Hold: weight kurtosis. Do not hold: depth." in text
    assert "Hold: none. Do not hold: none." in rules([missing("entropy")])


def test_equal_reasons_take_one_line() -> None:
    text = rules([missing("entropy"), reading(), missing("focus")])
    assert "- entropy, focus: **not measured**; no layer has a value of entropy." in text.splitlines()
    assert "- weight kurtosis: **holds**; better than a random set of the same size (adjusted p = 2e-05)." in text.splitlines()


def test_names_cannot_break_the_section() -> None:
    text = rules([reading(rule=NASTY, claim=NASTY, statistic=NASTY, reason="constant_statistic")])
    assert "<script>" not in text
    assert "[x](" not in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_without_readings_there_is_no_section() -> None:
    assert rules([]) == ""


def test_what_critical_means_stands_beside_the_section() -> None:
    audit = RuleAudit(
        format="qint2:hqq", budget=PlanBudget(average_bits=3.0, stored_bytes=9), agreement=0.9, critical=(0, 1, 5), rules=(reading(),)
    )
    said = critical(audit, 200)
    assert (
        "at least 90% of the 200 resampled plans, at 3 average bits, do not store it wholly in qint2:hqq. Critical layers: 0-1, 5." in said
    )
    assert said in rules(audit.rules, said)
    assert critical(None, 200) == ""
