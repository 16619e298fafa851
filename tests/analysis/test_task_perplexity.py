"""Perplexity of documents: figures whose value is known, variants paired over documents, and two runs side by side."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import make_run
import pytest

from bitzones.analysis.reader import read_run
from bitzones.regression.compare import compare
from bitzones.regression.metrics import readings
from bitzones.report.markdown import summary, task_tables
from bitzones.schema.errors import RunFileError
from bitzones.schema.profile_sections import Gate
from bitzones.schema.quality_cells import AccuracyCell, Harness, PerplexityCell

DOCUMENTS = 40
HARNESS = Harness(lm_eval="0.4.13", task="pages", version="1.0", output_type="loglikelihood_rolling", config_sha256="c" * 64)


def cell(variant: str, more: float = 0.0, **changes: Any) -> PerplexityCell:
    """Documents of 100 tokens, 50 words and 200 bytes, 2 nats a token and ``more``; every other document half a nat above and below."""
    nats = [100 * (2.0 + more) + (50 if n % 2 else -50) for n in range(DOCUMENTS)]
    given = {
        "variant": variant,
        "task": "pages",
        "task_version": 1,
        "task_sha256": "t" * 64,
        "origin": "lm_eval: json",
        "harness": HARNESS,
        "item_ids": tuple(f"{n}-a" for n in range(DOCUMENTS)),
        "nll_nats": tuple(nats),
        "tokens": (100,) * DOCUMENTS,
        "words": (50,) * DOCUMENTS,
        "utf8_bytes": (200,) * DOCUMENTS,
        "seconds_s": 1.0,
    }
    return PerplexityCell.model_validate({**given, **changes})


def test_figures_and_verdicts(tmp_path: Path) -> None:
    found = make_run.analysed(tmp_path, [cell("bf16"), cell("w8", 0.01), cell("w4", 0.1), cell("w2", -0.2)])
    base = found.perplexity[0]
    assert base.word_perplexity.value == pytest.approx(math.exp(4.0))
    assert base.byte_perplexity.value == pytest.approx(math.e)
    assert base.bits_per_byte.value == pytest.approx(1 / math.log(2))
    assert base.bits_per_byte.low is not None
    assert base.bits_per_byte.low < base.bits_per_byte.value
    said = {item.variant: item.against.verdict.word for item in found.likelihood if item.against}
    assert said == {"w8": "worse", "w4": "worse", "w2": "better"}
    assert [item.nll.value for item in found.likelihood][:2] == pytest.approx([2.0, 2.01])
    assert found.tasks[0].harness == HARNESS
    assert not found.accuracy


def test_too_few_documents_have_no_interval(tmp_path: Path) -> None:
    few = {key: getattr(cell("bf16"), key)[:3] for key in ("item_ids", "nll_nats", "tokens", "words", "utf8_bytes")}
    found = make_run.analysed(tmp_path, [cell("bf16", **few)]).perplexity[0]
    assert (found.word_perplexity.low, found.bits_per_byte.high) == (None, None)


def test_a_ruined_model_has_a_perplexity_that_can_be_written(tmp_path: Path) -> None:
    found = make_run.analysed(tmp_path, [cell("bf16", 400.0)]).perplexity[0]
    assert math.isfinite(found.word_perplexity.value)


def test_the_report_has_a_table_and_a_line(tmp_path: Path) -> None:
    found = make_run.analysed(tmp_path, [cell("bf16"), cell("w4", 0.1, task="pages")])
    section = task_tables.accuracy(found)
    assert "54.6 [" in section
    assert "pages 1.0, lm&#95;eval 0.4.13" in section or "pages 1.0, lm_eval 0.4.13" in section
    assert any(line.startswith("Word perplexity of pages (n = 40 documents") for line in summary.headline(found))


def test_variants_that_read_other_documents_are_refused(tmp_path: Path) -> None:
    for other in (
        cell("w4", words=(51,) * DOCUMENTS),
        cell("w4", task_sha256="u" * 64),
        cell("w4", harness=HARNESS.model_copy(update={"version": "2"})),
    ):
        with pytest.raises(RunFileError, match="pages"):
            make_run.analysed(tmp_path, [cell("bf16"), other])


def run(folder: Path, name: str, *found: PerplexityCell | AccuracyCell) -> Any:
    return read_run(make_run.write(folder, make_run.run_dict(found), name))


@pytest.mark.parametrize(("more", "said"), [(0.0, "same"), (0.005, "same"), (0.2, "worse"), (-0.2, "better")])
def test_two_runs(tmp_path: Path, more: float, said: str) -> None:
    old, new = run(tmp_path, "old.json", cell("bf16")), run(tmp_path, "new.json", cell("bf16", more))
    assert [found.status for found in compare(old, new, Gate()).cells] == [said]


@pytest.mark.parametrize("changed", [{"version": "2.0"}, {"config_sha256": "d" * 64}, {"task": "others"}])
def test_runs_that_asked_otherwise_are_not_compared(tmp_path: Path, changed: dict[str, str]) -> None:
    other = HARNESS.model_copy(update=changed)
    old, new = run(tmp_path, "old.json", cell("bf16")), run(tmp_path, "new.json", cell("bf16", harness=other))
    (found,) = compare(old, new, Gate()).cells
    assert (found.status, next(iter(changed.values()))[:10] in found.reason) == ("incomparable", True)
    answers = make_run.accuracy("science_mini", "bf16", 300)
    was, now = (run(tmp_path, f"{n}.json", answers.model_copy(update={"harness": how})) for n, how in enumerate((HARNESS, other)))
    assert [found.status for found in compare(was, now, Gate()).cells] == ["incomparable"]
    built_in = run(tmp_path, "own.json", answers)
    assert compare(was, built_in, Gate()).cells[0].status == "incomparable"


def test_another_release_of_the_harness_that_asks_the_same_is_compared(tmp_path: Path) -> None:
    newer = cell("bf16", harness=HARNESS.model_copy(update={"lm_eval": "0.4.14"}))
    old, new = run(tmp_path, "old.json", cell("bf16")), run(tmp_path, "new.json", newer)
    assert compare(old, new, Gate()).cells[0].status == "same"


def test_documents_of_which_few_are_in_both_runs(tmp_path: Path) -> None:
    others = cell("bf16", item_ids=tuple(f"{n}-{'a' if n < 10 else 'b'}" for n in range(DOCUMENTS)))
    found = compare(run(tmp_path, "old.json", cell("bf16")), run(tmp_path, "new.json", others), Gate()).cells[0]
    assert (found.status, "10 documents" in found.reason) == ("incomparable", True)


def test_the_figure_that_is_followed(tmp_path: Path) -> None:
    (found,) = readings(run(tmp_path, "run.json", cell("w4", 0.1)))
    assert (found.name, found.unit, found.value) == ("NLL w4 pages", "nats/token", pytest.approx(2.1))


def test_answers_without_a_likelihood(tmp_path: Path) -> None:
    cells = [
        make_run.accuracy("gsm8k", variant, right).model_copy(
            update={"gold_nll_nats": None, "gold_tokens": None, "harness": HARNESS, "metric": "exact_match,strict-match"}
        )
        for variant, right in (("bf16", 400), ("w4", 300))
    ]
    found = make_run.analysed(tmp_path, cells)
    assert found.likelihood == ()
    assert {item.metric for item in found.accuracy} >= {"exact_match,strict-match"}
    assert next(item.against.verdict.word for item in found.accuracy if item.against) == "worse"
    assert "Likelihood" not in task_tables.accuracy(found)
    data = json.loads((tmp_path / "run.json").read_text())
    make_run.cell_of(data, "accuracy")["gold_tokens"] = [1] * 500
    with pytest.raises(RunFileError, match="null together"):
        read_run(make_run.write(tmp_path, data))
