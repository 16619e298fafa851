"""Every way a run file can be wrong is one line that says where; a right one gives the same analysis every time."""

from __future__ import annotations

import codecs
import copy
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import make_run
import pytest
from make_run import accuracy, caveats, cell_of, cells, decided, planned, profile, run_dict, sensitivity, without, write

from bitzones.analysis.analyze import analyse, read_run
from bitzones.analysis.results import PROCESS_KEYS, TIME_KEYS, Analysis, repeatable
from bitzones.analysis.task_answers import Likelihood
from bitzones.report.writer import write_report
from bitzones.schema.cells import FailedCell
from bitzones.schema.errors import RunFileError
from bitzones.schema.profile_sections import Budget
from bitzones.schema.quality_cells import AccuracyCell
from bitzones.schema.record import Record
from bitzones.schema.sensitivity_cells import SensitivityCell

GOLDEN = Path(__file__).parents[1] / "golden"
COLUMNS = [name for name, field in AccuracyCell.model_fields.items() if str(field.annotation).startswith("tuple[")]
Data = dict[str, Any]


def refused(tmp_path: Path, data: Any) -> str:
    path = tmp_path / "run.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    with pytest.raises(RunFileError) as caught:
        analyse(read_run(path))
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def good() -> Data:
    return run_dict()


@pytest.fixture
def data(good: Data) -> Data:
    return copy.deepcopy(good)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON, or truncated"),
        ('{"benchmarks": [{"fulln', "not JSON, or truncated"),
        ("[1, 2]", "not written by pytest-benchmark"),
        ('{"benchmarks": 3}', "not written by pytest-benchmark"),
        ('{"machine_info": {}, "benchmarks": []}', "not by a bitzones run"),
        ('{"benchmarks": [], "bitzones": {"schema": 99}}', "schema number is 99"),
        ('{"benchmarks": [], "bitzones": 3}', "key 'bitzones'"),
        ("[" * 100_000, "not JSON"),
        ("1" * 10_000, "not JSON"),
    ],
)
def test_what_is_no_run_file(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(tmp_path, text)


def test_a_missing_file_a_folder_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "bytes.json"):
        with pytest.raises(RunFileError, match=r"cannot be read|not JSON"):
            read_run(path)


def test_a_file_cut_anywhere_is_one_line(tmp_path: Path) -> None:
    whole = json.dumps(run_dict(make_run.small()))
    for cut in range(1, len(whole), 997):
        refused(tmp_path, whole[:cut])


def test_what_only_python_s_parser_reads_is_read(tmp_path: Path, data: Data) -> None:
    """Half a surrogate pair and a nesting of 300 are JSON to Python; neither concerns a cell."""
    data["commit_info"] = {"author": "\ud800", "deep": json.loads("[" * 300 + "]" * 300)}
    assert read_run(write(tmp_path, data)).cells


def test_a_mark_of_the_byte_order_is_no_content(tmp_path: Path, data: Data) -> None:
    path = Path(write(tmp_path, data))
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert read_run(path).cells


def nan_in_kl(data: Data) -> None:
    cell_of(data, "sensitivity")["measurements"][3]["kl_nats"][7] = math.nan


def infinite_round(data: Data) -> None:
    cell_of(data, "latency")["rounds_s"][2] = math.inf


def other_schema(data: Data) -> None:
    cell_of(data, "memory")["schema"] = 1


def unknown_kind(data: Data) -> None:
    cell_of(data, "memory")["kind"] = "energy"


def unknown_key(data: Data) -> None:
    cell_of(data, "memory")["watts"] = 3


def doubled(data: Data) -> None:
    data["benchmarks"].append(data["benchmarks"][0])


def no_cells(data: Data) -> None:
    data["benchmarks"] = []


def other_items(data: Data) -> None:
    cell_of(data, "accuracy")["item_ids"][0] = "another"


def other_task(data: Data) -> None:
    cell_of(data, "accuracy")["task_sha256"] = "x"


def other_calibration(data: Data) -> None:
    cell_of(data, "divergence")["sequences_sha256"] = "x"


def other_manner(data: Data) -> None:
    cell_of(data, "accuracy")["fewshot"] = 5


