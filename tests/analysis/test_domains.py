"""Perplexity and divergence by domain: known answers, paired verdicts, and what is said of the plan."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import make_domains
import numpy as np
import pytest
from make_run import analysed, planned, profile, run_dict, without, write

from bitzones.analysis import domains
from bitzones.analysis.domain_figures import DomainsReading
from bitzones.analysis.reader import read_run
from bitzones.schema.domain_cell import DomainCell
from bitzones.schema.errors import RunFileError
from bitzones.schema.plan_cells import PlansCell
from bitzones.schema.record import Record
from bitzones.schema.run_record import Run


def read(found: list[DomainCell], folder: Path | None = None) -> DomainsReading:
    run = Run.model_validate(run_dict([*found])["bitzones"])
    reading = domains.read_domains(run, found, None)
    assert reading is not None
    return reading


def test_two_tokens_by_hand() -> None:
    """The variant gives the tokens that follow 1/4 and 1/4, the reference 1/2 and 1/4."""
    two, four = math.log(2), math.log(4)
    cell = DomainCell(
        variant="w4",
        domain="law",
        sequences_sha256="l" * 64,
        window=16,
        stride=16,
        context=0,
        joined=True,
        scored_tokens=(1, 1),
        nll_nats=(four, four),
        reference_nll_nats=(two, four),
        nll_squares=((four**2, two**2, two * four), (four**2, four**2, four**2)),
        kl_nats=(0.25 * two, 0.0),
        same_top=(0, 1),
        change=(-0.25, 0.0),
        change_squares=(0.0625, 0.0),
        kl_tokens=("0.173", "0"),
        change_tokens=("-2500", "0"),
    )
    figures = read([cell]).domains[0].figures[0]
    assert figures.perplexity.value == pytest.approx(4.0)
    assert read([cell]).domains[0].reference_perplexity.value == pytest.approx(math.sqrt(8))
    assert figures.change.log_ratio.value == pytest.approx(two / 2)
    assert figures.change.ratio.value == pytest.approx(math.sqrt(2))
    assert figures.change.difference.value == pytest.approx(4 - math.sqrt(8))
    assert figures.change.correlation is None  # the variant's likelihood is the same everywhere
    assert figures.kl.value == pytest.approx(0.125 * two)
    assert figures.kl_max == 0.173
    assert figures.same_top.value == 0.5
    assert figures.probability_change.value == -0.125
    assert figures.probability_change_rms.value == pytest.approx(math.sqrt(0.03125))
    assert [(item.share, item.value.value) for item in figures.kl_quantiles if item.share in {0.0, 0.5, 0.9}] == [
        (0.0, 0.0),
        (0.5, 0.0),
        (0.9, 0.173),
    ]
    assert figures.kl.low is None  # two windows give no interval
    assert figures.change.verdict.word == "inconclusive"


def test_the_correlation_is_that_of_tokens() -> None:
    cell = make_domains.domain("law", "w4")
    figures = read([cell]).domains[0].figures[0]
    rng = np.random.default_rng(len("law"))
    reference = rng.gamma(2.0, 2.0, (make_domains.WINDOWS, make_domains.SCORED))
    drawn = np.random.default_rng(len("law") + len("w4") + ord("4"))
    kl = 0.2 * drawn.exponential(size=reference.shape) * drawn.lognormal(0, 0.3, (make_domains.WINDOWS, 1))
    nll = np.maximum(0.0, reference + kl + 0.02 * drawn.standard_normal(reference.shape))
    assert figures.change.correlation == pytest.approx(np.corrcoef(nll.ravel(), reference.ravel())[0, 1])
    assert figures.kl.value == pytest.approx(kl.mean())
    assert figures.perplexity.value == pytest.approx(math.exp(nll.mean()))


def test_verdicts_are_paired_and_corrected_by_domain() -> None:
    found = {(item.name, figures.variant): figures for item in read(make_domains.domains()).domains for figures in item.figures}
    assert found["law", "w2"].change.verdict.word == "worse"
    assert found["law", "w8"].change.verdict.word in {"equivalent", "worse"}
    assert found["law", "w2"].change.tests == 4
    for figures in found.values():
        assert figures.kl.low is not None
        assert figures.kl.low < figures.kl.value < figures.kl.high  # type: ignore[operator]
        rise = figures.change.log_ratio
        assert rise.high - rise.low < figures.perplexity.high - figures.perplexity.low  # type: ignore[operator]


def test_the_plan_wins_where_nothing_within_the_budget_is_better(tmp_path: Path) -> None:
    analysis = analysed(tmp_path, [*planned(), *make_domains.domains(variants=("w8", "w4", "w2", "plan"))])
    assert analysis.domains is not None
    law = next(item for item in analysis.domains.domains if item.name == "law")
    assert law.unseen
    assert not analysis.domains.domains[0].unseen
    assert analysis.domains.worst == "law"
    assert {item.variant: item.word for item in law.compared} == {"w8": "worse", "w4": "worse", "w2": "better"}
    within = {item.variant: item.within_budget for item in law.figures}
    assert within["w2"] is True
    assert within["w8"] is False
    expected = "loses" if within["w4"] else "wins"
    assert law.outcome == expected
    assert ("law" in analysis.domains.recommended_for) == (expected == "wins")


def test_where_no_plans_were_compared_a_uniform_format_is_within_the_budget_by_its_bytes(tmp_path: Path) -> None:
    measured = [*without(PlansCell, planned()), *make_domains.domains(variants=("w8", "w4", "w2", "plan"))]
    law = next(item for item in analysed(tmp_path, measured).domains.domains if item.name == "law")  # type: ignore[union-attr]
    assert {item.variant: item.within_budget for item in law.figures} == {"w8": False, "w4": False, "w2": True, "plan": None}
    assert {item.variant: item.word for item in law.compared}["w2"] == "better"
    assert law.outcome == "wins"


def test_a_run_without_domains_says_nothing_of_them(tmp_path: Path) -> None:
    assert analysed(tmp_path, planned()).domains is None


def test_a_plan_that_was_not_measured_is_not_judged() -> None:
    reading = read(make_domains.domains(variants=("w8", "w4")))
    assert (reading.worst, reading.recommended_for, reading.not_for) == (None, (), ())
    assert all(item.compared == () and item.outcome == "alone" for item in reading.domains)


def test_a_hopeless_variant_is_a_number_too() -> None:
    figures = read([make_domains.domain("law", "w2", lost=2000.0)]).domains[0].figures[0]
    assert math.isfinite(figures.perplexity.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scored_tokens": (30,) * 24}, "holds another number of tokens than are scored"),
        ({"kl_nats": (0.1,)}, "kl_nats and scored_tokens differ in length"),
        ({"same_top": (32,) * 24}, "same_top counts more tokens than are scored"),
        ({"kl_tokens": ("x",) * 24}, "kl_tokens"),
        ({"context": 8}, "domain law: w4 was measured on other windows than w8"),
        ({"reference_nll_nats": (9.0,) * 24}, "domain law: w4 says that the reference predicts otherwise than w8 says"),
    ],
)
def test_cells_that_contradict_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    found: list[Record] = [*planned(), *make_domains.domains(("law",), ("w8", "w4"))]
    data = run_dict(found, of=profile())
    cell = next(
        b["extra_info"]["bitzones"]
        for b in data["benchmarks"]
        if b["extra_info"]["bitzones"].get("domain") and b["extra_info"]["bitzones"]["variant"] == "w4"
    )
    cell |= change
    with pytest.raises(RunFileError) as caught:
        read_run(write(tmp_path, data))
    assert said in str(caught.value)
