"""Plans by task that contradict the rest of a run are refused at the door in one line."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from make_run import NASTY, cell_of, run_dict
from make_slices import APART, sliced, sliced_profile

from bitzones.analysis.analyze import analyse, read_run
from bitzones.report.html.page import page
from bitzones.report.markdown.summary import summary
from bitzones.schema.errors import RunFileError

Data = dict[str, Any]


@pytest.fixture(scope="module")
def good() -> Data:
    return run_dict(sliced(each=20), sliced_profile())


def slice_(data: Data, number: int = 0) -> Data:
    found: Data = cell_of(data, "slices")["slices"][number]
    return found


def put(*steps: Any, to: Any) -> Callable[[Data], None]:
    def spoil(data: Data) -> None:
        at = slice_(data)
        for step in steps[:-1]:
            at = at[step]
        at[steps[-1]] = to

    return spoil


def twice(data: Data) -> None:
    data["benchmarks"].append(copy.deepcopy(next(b for b in data["benchmarks"] if b["extra_info"]["bitzones"]["kind"] == "slices")))


def shared(data: Data) -> None:
    slice_(data, 1)["sensitivity"][0] = slice_(data)["sensitivity"][0]


def same_name(data: Data) -> None:
    slice_(data, 1)["name"] = slice_(data)["name"]


def another_plan(data: Data) -> None:
    plan = next(plan for plan in cell_of(data, "plans")["plans"] if plan["origin"] == "slice")
    plan["name"] = "plan:somebody"


def other_sequences(data: Data) -> None:
    slice_(data)["search"]["sequence_tokens"][3] += 1


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (twice, "duplicate cells: slices bf16 occurs twice"),
        (shared, "have to ascend|a sequence of sensitivity is of two slices"),
        (same_name, "two slices have one name"),
        (another_plan, "plans cell: plan:somebody is not the plan of a slice"),
        (other_sequences, "slices cell: science_mini has other sequences than the sweep"),
        (put("sensitivity", -1, to=10**6), "a place in sensitivity is beyond the 40 sequences of the sensitivity cell"),
        (put("held_out", -1, to=10**6), "a place in held_out is beyond the 40 sequences of the plans cell"),
        (put("sensitivity", to=[0, 0, 2]), "places in sensitivity have to ascend"),
        (put("sensitivity", to=[0]), "has 1 sequences, and 20 tokens of sequences"),
        (put("held_out", to=[]), "held_out"),
        (put("search", "budget_bytes", to=10**9), "slices cell: science_mini has another budget than the search"),
        (put("search", "start", "stored_bytes", to=1), "slices cell: science_mini takes 1 bytes, its units"),
        (put("search", "start", "units", "layers.0", to="qint3"), r"slices cell: science_mini: format \['qint3'\] is neither one of"),
        (
            lambda data: cell_of(data, "slices").update(sequences_sha256="0" * 64),
            "its sensitivity sequences are not those of the sensitivity",
        ),
        (lambda data: cell_of(data, "slices").update(held_out_sha256="0" * 64), "its held_out sequences are not those of the plans cell"),
    ],
)
def test_a_contradiction_is_one_line(good: Data, spoil: Callable[[Data], None], said: str, tmp_path: Path) -> None:
    data = copy.deepcopy(good)
    spoil(data)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(RunFileError, match=said) as error:
        read_run(path)
    assert "\n" not in str(error.value)


def test_hostile_names_of_slices_are_text(tmp_path: Path) -> None:
    """A name that a stranger chose reaches a page, a table and a chart as text, and no file outside the folder."""
    planted = {NASTY + "<b>": APART["science_mini"], "../../etc/" + NASTY: APART["word_problems_mini"]}
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run_dict(sliced(planted, each=20), sliced_profile())), encoding="utf-8")
    found = analyse(read_run(path))
    assert found.slices is not None
    for text in (page(found).split("<script>")[0], summary(found)):
        assert "<script>alert" not in text.lower()
        assert "<b>" not in text
        assert "\x1b" not in text
