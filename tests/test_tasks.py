"""What text a model reads, what counts as its answer, and what is said of a data file that is not right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bitzones.errors import TaskError
from bitzones.measure import tasks
from bitzones.measure.tasks import Item, TaskSet

CHOICE: dict[str, Any] = {
    "id": "c1",
    "question": "What is a frog?",
    "choices": {"text": ["a bird", "an amphibian"], "label": ["A", "B"]},
    "answerKey": "B",
}
PROBLEM: dict[str, Any] = {"ID": "n1", "Body": " Tom had 12 pens. ", "Question": "He lost 1,000 or 3.5?", "Answer": "7.0"}


def write(folder: Path, name: str, rows: list[dict[str, Any]], split: str = "test") -> Path:
    path = folder / name / f"{split}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def refused(name: str, folder: Path) -> str:
    with pytest.raises(TaskError) as caught:
        tasks.load(name, "test", folder=folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (" 7", 7.0), ("7.0", 7.0), ("7.", 7.0), ("007", 7.0), ("$1,200", 1200.0), ("1,200.50", 1200.5), ("-3", -3.0), ("3-2", 3.0),
        ("- 3", 3.0), ("-.5", -0.5), ("seven", None), ("", None), ("12 apples, not 5", 12.0), ("it is 5.", 5.0), ("x12y", 12.0),
    ],
)  # fmt: skip
def test_the_first_number_counts(text: str, number: float | None) -> None:
    assert tasks.first_number(text) == number


def test_a_choice_item_reads_as_in_lm_evaluation_harness(tmp_path: Path) -> None:
    write(tmp_path, "science_mini", [CHOICE])
    (item,) = tasks.load("science_mini", "test", folder=tmp_path).items
    assert item == Item("c1", "Question: What is a frog?\nAnswer:", " an amphibian", (" a bird", " an amphibian"))
    assert item.gold == 1


def test_a_number_item_knows_where_its_numbers_stand(tmp_path: Path) -> None:
    write(tmp_path, "word_problems_mini", [PROBLEM])
    task = tasks.load("word_problems_mini", "test", folder=tmp_path)
    (item,) = task.items
    assert item.prompt == "Question: Tom had 12 pens. He lost 1,000 or 3.5?\nAnswer:"
    assert item.answer == " 7"
    assert [item.prompt[start:end] for start, end in item.content] == ["12", "1,000", "3.5"]
    assert (task.kind, task.name, item.choices) == ("number", "word_problems_mini", ())


def test_items_that_lack_something_are_counted_and_not_scored(tmp_path: Path) -> None:
    same = {"text": ["x", "x"], "label": ["A", "B"]}
    bad = [{**CHOICE, "id": "c2", "answerKey": "E"}, {**CHOICE, "id": "c3", "choices": same}, {**CHOICE, "id": "c4", "answerKey": None}]
    write(tmp_path, "science_mini", [*bad, CHOICE])
    task = tasks.load("science_mini", "test", folder=tmp_path)
    assert ([item.id for item in task.items], task.dropped) == (["c1"], 3)
    wordless = [{**PROBLEM, "ID": "n2", "Body": "  "}, {**PROBLEM, "ID": "n3", "Question": ""}, {**PROBLEM, "ID": "n4", "Answer": "many"}]
    write(tmp_path, "word_problems_mini", [PROBLEM, *wordless])
    task = tasks.load("word_problems_mini", "test", folder=tmp_path)
    assert ([item.id for item in task.items], task.dropped) == (["n1"], 3)


def test_the_limit_takes_the_first_items_and_the_split_its_own_file(tmp_path: Path) -> None:
    write(tmp_path, "science_mini", [{**CHOICE, "id": f"c{n}"} for n in range(5)])
    write(tmp_path, "science_mini", [{**CHOICE, "id": "train"}], "train")
    assert [item.id for item in tasks.load("science_mini", "test", 2, tmp_path).items] == ["c0", "c1"]
    assert [item.id for item in tasks.load("science_mini", "train", folder=tmp_path).items] == ["train"]


def test_the_hash_changes_with_what_is_asked_and_only_then() -> None:
    item = Item("a", "Question: b\nAnswer:", " c", (" c", " d"))
    first = TaskSet("some", 1, "choice", (item,)).sha256
    assert TaskSet("other", 1, "choice", (item,), dropped=3).sha256 == first
    changed = [
        TaskSet("some", 2, "choice", (item,)),
        TaskSet("some", 1, "choice", (item, item)),
        TaskSet("some", 1, "choice", (Item("a", "Question: B\nAnswer:", " c", (" c", " d")),)),
        TaskSet("some", 1, "choice", (Item("a", "Question: b\nAnswer:", " d", (" c", " d")),)),
        TaskSet("some", 1, "choice", (Item("a", "Question: b\nAnswer:", " c", (" c", " e")),)),
    ]
    assert len({first, *(task.sha256 for task in changed)}) == 6


def test_an_unknown_task_lists_those_that_there_are(tmp_path: Path) -> None:
    assert refused("science", tmp_path) == "task 'science' is not known; there are: science_mini, word_problems_mini"


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "word_problems_mini", [{"ID": "1", "Body": "b", "Question": "q"}])
    assert refused("word_problems_mini", tmp_path) == f"{path}: no column Answer; it has ID, Body, Question"


def test_a_missing_file_and_one_that_is_not_parquet_are_named(tmp_path: Path) -> None:
    path = tmp_path / "science_mini" / "test-00000-of-00001.parquet"
    assert refused("science_mini", tmp_path).startswith(f"{path}: not a readable parquet file")
    path.parent.mkdir()
    path.write_bytes(b"PAR1 and then nothing")
    assert refused("science_mini", tmp_path).startswith(f"{path}: not a readable parquet file")


def test_an_empty_task_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, "science_mini", [{**CHOICE, "answerKey": "E"}])
    assert refused("science_mini", tmp_path) == f"task 'science_mini' has no usable item in {path} (1 dropped)"
