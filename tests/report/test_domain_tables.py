"""Text of every kind in the report: the headline, the tables, and which domains a plan is recommended for."""

from __future__ import annotations

import json
from pathlib import Path

import make_domains
import pytest
from make_run import analysed, hostile, planned, write

from bitzones.analysis.analyze import analyse, read_run
from bitzones.analysis.domain_figures import DomainsReading
from bitzones.analysis.results import Analysis
from bitzones.report.markdown import domain_tables, headline, summary
from bitzones.report.mermaid import metric_charts


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analysed(tmp_path_factory.mktemp("run"), [*planned(), *make_domains.domains()])


def domains(analysis: Analysis) -> DomainsReading:
    assert analysis.domains is not None
    return analysis.domains


def rows(text: str) -> dict[str, list[str]]:
    """First cell -> the other cells of every row of every table."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in cells}


def test_the_headline_names_the_worst_domain_first_and_then_every_domain(analysis: Analysis) -> None:
    first, *others = domain_tables.lines(analysis)
    law = domains(analysis).domains[1].of("plan")
    assert law is not None
    assert f"law (unseen: in no set), KL {law.kl.value:.3g}" in first
    assert [line.split(",")[0] for line in others] == ["Domain tasks", "Domain law (unseen: in no set)"]
    assert all(f"{variant} " in line for line in others for variant in ("w8", "w4", "w2", "plan"))
    assert [line for line in summary.headline(analysis) if line in (first, *others)] == [first, *others]


def test_the_first_screen_says_where_the_plan_is_worst(analysis: Analysis) -> None:
    cost = headline.answers(analysis)[-1]
    assert cost.details[-1].startswith("Worst domain of the searched plan: law")


def test_a_plan_is_recommended_for_the_domains_where_it_wins(analysis: Analysis) -> None:
    found = domains(analysis)
    told = {"tasks": "wins", "law": "loses"}
    changed = tuple(item.model_copy(update={"outcome": told[item.name]}) for item in found.domains)
    said = domain_tables.verdict_by_domain(found.model_copy(update={"domains": changed}))
    assert said == (
        "recommended for tasks, where it measured better than every other variant within the budget; "
        "not for law, where another variant within the budget measured better"
    )


def test_the_table_is_that_of_llama_perplexity(analysis: Analysis) -> None:
    (title, body), *_ = domain_tables.statistics(analysis)
    assert title.startswith("tasks")
    made = rows(body)
    plan = domains(analysis).domains[0].of("plan")
    assert plan is not None
    wanted = ("mean PPL(Q)", "Cor(ln(PPL(Q)), ln(PPL(base)))", "mean ln(PPL(Q)/PPL(base))", "mean KLD", "maximum KLD", "99.9% KLD")
    more = ("99.0% KLD", "median KLD", "minimum KLD", "mean Δp", "RMS Δp", "same top p")
    assert set(wanted + more) <= set(made)
    assert made["maximum KLD"][3] == f"{plan.kl_max:.4g}"
    assert made["same top p"][3].startswith(f"{100 * plan.same_top.value:.2f} [")
    assert made["mean PPL(Q)"][3].startswith(f"{plan.perplexity.value:.4g} [")


def test_the_summary_has_a_row_for_every_variant_and_folds_the_rest(analysis: Analysis) -> None:
    text = summary.summary(analysis)
    section = text[text.index("## KL and perplexity by domain") :]
    section = section[: section.index("\n## ", 1)]
    assert {"w8", "w4", "w2", "**plan**"} <= set(rows(section))
    assert section.count("<details>") == 2


def test_without_domains_nothing_is_said(tmp_path: Path) -> None:
    bare = analysed(tmp_path, planned())
    assert list(domain_tables.lines(bare)) == []
    assert domain_tables.by_domain(bare) == domain_tables.folded(bare) == ""
    assert metric_charts.domains(bare) is None


def test_a_name_that_is_hostile_is_escaped(tmp_path: Path) -> None:
    bad = analyse(read_run(write(tmp_path, hostile())))
    text = domain_tables.by_domain(bad) + domain_tables.folded(bad)
    assert "<script>" not in text
    assert "[x](http" not in text
    chart = json.dumps(metric_charts.domains(bad))
    assert "\\u001b" not in chart


def test_a_panel_for_every_domain_on_one_axis(analysis: Analysis) -> None:
    chart = metric_charts.domains(analysis)
    assert chart is not None
    scales = {json.dumps(layer["encoding"]["x"].get("scale")) for panel in chart["concat"] for layer in panel["layer"][:2]}
    assert len(chart["concat"]) == 2
    assert len(scales) == 1
    assert [row["variant"] for row in chart["concat"][0]["data"]["values"]] == ["w8", "w4", "w2", "plan"]
