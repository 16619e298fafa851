"""The summary says what the issue asks of it, with n and spread, and shows no text of a run file as markup."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_run import accuracy, cells, hostile, profile, run_dict, sensitivity, small, write

from bitzones.decide.analysis import Analysis
from bitzones.decide.collect import analyse, read_run
from bitzones.profile import Budget
from bitzones.records import Figure
from bitzones.show import tables
from bitzones.show.summary import headline, summary

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyse(read_run(write(tmp_path_factory.mktemp("run"))))


@pytest.fixture(scope="module")
def text(analysis: Analysis) -> str:
    return summary(analysis)


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def row(text: str, *begins: str) -> list[str]:
    for line in text.splitlines():
        found = [part.strip() for part in line.strip("|").split("|")]
        if found[: len(begins)] == list(begins):
            return found
    raise AssertionError(f"no row {begins} in\n{text}")


def test_golden_summary() -> None:
    assert summary(analyse(read_run(GOLDEN / "run.json"))) == (GOLDEN / "summary.md").read_text(encoding="utf-8")


def test_accuracy_with_k_n_interval_chance_and_time(text: str) -> None:
    found = row(section(text, "Accuracy"), "science_mini (acc)", "w2")
    assert found[2:] == ["qint2:hqq", "160/500", "32.0% [28.1%, 36.2%]", "25.0%", "yes (p = 0.00025)", "2.50 s", "6,000"]


def test_verdicts_with_the_smallest_drop(text: str) -> None:
    found = section(text, "Accuracy")
    assert row(found, "science_mini", "w2")[2] == "**worse**"
    assert re.fullmatch(r"\*\*no worse within \d\.\d points\*\*", row(found, "science_mini", "w8")[2])
    assert row(found, "science_mini", "w8")[-2:] == ["1.6%", "500"]


def test_twenty_items_cannot_tell_what_a_thousand_can(tmp_path: Path) -> None:
    words = []
    for items in (20, 1000):
        found = [accuracy("science_mini", variant, int(items * share), items) for variant, share in (("bf16", 0.9), ("w4", 0.85))]
        analysis = analyse(read_run(write(tmp_path, run_dict([*found, sensitivity()]))))
        words.append(row(section(summary(analysis), "Accuracy"), "science_mini", "w4")[2])
        assert any("Whether w4 is worse on science_mini: 20 items" in line for line in analysis.cannot_tell) == (items == 20)
    assert words == ["**cannot tell**", "**worse**"]


def test_extremes_with_intervals(text: str) -> None:
    found = section(text, "Most critical and safest layers")
    rows = [line for line in found.splitlines() if " sensitive " in line and " layer " in line and "|" in line]
    assert len(rows) == 7  # the head, three of each
    assert {row(found, "most sensitive", f"layer {layer}")[0] for layer in (0, 5)} == {"most sensitive"}
    assert {row(found, "least sensitive", f"layer {layer}")[0] for layer in (3, 7, 8)} == {"least sensitive"}
    assert re.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\]", row(found, "most sensitive", "layer 5")[2])
    assert "n = 40" in found


def test_zones_save_stored_bytes(text: str, analysis: Analysis) -> None:
    saved = (analysis.plan.reference_bytes - analysis.plan.achieved.stored_bytes) / 1e6
    assert row(section(text, "Zones"), "all")[5] == f"{saved:.3f} MB"
    assert row(section(text, "Zones"), "SAFE")[1] == "3, 7-8"


def test_no_layer_is_safe_is_said(tmp_path: Path) -> None:
    of = profile(budget=Budget(average_bits=8.09))
    analysis = analyse(read_run(write(tmp_path, run_dict([sensitivity()], of))))
    assert "**No layer is safe**" in summary(analysis)
    assert "no layer is SAFE" in headline(analysis)[0]


def test_too_few_sequences_are_said_at_the_top(tmp_path: Path) -> None:
    analysis = analyse(read_run(write(tmp_path, run_dict([sensitivity(sequences=12)]))))
    assert headline(analysis)[0] == "Zones: cannot tell, 12 calibration sequences are too few"
    assert "No layer is safe" not in summary(analysis)


def test_attention_with_an_interpretation_per_layer(text: str) -> None:
    found = section(text, "Attention")
    assert row(found, "0")[4].startswith("heads attend nearly evenly (specialization 0.10")
    assert row(found, "6")[4].startswith("heads concentrate on few positions (specialization 0.58")
    assert "above the median layer's 0.27" in row(found, "9")[4]
    assert "below the median layer's 0.27" in row(found, "0")[4]
    assert "cannot tell it from the median layer's" in row(found, "3")[4]
    assert "outliers in the output (kurtosis 45" in row(found, "2")[4]
    assert sum(line.startswith("| ") for line in found.splitlines()) == 13


def test_activations_of_every_layer(text: str) -> None:
    assert row(section(text, "Activations"), "2") == ["2", "0.01", "3", "0.8", "9", "0.8%", "45"]


def test_latency_with_spread_rounds_and_ratio(text: str) -> None:
    found = row(section(text, "Latency"), "decode, batch 1, prompt 64", "w4")
    assert found[6] == "20"
    assert re.fullmatch(r"1\.50 \[1\.4\d, 1\.5\d\]", found[7])


def test_memory_shows_a_status_and_never_zero(text: str) -> None:
    found = row(section(text, "Memory"), "w2")
    assert found[1] == "0.529 MB"
    assert found[-2:] == ["unsupported", "no-permission"]


def test_the_sum_stands_beside_the_whole_and_the_plan_is_not_measured(text: str) -> None:
    found = section(text, "Do the separate sensitivities add up?")
    assert row(found, "w2")[3] == "1.80 [1.80, 1.80]"
    assert row(found, "the plan")[2] == "not measured"
    assert "for w2 the measured KL is 1.80 times the sum" in section(text, "What the data cannot tell")


def test_failed_cells_and_measurements_are_listed(tmp_path: Path) -> None:
    text = summary(analyse(read_run(write(tmp_path, run_dict(small())))))
    found = section(text, "Failed cells")
    assert row(found, "latency", "w2")[2:] == ["prefill", "failed", "out of memory"]
    assert row(found, "sensitivity", "qint2:hqq")[2:4] == ["layers.1", "failed"]
    assert row(section(text, "Plan"), "layers.1")[6] == "not offered"


def test_method_and_limits_are_there(text: str) -> None:
    assert "McNemar" in section(text, "Method")
    assert "Sensitivity on other text" in section(text, "What the data cannot tell")


def test_three_lines_for_the_last_screen(analysis: Analysis) -> None:
    zones, plan, verdicts = headline(analysis)
    assert zones.startswith("Zones of 12 layers at 4 average bits: 3 SAFE (3, 7-8)")
    assert "; never at the fewest bits: 0" in zones
    assert "not measured as a whole" in plan
    assert "science_mini n=500" in verdicts
    assert "w2 32.0% worse" in verdicts
    assert not any("\n" in line for line in (zones, plan, verdicts))


def test_long_tables_are_folded(tmp_path: Path) -> None:
    text = summary(analyse(read_run(write(tmp_path, run_dict(cells(layers=80))))))
    assert text.count("<details>") == text.count("</details>") == 3


def test_hostile_names_are_text(tmp_path: Path) -> None:
    analysis = analyse(read_run(write(tmp_path, hostile())))
    text = summary(analysis)
    assert "<script" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "](http://y)" not in text
    assert "```" not in text
    assert "\n# h" not in text
    for block in text.split("\n\n"):
        table = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in table}) <= 1
    assert not any(mark in line for line in headline(analysis) for mark in ("\x1b", "\u202e", "\n"))


@given(st.text(max_size=60))
def test_markdown_leaves_no_markup(text: str) -> None:
    shown = tables.markdown(text)
    assert not set(shown) & set('|<>`*[]\\~"$@!^{}\n\r\t\x1b')
    assert all(match in shown for match in re.findall(r"[a-z]{3,}", tables.plain(text)))


@given(st.text(max_size=40))
def test_mermaid_leaves_no_syntax(text: str) -> None:
    assert re.fullmatch(r"(?:[A-Za-z0-9 .,:/()+=%?_-]|#\d+;)*", tables.mermaid(text))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Figure(value=None, unit="bytes", status="no-permission"), "no-permission"),
        (Figure(value=2.5e6, unit="bytes", status="ok"), "2.500 MB"),
        (Figure(value=0, unit="bytes", status="ok"), "0.000 MB"),
        (Figure(value=21.5, unit="J", status="ok"), "21.5 J"),
    ],
)
def test_figures(value: Figure, said: str) -> None:
    assert tables.figure(value) == said


def test_a_list_number_is_escaped_and_a_version_is_not() -> None:
    assert tables.markdown("12. x") == "&#49;2. x"
    assert tables.markdown("2.13.0") == "2.13.0"
    assert tables.markdown("- x") == "&#45; x"