def other_answers(data: Data) -> None:
    cell_of(data, "accuracy")["gold_tokens"][0] += 1


def unknown_format(data: Data) -> None:
    cell_of(data, "sensitivity")["measurements"][0]["format"] = "qint3"


def unit_twice(data: Data) -> None:
    cell = cell_of(data, "sensitivity")
    cell["units"].append(cell["units"][0])


def module_twice(data: Data) -> None:
    cell = cell_of(data, "sensitivity")
    cell["units"][1]["modules"] = cell["units"][0]["modules"]


def no_tokens(data: Data) -> None:
    data["benchmarks"] = [b for b in data["benchmarks"] if b["extra_info"]["bitzones"]["kind"] != "divergence"]
    cell = cell_of(data, "sensitivity")
    cell["sequence_tokens"] = [0] * len(cell["sequence_tokens"])


def no_weights(data: Data) -> None:
    for unit in cell_of(data, "sensitivity")["units"]:
        unit["parameters"] = 0


def huge(data: Data) -> None:
    cell_of(data, "sensitivity")["measurements"][0]["stored_bytes"] = 10**17


def two_sweeps(data: Data) -> None:
    data["benchmarks"].append(copy.deepcopy(data["benchmarks"][-1]))
    data["benchmarks"][-1]["extra_info"]["bitzones"]["variant"] = "w8"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (nan_in_kl, r"benchmark bench/test_sensitivity\.py::test\[\d+\]: measurements\.3\.kl_nats\.7 is nan"),
        (infinite_round, r"bench/test_latency\.py.*rounds_s\.2 is inf"),
        (other_schema, r"bench/test_memory\.py.*schema number is 1"),
        (unknown_kind, r"bench/test_memory\.py.*'energy'"),
        (unknown_key, r"bench/test_memory\.py.*watts"),
        (doubled, "duplicate cells: accuracy bf16 science_mini occurs twice"),
        (no_cells, "the run is empty"),
        (other_items, "task science_mini: .* asked other items"),
        (other_task, "task science_mini: .* asked other items"),
        (other_manner, "task science_mini: .* asked in another way"),
        (other_answers, "task science_mini: .* asked in another way"),
        (other_calibration, "other sensitivity sequences"),
        (unknown_format, "qint3.*not one of the profile's"),
        (unit_twice, "a unit occurs twice"),
        (module_twice, "a module belongs to two units"),
        (no_tokens, "no sequence has a scored token"),
        (no_weights, "no weights"),
        (huge, "cannot be"),
        (two_sweeps, "2 sensitivity cells"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_spoiled_cell_is_named(tmp_path: Path, data: Data, spoil: Callable[[Data], None], said: str) -> None:
    spoil(data)
    assert re.search(said, refused(tmp_path, data))


def test_an_error_cannot_move_the_cursor(tmp_path: Path, data: Data) -> None:
    data["benchmarks"][0]["fullname"] = "a\x1b[2J\nb\ud800"
    data["benchmarks"][0]["extra_info"]["bitzones"]["tokens"] = "many"
    message = refused(tmp_path, data)
    assert "\x1b" not in message
    assert message.encode()


def test_an_infeasible_budget_is_no_plan_and_names_the_range(tmp_path: Path) -> None:
    found = analyse(read_run(write(tmp_path, run_dict(of=profile(budget=Budget(average_bits=2.1))))))
    assert found.decision is None
    assert found.no_decision is not None
    assert re.search(r"the budget cannot be met; .*2\.1 average bits.* from 2\.3\d+ to 16\.000", found.no_decision)
    assert (len(found.ranking), len(found.whole), len(found.accuracy)) == (12, 3, 12)


@pytest.mark.parametrize(
    ("more", "model", "reason"),
    [
        ([], {}, "no sensitivity was measured (was bench/test_sensitivity.py deselected?)"),
        ([FailedCell(variant="bf16", of="sensitivity", reason="out of memory")], {}, "sensitivity failed: out of memory"),
        (
            [FailedCell(variant="bf16", of="sensitivity", status="not measured", reason="random weights")],
            {},
            "sensitivity not measured: random weights",
        ),
        ([], {"random_weights": True}, "the model has random weights, whose sensitivity is meaningless"),
    ],
)
def test_without_sensitivity_all_else_is_reported(tmp_path: Path, more: list[Record], model: Data, reason: str) -> None:
    found = analyse(read_run(write(tmp_path, run_dict([*without(SensitivityCell), *more], **model))))
    assert (found.decision, found.no_decision) == (None, reason)
    assert (found.sensitivity, found.ranking, found.granularity) == ((), (), None)
    assert (len(found.accuracy), len(found.latency), len(found.memory), len(found.layers)) == (12, 8, 4, 12)
    assert [(w.variant, w.added, w.ratio) for w in found.whole] == [("w8", None, None), ("w4", None, None), ("w2", None, None)]
    assert found.inconclusive[0].code == "no_plan"


def test_whole_variants_without_a_sweep_are_as_with_one(tmp_path: Path) -> None:
    both = [analyse(read_run(write(tmp_path, run_dict(found)))) for found in (cells(), without(SensitivityCell))]
    assert [w.measured for w in both[0].whole] == [w.measured for w in both[1].whole]


def test_time_is_summed_by_kind_and_absent_where_the_file_does_not_say(tmp_path: Path) -> None:
    data = run_dict([*cells(4), FailedCell(variant="w9", of="latency", detail="prefill", reason="out of memory")])
    kinds = [benchmark["extra_info"]["bitzones"]["kind"] for benchmark in data["benchmarks"]]
    for index, (kind, benchmark) in enumerate(zip(kinds, data["benchmarks"], strict=True)):
        benchmark["stats"] = {"total": 10 if kind == "latency" else [None, -1, math.inf, 1e300, "1", True][index % 6]}
    del data["benchmarks"][kinds.index("sensitivity")]["stats"]
    found = {item.of: item for item in analyse(read_run(write(tmp_path, data))).took}
    assert "failed" not in found
    assert (found["latency"].cells, found["latency"].timed, found["latency"].seconds_s) == (8, 8, 80.0)
    others = [item for of, item in found.items() if of != "latency"]
    assert [(item.timed, item.seconds_s) for item in others] == [(0, 0.0)] * len(others)


def test_a_run_of_failures_alone_is_refused(tmp_path: Path) -> None:
    failures = [FailedCell(variant="bf16", of=of, reason="no kernel") for of in ("sensitivity", "memory")]
    assert "no cell has a result, so there is nothing to report; the first of 2: no kernel" in refused(tmp_path, run_dict(failures))


def test_layers_that_were_not_swept_are_known(tmp_path: Path) -> None:
    found = analyse(read_run(write(tmp_path, run_dict([sensitivity(layers=3)], layers=6))))
    assert found.unswept == (3, 4, 5)
    assert caveats(found)["layers_not_swept"].layers == (3, 4, 5)
    assert analyse(read_run(write(tmp_path, run_dict([sensitivity(layers=3)], layers=3)))).unswept == ()


def test_what_quanto_cannot_quantize_is_said(tmp_path: Path) -> None:
    found = analyse(read_run(write(tmp_path, run_dict(not_quantizable={"Conv1D": 28_311_552}))))
    kind = caveats(found)["not_quantizable"]
    assert (kind.names, kind.count) == (("Conv1D",), 28_311_552)


def test_why_decoding_ran_on_a_growing_cache_is_said_once(tmp_path: Path, data: Data) -> None:
    assert "static_cache_refused" not in caveats(analyse(read_run(write(tmp_path, data))))
    for benchmark in data["benchmarks"]:
        if (cell := benchmark["extra_info"]["bitzones"])["kind"] == "latency":
            cell["static_cache_refused"] = "RuntimeError: sizes"
    analysis = analyse(read_run(write(tmp_path, data)))
    assert caveats(analysis)["static_cache_refused"].names == ("RuntimeError: sizes",)
    assert {item.static_cache_refused for item in analysis.latency} == {"RuntimeError: sizes"}


def test_sensitivity_alone_is_enough(tmp_path: Path) -> None:
    analysis = analyse(read_run(write(tmp_path, run_dict([sensitivity()]))))
    assert decided(analysis).zones
    assert (analysis.accuracy, analysis.latency, analysis.memory, analysis.layers, analysis.whole) == ((), (), (), (), ())
    missing = [item.names for item in analysis.inconclusive if item.code == "kind_not_measured"]
    assert missing == [("accuracy",), ("latency",), ("memory",), ("layers",)]


def test_other_benchmarks_are_counted_not_read(tmp_path: Path, data: Data) -> None:
    data["benchmarks"] += [{"fullname": "mine"}, {"fullname": "mine too", "extra_info": {"a": 1}}, 7]
    assert analyse(read_run(write(tmp_path, data))).foreign_benchmarks == 3


def test_figures_of_a_run_known_by_construction(tmp_path: Path, data: Data) -> None:
    analysis = analyse(read_run(write(tmp_path, data)))
    w2 = next(a for a in analysis.accuracy if (a.task, a.variant) == ("science_mini", "w2"))
    assert (w2.k, w2.n, w2.chance, w2.format) == (160, 500, 0.25, "qint2:hqq")
    assert w2.against is not None
    assert (w2.against.lost, w2.against.gained, w2.against.verdict.word) == (280, 0, "worse")
    assert (w2.metric, w2.against.changed, w2.against.tests) == ("acc", 60, 3)
    assert [(a.task, a.metric) for a in analysis.accuracy[::4]] == [
        ("science_mini", "acc"),
        ("science_mini", "acc_norm"),
        ("word_problems_mini", "exact_match"),
    ]
    normalized = next(a for a in analysis.accuracy if (a.metric, a.variant) == ("acc_norm", "w2"))
    assert normalized.against is not None
    assert (normalized.k, normalized.against.lost, normalized.against.changed) == (156, 280, 64)
    assert all((a.above_chance_p is None) == (a.chance == 0) for a in analysis.accuracy)
    assert [whole.variant for whole in analysis.whole] == ["w8", "w4", "w2"]
    assert [whole.ratio.value for whole in analysis.whole if whole.ratio] == pytest.approx([1.0, 1.2, 1.8])
    decode = next(item for item in analysis.latency if (item.phase, item.variant) == ("decode", "w4"))
    assert decode.ratio is not None
    assert decode.ratio.value == pytest.approx(1.5)
    assert decode.low_quartile_s <= decode.median_s <= decode.high_quartile_s <= decode.p95_s
    assert analysis.memory[0].process["device_used"].value is None
    assert analysis.memory[0].share_of_reference == 1.0


def test_pairs_go_by_item_not_by_place(tmp_path: Path) -> None:
    one, other = accuracy("science_mini", "bf16", 300), accuracy("science_mini", "w8", 300)
    turned = {key: getattr(other, key)[::-1] for key in COLUMNS}
    found = analyse(
        read_run(write(tmp_path, run_dict([one, AccuracyCell(**{**other.model_dump(by_alias=True), **turned}), sensitivity()])))
    )
    against = found.accuracy[1].against
    assert against is not None
    assert (against.lost, against.gained, against.changed) == (0, 0, 0)
    assert found.likelihood[1].against is not None
    assert found.likelihood[1].against.difference.value == pytest.approx(0.0005, abs=0.001)


def likelihood_of(tmp_path: Path, items: int, worse: float, variant: str = "w4") -> Likelihood:
    found = [accuracy("science_mini", name, items // 2, items, worse=lost) for name, lost in (("bf16", 0.0), (variant, worse))]
    return analyse(read_run(write(tmp_path, run_dict(found)))).likelihood[1]


def test_likelihood_is_per_answer_token_and_paired(tmp_path: Path) -> None:
    one, other = (accuracy("science_mini", name, 30, 60) for name in ("bf16", "w4"))
    found = likelihood_of(tmp_path, 60, 0.1)
    tokens = sum(one.gold_tokens)
    assert (found.n, found.tokens) == (60, tokens)
    assert found.nll.value == pytest.approx(sum(other.gold_nll_nats) / tokens)
    assert found.against is not None
    difference = found.against.difference
    assert difference.value == pytest.approx((sum(other.gold_nll_nats) - sum(one.gold_nll_nats)) / tokens)
    assert difference.interval is not None
    assert found.nll.interval is not None
    assert difference.interval.high - difference.interval.low < (found.nll.interval.high - found.nll.interval.low) / 2, "not paired"


@pytest.mark.parametrize(
    ("items", "worse", "word"),
    [(1000, 0.1, "worse"), (1000, 0.0, "equivalent"), (19, 0.1, "inconclusive"), (20, 0.1, "worse")],
)
def test_verdicts_on_likelihood(tmp_path: Path, items: int, worse: float, word: str) -> None:
    found = likelihood_of(tmp_path, items, worse)
    assert found.against is not None
    assert found.against.verdict.word == word
    assert (found.nll.interval is None) == (found.against.p_value is None) == (items < 20)


def test_items_without_an_answer_token_say_nothing(tmp_path: Path) -> None:
    found = [accuracy("science_mini", name, 30, 60) for name in ("bf16", "w4")]
    spoiled = [
        cell.model_copy(update={"gold_tokens": (0, *cell.gold_tokens[1:]), "gold_nll_nats": (9e9, *cell.gold_nll_nats[1:])})
        for cell in found
    ]
    analysis = analyse(read_run(write(tmp_path, run_dict(spoiled))))
    assert [item.n for item in analysis.likelihood] == [59, 59]
    assert all(item.nll.value < 10 for item in analysis.likelihood)


def test_holm_corrects_over_the_variants_of_one_task_and_metric(tmp_path: Path) -> None:
    """Seven losses are p = 0.016: called where w4 is alone, and not where it is one of four."""
    words = []
    for others in ([], ["w8", "w2", "w3"]):
        found = [accuracy("science_mini", "bf16", 300), *(accuracy("science_mini", name, 300) for name in others)]
        found.append(accuracy("science_mini", "w4", 293))
        analysis = analyse(read_run(write(tmp_path, run_dict(found))))
        paired = next(a.against for a in analysis.accuracy if (a.variant, a.metric) == ("w4", "acc"))
        assert paired is not None
        assert paired.p_value == pytest.approx(2 * 0.5**7)
        assert paired.p_adjusted == pytest.approx(paired.p_value * (1 + len(others)))
        assert paired.tests == 1 + len(others)
        words.append((paired.verdict.word, paired.minimum_detectable_effect))
    assert [word for word, _ in words] == ["worse", "equivalent"]
    assert words[0][1] < words[1][1]


def test_flips_both_ways_and_answers_that_stay_wrong(tmp_path: Path) -> None:
    base = accuracy("science_mini", "bf16", 2, 6)
    before = {"correct": (True, True, False, False, False, False), "predictions": ("A", "B", "A", "A", "A", "A")}
    after = {"correct": (True, False, True, False, False, False), "predictions": ("A", "C", "C", "A", "B", "C")}
    found = [AccuracyCell(**{**base.model_dump(by_alias=True), **what}) for what in (before, {**after, "variant": "w4"})]
    paired = analyse(read_run(write(tmp_path, run_dict(found)))).accuracy[1].against
    assert paired is not None
    assert (paired.lost, paired.gained, paired.changed, paired.difference.value) == (1, 1, 2, 0.0)


def test_a_reference_at_zero_can_lose_nothing(tmp_path: Path) -> None:
    found = [accuracy("word_problems_mini", variant, right, 60, chance=0.0) for variant, right in (("bf16", 1), ("w4", 0))]
    analysis = analyse(read_run(write(tmp_path, run_dict([*found, sensitivity()]))))
    against = analysis.accuracy[1].against
    assert against is not None
    assert (against.minimum_detectable_effect, against.verdict.word) == (None, "inconclusive")
    caveat = caveats(analysis)["accuracy_change"]
    assert (caveat.n, caveat.effect, caveat.names, caveat.metric) == (60, None, ("w4",), "exact_match")


def test_few_rounds_are_said(tmp_path: Path, data: Data) -> None:
    assert "few_rounds" not in caveats(analyse(read_run(write(tmp_path, data))))
    cell = cell_of(data, "latency")
    cell["rounds_s"] = cell["rounds_s"][:5]
    assert caveats(analyse(read_run(write(tmp_path, data))))["few_rounds"].n == 5


def test_same_file_same_analysis(tmp_path: Path, data: Data) -> None:
    path = write(tmp_path, data)
    assert analyse(read_run(path)).model_dump_json() == analyse(read_run(path)).model_dump_json()


def test_two_runs_differ_in_times_only(tmp_path: Path, data: Data) -> None:
    first = analyse(read_run(write(tmp_path, data))).model_dump(mode="json", by_alias=True)
    data["datetime"] = "2027-01-01T00:00:00"
    for benchmark in data["benchmarks"]:
        cell = benchmark["extra_info"]["bitzones"]
        if "seconds_s" in cell:
            cell["seconds_s"] *= 2
        if "rounds_s" in cell:
            cell["rounds_s"] = [value * 1.7 for value in cell["rounds_s"]]
        if "process_rss" in cell:
            cell["process_rss"]["value"] += 4096
    second = analyse(read_run(write(tmp_path, data))).model_dump(mode="json", by_alias=True)
    assert first != second
    assert repeatable(first) == repeatable(second)


def test_what_is_stripped_is_there_and_little(tmp_path: Path) -> None:
    found = analyse(read_run(write(tmp_path, run_dict(planned())))).model_dump(mode="json", by_alias=True)
    text = json.dumps(found)
    assert all(f'"{key}"' in text for key in TIME_KEYS | PROCESS_KEYS)
    left = json.dumps(repeatable(found))
    assert not any(f'"{key}"' in left for key in ("median_s", "seconds_s", "tokens_per_s", "measured_at", "rss"))
    assert '"stored_bytes"' in left


def test_the_schema_is_readable() -> None:
    schema = Analysis.model_json_schema()
    fields = schema["$defs"]["Paired"]["properties"]
    assert fields["lost"]["description"] == "Items that the reference has right and the variant wrong."
    assert "schema" in Analysis.model_json_schema(by_alias=True)["properties"]


def close(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(close(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(close, ours, theirs))
    return ours == theirs or (isinstance(ours, float) and math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-12))


def test_golden_analysis() -> None:
    """To change it on purpose: ``pytest --update-goldens``, and read the difference."""
    found = analyse(read_run(GOLDEN / "run.json")).model_dump(mode="json", by_alias=True)
    assert close(found, json.loads((GOLDEN / "analysis.json").read_text(encoding="utf-8")))


def test_collecting_imports_nothing_that_measures() -> None:
    code = "import sys, bitzones.analysis.analyze, bitzones.report.writer; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "optimum", "scipy", "hypothesis"} & set(loaded)


@pytest.mark.parametrize("groups", [(None,), ("attn.qkv", "mlp.down")])
def test_a_head_is_decided_with_the_layers_and_has_no_zone(tmp_path: Path, groups: tuple[str | None, ...]) -> None:
    data = run_dict(planned(groups=groups))
    renamed = next(b["extra_info"]["bitzones"] for b in data["benchmarks"] if b["extra_info"]["bitzones"]["kind"] == "sensitivity")
    last = renamed["units"][-1]["name"]
    data = json.loads(json.dumps(data).replace(f'"{last}"', '"lm_head"'))
    for benchmark in data["benchmarks"]:
        for unit in benchmark["extra_info"]["bitzones"].get("units", []):
            if isinstance(unit, dict) and unit["name"] == "lm_head":
                unit |= {"layer": None, "group": None}
    analysis = analyse(read_run(write(tmp_path, data)))
    decision = decided(analysis)
    assert "lm_head" in decision.plan.units
    assert next(unit for unit in decision.units if unit.unit == "lm_head").layer is None
    inside = 12 if groups != (None,) else 11
    assert len(decision.layer_zones) == len(analysis.ranking) == inside
    assert sum(zone.plan_bytes for zone in decision.zones) < decision.plan.achieved.stored_bytes
    write_report(analysis, tmp_path / "report")
    text = (tmp_path / "report" / "summary.md").read_text(encoding="utf-8")
    assert "| lm\\_head" in text or "lm_head" in text
    assert "| None" not in text
