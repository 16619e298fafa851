"""The summary says what the issue asks of it, with n and spread, and shows no text of a run file as markup."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_run import NASTY, accuracy, cells, decided, divergence, hostile, profile, run_dict, sensitivity, small, without, write

from bitzones.analysis.analyze import analyse, read_run
from bitzones.analysis.results import Analysis
from bitzones.report.markdown import tables
from bitzones.report.markdown.summary import headline, summary
from bitzones.report.mermaid.flow import overview
from bitzones.schema.cells import FailedCell
from bitzones.schema.profile_sections import Budget
from bitzones.schema.record import Figure
from bitzones.schema.sensitivity_cells import SensitivityCell

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyse(read_run(write(tmp_path_factory.mktemp("run"))))


@pytest.fixture(scope="module")
def text(analysis: Analysis) -> str:
    return summary(analysis)


GROUPS = ("attn.qkv", "attn.o", "mlp.gate_up", "mlp.down")


def grouped(tmp_path: Path) -> Analysis:
    """Two layers of four equal groups at a budget of four 4-bit halves: in layer 0 `attn.qkv` and `mlp.gate_up` need 4 bits."""
    cell = sensitivity(layers=2, sequences=24, formats=("qint4", "qint2:hqq"), groups=GROUPS)
    harm = {"layers.0.attn.qkv": 50.0, "layers.0.mlp.gate_up": 50.0}
    planted = [
        item.model_copy(update={"kl_nats": tuple(value * harm.get(item.unit, 1.0) for value in item.kl_nats or ())})
        for item in cell.measurements
    ]
    # Stored bits are 4.33 and 2.33: two of eight units at 4 bits take 2.83 on average.
    of = profile(budget=Budget(average_bits=2.85), formats=("qint4", "qint2:hqq"))
    return analyse(read_run(write(tmp_path, run_dict([cell.model_copy(update={"measurements": tuple(planted)})], of))))


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def row(text: str, *begins: str) -> list[str]:
    for line in text.splitlines():
        found = [unit.strip() for unit in line.strip("|").split("|")]
        if found[: len(begins)] == list(begins):
            return found
    raise AssertionError(f"no row {begins} in\n{text}")


def test_golden_summary() -> None:
    assert summary(analyse(read_run(GOLDEN / "run.json"))) == (GOLDEN / "summary.md").read_text(encoding="utf-8")


def test_accuracy_with_k_n_interval_chance_and_time(text: str) -> None:
    found = row(section(text, "Accuracy"), "science_mini", "acc", "w2")
    assert found[3:] == ["qint2:hqq", "160/500", "32.0% [28.1%, 36.2%]", "25.0%", "yes (p = 0.00025)", "2.50 s", "6,000"]
    found = row(section(text, "Accuracy"), "science_mini", "acc_norm", "w2")
    assert found[3:] == ["qint2:hqq", "156/500", "31.2% [27.3%, 35.4%]", "25.0%", "yes (p = 0.001)", "-", "-"]


def test_where_nothing_can_be_guessed_above_chance_is_vacuous(text: str) -> None:
    assert row(section(text, "Accuracy"), "word_problems_mini", "exact_match", "bf16")[6:8] == ["0.0%", "-"]


def test_how_the_tasks_were_asked(tmp_path: Path) -> None:
    facts = {"origin": "allenai/ai2_arc@210d026 | test", "fewshot": 5, "chat_template": True, "dropped": 3}
    found = [accuracy("arc_easy", name, 30, 60).model_copy(update=facts) for name in ("bf16", "w4")]
    text = section(summary(analyse(read_run(write(tmp_path, run_dict(found))))), "Accuracy")
    asked = ["arc_easy", "60", "3", "allenai/ai2&#95;arc&#64;210d026 &#124; test", "5", "yes", "1", "tttttttttttt"]
    assert row(text, "arc_easy", "60")[:3] == asked[:3]
    assert "&#124; test" in row(text, "arc_easy", "60")[3]
    assert row(text, "arc_easy", "60")[4:] == asked[4:]


def test_verdicts_with_flips_both_p_values_and_the_smallest_drop(text: str) -> None:
    found = section(text, "Accuracy").split("Against the reference", 1)[1]
    assert row(found, "science_mini", "acc", "w2")[3] == "**worse**"
    assert row(found, "science_mini", "acc", "w4")[5:8] == ["25", "0", "60"]
    w8 = row(found, "science_mini", "acc", "w8")
    assert re.fullmatch(r"\*\*equivalent \(margin \d\.\d points\)\*\*", w8[3])
    assert w8[-4:] == ["p = 0.5", "p = 0.5", "2.1%", "500"]
    assert row(found, "science_mini", "acc_norm", "w4")[3] == "**worse**"


def test_twenty_items_cannot_tell_what_a_thousand_can(tmp_path: Path) -> None:
    """The same rates in all variants, of accuracy by both metrics."""
    words = []
    for items in (20, 1000):
        shares = (("bf16", 0.9), ("w8", 0.9), ("w4", 0.85), ("w2", 0.8))
        found = [accuracy("science_mini", variant, int(items * share), items) for variant, share in shares]
        analysis = analyse(read_run(write(tmp_path, run_dict([*found, sensitivity()]))))
        text = section(summary(analysis), "Accuracy").split("Against the reference", 1)[1]
        words.append([row(text, "science_mini", metric, variant)[3] for metric in ("acc", "acc_norm") for variant in ("w4", "w2")])
        said = any((item.code, item.metric, item.n) == ("accuracy_change", "acc", 20) for item in analysis.inconclusive)
        assert said == (items == 20)
        assert re.search(rf"n = {items},.* w4 85\.0%", headline(analysis)[2])
    assert words == [["**inconclusive**"] * 4, ["**worse**"] * 4]


def test_the_likelihood_shows_what_accuracy_cannot(tmp_path: Path) -> None:
    found = [accuracy("science_mini", name, right, 60) for name, right in (("bf16", 50), ("w8", 50), ("w4", 48))]
    text = section(summary(analyse(read_run(write(tmp_path, run_dict(found))))), "Accuracy")
    likely = text.split("### Likelihood of the right answers", 1)[1]
    w4 = row(likely, "science_mini", "w4")
    assert re.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\]", w4[2])
    assert re.fullmatch(r"\+0\.\d+ \[\+0\.\d+, \+0\.\d+\]", w4[3])
    assert (w4[4], w4[6]) == ("**worse**", "60")
    assert re.fullmatch(r"\*\*equivalent \(margin 0\.\d{3} nats/token\)\*\*", row(likely, "science_mini", "w8")[4])
    assert "- w4 on science_mini: inconclusive by accuracy, **worse** by +0." in likely
    assert "- w8 on" not in likely


def test_extremes_with_intervals(text: str) -> None:
    found = section(text, "Most and least sensitive layers")
    rows = [line for line in found.splitlines() if " sensitive " in line and " layer " in line and "|" in line]
    assert len(rows) == 6  # three of each
    assert {row(found, "most sensitive", f"layer {layer}")[0] for layer in (0, 5)} == {"most sensitive"}
    assert {row(found, "least sensitive", f"layer {layer}")[0] for layer in (3, 7, 8)} == {"least sensitive"}
    assert re.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\]", row(found, "most sensitive", "layer 5")[2])
    assert "n = 40" in found


def test_zones_save_stored_bytes(text: str, analysis: Analysis) -> None:
    saved = (decided(analysis).plan.reference_bytes - decided(analysis).plan.achieved.stored_bytes) / 1e6
    assert row(section(text, "Zones"), "all")[6] == f"{saved:.3f} MB"
    assert row(section(text, "Zones"), "SAFE")[1] == "3, 7-8"


def test_no_layer_is_safe_is_said(tmp_path: Path) -> None:
    of = profile(budget=Budget(average_bits=8.09))
    analysis = analyse(read_run(write(tmp_path, run_dict([sensitivity()], of))))
    assert "**No layer is SAFE**" in summary(analysis)
    assert "no layer is SAFE" in headline(analysis)[0]


def test_too_few_sequences_are_said_at_the_top(tmp_path: Path) -> None:
    analysis = analyse(read_run(write(tmp_path, run_dict([sensitivity(sequences=12)]))))
    assert headline(analysis)[0] == "Zones: inconclusive, 12 sensitivity sequences are too few"
    assert "No layer is SAFE" not in summary(analysis)


def test_too_few_sequences_have_no_interval_anywhere(tmp_path: Path) -> None:
    """Values stand, and no bracket that would look like knowledge: in the report, on the screen and in analysis.json."""
    for count in (19, 20):
        cell = sensitivity(sequences=count)
        analysis = analyse(read_run(write(tmp_path, run_dict([cell, divergence(cell, "w4", 1.2)]))))
        text = summary(analysis)
        shown = [
            row(section(text, "Most and least sensitive layers"), "most sensitive", "layer 5")[2],
            *row(section(text, "Do the separate sensitivities add up?"), "w4")[1:],
            row(section(text, "Do the separate sensitivities add up?"), "the plan")[1],
            headline(analysis)[1],
            *(line for line in section(text, "Plan").splitlines() if "predicted KL" in line),
        ]
        assert all(("(interval: inconclusive)" in line) == (count == 19) for line in shown), shown
        assert ("inconclusive" in row(section(text, "Most and least sensitive layers"), "most sensitive", "layer 5")[4]) == (count == 19)
        assert (row(section(text, "Plan"), "layers.3")[-1] == "-") == (count == 19)
        assert all((item.kl is not None and item.kl.low is None) == (count == 19) for item in analysis.sensitivity)


def test_attention_with_an_interpretation_per_layer(text: str) -> None:
    found = section(text, "Attention")
    assert row(found, "0")[4].startswith("heads attend nearly evenly (specialization 0.10")
    assert row(found, "6")[4].startswith("heads concentrate on few positions (specialization 0.58")
    assert "above the median layer's 0.27" in row(found, "9")[4]
    assert "below the median layer's 0.27" in row(found, "0")[4]
    assert "not told from the median layer's" in row(found, "3")[4]
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
    assert found[-4:] == ["unsupported", "not recorded", "no-permission", "not recorded"]


def test_the_sum_stands_beside_the_whole_and_the_plan_is_not_measured(text: str) -> None:
    found = section(text, "Do the separate sensitivities add up?")
    assert row(found, "w2")[3] == "1.80 [1.80, 1.80]"
    assert row(found, "the plan")[2] == "not measured"
    assert "for w2 the measured KL is 1.80 times the sum" in section(text, "Limits")


def test_failed_cells_and_measurements_are_listed(tmp_path: Path) -> None:
    text = summary(analyse(read_run(write(tmp_path, run_dict(small())))))
    found = section(text, "Failed cells")
    assert row(found, "latency", "w2")[2:] == ["prefill-b1-p64", "failed", "out of memory"]
    assert row(found, "sensitivity", "qint2:hqq")[2:4] == ["layers.1", "failed"]
    assert row(section(text, "Plan"), "layers.1")[6] == "not offered"


def test_time_by_unit_with_what_was_not_timed(tmp_path: Path) -> None:
    data = run_dict()
    text = summary(analyse(read_run(write(tmp_path, data))))
    accuracies = [b["stats"]["total"] for b in data["benchmarks"] if b["extra_info"]["bitzones"]["kind"] == "accuracy"]
    assert re.search(rf"\| accuracy +\| +{len(accuracies)} \| +{sum(accuracies):.1f} s \|", text)
    assert "without loading, quantizing and warm-up" in text
    data["benchmarks"][0]["stats"] = {}
    assert f"{len(accuracies) - 1} of {len(accuracies)} timed" in summary(analyse(read_run(write(tmp_path, data))))
    for benchmark in data["benchmarks"]:
        benchmark["stats"] = {}
    assert "## Time" not in summary(analyse(read_run(write(tmp_path, data))))


def test_method_and_limits_are_there(text: str) -> None:
    assert "McNemar" in section(text, "Method")
    assert "Sensitivity on other text" in section(text, "Limits")


def test_three_lines_for_the_last_screen(analysis: Analysis) -> None:
    zones, plan, verdicts, others = headline(analysis)
    assert zones.startswith("Zones of 12 layers at 4 average bits: 3 SAFE (3, 7-8)")
    assert "; never at the lowest format: 0" in zones
    assert plan.endswith("not measured")
    assert verdicts.startswith("Accuracy on science_mini (n = 500, 95% intervals): bf16 88.0% (84.9% to 90.6%); w8 ")
    assert verdicts.endswith("w2 32.0% (28.1% to 36.2%), worse")
    assert others.startswith("Accuracy on word_problems_mini (n = 500, 95% intervals): bf16 68.0% (63.8% to 71.9%); w8 ")
    assert not any("\n" in line for line in headline(analysis))


@pytest.mark.parametrize("bits", [4.0, 2.1])
def test_a_partial_run_reports_the_rest_and_why_there_is_no_plan(tmp_path: Path, bits: float) -> None:
    found = [*(without(SensitivityCell) if bits == 4.0 else cells()), FailedCell(variant="w9", of="memory", reason="no room")]
    analysis = analyse(read_run(write(tmp_path, run_dict(found, profile(budget=Budget(average_bits=bits))))))
    text = summary(analysis)
    why = "no sensitivity was measured" if bits == 4.0 else "the budget cannot be met; no plan stores the units in 2.1 average bits"
    assert headline(analysis)[0].startswith(f"No plan: {why}")
    assert headline(analysis)[1].startswith("Accuracy on science_mini")
    assert f"**No plan:** {why}" in section(text, "Zones and plan")
    for title in ("Accuracy", "Memory", "Latency", "Attention", "Failed cells", "Method", "Limits"):
        assert section(text, title)
    assert "## Plan\n" not in text
    assert "(no `plan.json`, because there is no plan)" in text
    assert ("most sensitive" in text) == (bits == 2.1)
    assert headline(analyse(read_run(write(tmp_path, run_dict([sensitivity()])))))[2:] == ("Accuracy: not measured",)
    assert (row(section(text, "Do the separate sensitivities add up?"), "w4")[1] == "-") == (bits == 4.0)


def test_groups_stand_beside_each_other_in_their_layer(tmp_path: Path) -> None:
    analysis = grouped(tmp_path)
    text = summary(analysis)
    plan = section(text, "Plan")
    head = ["layer", "zone", "in the plan", *GROUPS, "stored"]
    assert row(plan, "layer") == head
    assert row(plan, "0") == [
        "0",
        "TRANSITION",
        "2 of 4 groups at qint2:hqq, 2 at qint4",
        *(["qint4 100%", "qint2:hqq 100%"] * 2),
        "0.061 MB",
    ]
    assert row(plan, "1")[1:4] == ["SAFE", "all 4 groups at qint2:hqq", "qint2:hqq 100%"]
    assert row(section(text, "Zones"), "TRANSITION")[3] == "2 of 4 groups at qint2:hqq, 2 at qint4"
    assert "if all its groups are at qint2:hqq" in section(text, "Zones")
    assert "summed over its groups, each measured alone," in section(text, "Most and least sensitive layers")
    assert "Sensitivity of a group at a format" in section(text, "Method")


def test_eighty_layers_of_four_groups_are_eighty_rows(tmp_path: Path) -> None:
    cell = sensitivity(layers=80, sequences=24, groups=GROUPS)
    plan = section(summary(analyse(read_run(write(tmp_path, run_dict([cell]))))), "Plan")
    assert sum(line.startswith("| ") for line in plan.splitlines()) == 81
    assert "Every layer (80 rows)" in plan


def test_more_units_than_fit_beside_each_other_have_a_row_each(tmp_path: Path) -> None:
    groups = tuple(f"experts.{number}" for number in range(9))
    plan = section(summary(analyse(read_run(write(tmp_path, run_dict([sensitivity(layers=2, groups=groups)]))))), "Plan")
    assert row(plan, "layers.1.experts.8")
    assert sum(line.startswith("| ") for line in plan.splitlines()) == 19


def test_layers_that_were_not_swept_stay_as_they_are(tmp_path: Path) -> None:
    analysis = analyse(read_run(write(tmp_path, run_dict([sensitivity(layers=3)], layers=6))))
    assert "Layers 3-5 were not swept and stay at bf16" in section(summary(analysis), "Zones")
    assert headline(analysis)[0].startswith("Zones of 3 of 6 layers (the others were not swept) at 4 average bits")
    assert "not swept" not in headline(analyse(read_run(write(tmp_path, run_dict([sensitivity(layers=3)])))))[0]


def test_about_the_model(tmp_path: Path) -> None:
    facts = {
        "revision": "12fd25f",
        "random_weights": True,
        "not_quantizable": {"Conv1D": 28_311_552},
        "placement": {"0": "cuda:0", "1-3": "cpu"},
    }
    about = summary(analyse(read_run(write(tmp_path, run_dict(without(SensitivityCell), **facts)))))
    assert row(about, "revision")[1] == "12fd25f"
    assert row(about, "weights")[1].startswith("**random**")
    assert row(about, "configuration sha256")
    assert row(about, "placement")[1].startswith("layers 0 on cuda:0, layers 1-3 on cpu")
    assert row(about, "not quantizable")[1].startswith("Conv1D (28,311,552 parameters)")


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


def test_a_hostile_reason_for_no_plan_is_text(tmp_path: Path) -> None:
    failed = FailedCell(variant="bf16", of="sensitivity", reason=NASTY)
    analysis = analyse(read_run(write(tmp_path, run_dict([*without(SensitivityCell, small()), failed]))))
    for text in (summary(analysis), overview(analysis)):
        assert "**No plan:** sensitivity failed: a&#124;b" in text
        assert not any(mark in text for mark in ("<script", "\x1b", "\u202e", "](http://y)", "\n# h"))
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
