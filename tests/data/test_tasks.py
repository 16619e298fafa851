"""Which items are asked, what counts as their answer, and what is said of data that are not right."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitzones.data import task_items, tasks
from bitzones.data.task_items import Item
from bitzones.data.tasks import TaskSet
from bitzones.schema.errors import TaskError

CHOICE: dict[str, Any] = {
    "id": "c1",
    "question": "What is a frog?",
    "choices": {"text": ["a bird", "an amphibian"], "label": ["A", "B"]},
    "answerKey": "B",
}
PROBLEM: dict[str, Any] = {"ID": "n1", "Body": " Tom had 12 pens. ", "Question": "He lost 1,000 or 3.5?", "Answer": "7.0"}
DATA = Path(__file__).parents[3] / "shared" / "data"


def write(folder: Path, rows: list[dict[str, Any]], split: str = "test") -> Path:
    """A folder in the hub's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
    return folder


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def numbered(count: int) -> list[dict[str, Any]]:
    return [{**PROBLEM, "ID": f"n{n}", "Body": f"Tom had {n} pens."} for n in range(count)]


def refused(name: str, path: Path | None, **options: Any) -> str:
    with pytest.raises(TaskError) as caught:
        tasks.load(name, path=path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


RULE_1 = [
    (" 7", 7.0), ("7.0", 7.0), ("7.", 7.0), ("007", 7.0), ("$1,200", 1200.0), ("1,200.50", 1200.5), ("-3", -3.0), ("3-2", 3.0),
    ("- 3", 3.0), ("-$3", 3.0), ("$-3", -3.0), ("-.5", -0.5), ("seven", None), ("", None), ("12 apples, not 5", 12.0), ("it is 5.", 5.0),
    ("x12y", 12.0), ("50%", 50.0), ("1e3", 1.0), ("1, 2", 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("text", "number"), RULE_1)
def test_the_first_number_counts(text: str, number: float | None) -> None:
    """A change here is a change of the rule: raise its number with it."""
    assert task_items.NUMBER_RULE == 1
    assert task_items.first_number(text) == number


def test_the_rule_has_its_number_in_the_hash_of_numbers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def hashes() -> list[str]:
        return [TaskSet("some", 1, kind, (Item("a", "b", " 1", (" 1", " 2")),)).sha256 for kind in ("number", "choice")]

    before = hashes()
    monkeypatch.setattr(tasks, "NUMBER_RULE", 2)
    after = hashes()
    assert (before[0] != after[0], before[1] == after[1]) == (True, True)


def test_a_choice_item_reads_as_in_lm_evaluation_harness(tmp_path: Path) -> None:
    (item,) = tasks.load("science_mini", path=write(tmp_path, [CHOICE])).items
    assert item == Item("c1", "Question: What is a frog?\nAnswer:", " an amphibian", (" a bird", " an amphibian"))
    assert item.gold == 1


def test_choices_may_be_of_any_number_and_have_numbers_for_labels(tmp_path: Path) -> None:
    texts = ["one", "two", "three", "four", "five"]
    rows = [
        {**CHOICE, "id": "a", "choices": {"text": texts[:3], "label": ["1", "2", "3"]}, "answerKey": "3"},
        {**CHOICE, "id": "b", "choices": {"text": texts, "label": list("ABCDE")}, "answerKey": "E"},
    ]
    found = tasks.load("arc_easy", path=lines(tmp_path / "own.jsonl", rows)).items
    assert [(len(item.choices), item.answer, item.gold) for item in found] == [(3, " three", 2), (5, " five", 4)]


def test_a_number_item_knows_where_its_numbers_stand(tmp_path: Path) -> None:
    task = tasks.load("word_problems_mini", path=write(tmp_path, [PROBLEM]))
    (item,) = task.items
    assert item.prompt == "Question: Tom had 12 pens. He lost 1,000 or 3.5?\nAnswer:"
    assert item.answer == " 7"
    assert [item.prompt[start:end] for start, end in item.content] == ["12", "1,000", "3.5"]
    assert (task.kind, task.name, item.choices) == ("number", "word_problems_mini", ())


@given(st.one_of(st.floats(allow_nan=False, allow_infinity=False, width=32), st.integers(-(10**9), 10**9)))
def test_a_right_answer_is_right_by_the_rule(answer: float) -> None:
    """However large or small: an exponent would not be read."""
    item = task_items.number_item({**PROBLEM, "Answer": str(answer)})
    assert task_items.first_number(item.answer) == answer


@pytest.mark.parametrize(
    ("text", "number"),
    [("1,200", 1200.0), ("1,200.50", 1200.5), ("12,00,000", 1_200_000.0), ("$1,200", 1200.0), ("-3", -3.0), ("50%", 50.0),
     ("7 apples", 7.0), ("1e3", 1000.0), (" 7 ", 7.0)],
)  # fmt: skip
def test_an_answer_is_read_as_what_is_written_is(text: str, number: float) -> None:
    assert task_items.first_number(task_items.number_item({**PROBLEM, "Answer": text}).answer) == number


@pytest.mark.parametrize("text", ["1,5", "1.200,50", "3 or 4", "1/2", "12:30", "seven", "1,2345"])
def test_an_answer_that_may_be_another_number_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=f"^Answer '{text}' is not one number$"):
        task_items.number_item({**PROBLEM, "Answer": text})


def test_an_empty_choice_is_left_out_and_the_item_kept() -> None:
    for texts, labels in ((["a", "b", "c", "d", ""], "ABCDE"), (["a", None, "b", "c", " ", "d"], "ABCDEF")):
        item = task_items.choice_item({**CHOICE, "choices": {"text": texts, "label": list(labels)}, "answerKey": "A"})
        assert (item.choices, item.answer) == ((" a", " b", " c", " d"), " a")
    with pytest.raises(ValueError, match="answerKey 'E' is none of the labels A, B, C, D"):
        task_items.choice_item({**CHOICE, "choices": {"text": ["a", "b", "c", "d", ""], "label": list("ABCDE")}, "answerKey": "E"})


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({**CHOICE, "question": None}, "question is empty"),
        ({**CHOICE, "choices": {"text": ["x", "x"], "label": ["A", "B"]}}, "two of the choices have the same label or text"),
        ({**CHOICE, "choices": {"text": ["x", "", ""], "label": ["A", "B", "C"]}}, "fewer than two choices that are not empty"),
        ({**CHOICE, "choices": {"text": ["x", "y"], "label": ["A"]}}, "choices has 1 labels and 2 texts"),
        ({**CHOICE, "choices": "x or y"}, "choices is no JSON: Expecting value: line 1 column 1 (char 0)"),
        ({**CHOICE, "choices": {"text": ["x", "y"]}}, "it has no 'label'"),
        ({**CHOICE, "choices": None}, "a column holds another kind of value than id, question, choices, answerKey should"),
        ({**PROBLEM, "Answer": "many"}, "Answer 'many' is not one number"),
        ({**PROBLEM, "Answer": "inf"}, "Answer 'inf' is not a finite number"),
    ],
)
def test_why_a_row_is_not_asked_is_said(tmp_path: Path, bad: dict[str, Any], why: str) -> None:
    path = lines(tmp_path / "own.jsonl", [bad, bad])
    assert refused("mine", path) == f"task 'mine' has no usable item in {path} (2 dropped, the first because {why})"


def without(row: dict[str, Any], column: str) -> dict[str, Any]:
    return {**row, column: None}


@pytest.mark.parametrize(
    "bad",
    [
        {**CHOICE, "answerKey": "E"},
        {**CHOICE, "choices": {"text": ["x", "x"], "label": ["A", "B"]}},
        {**CHOICE, "choices": {"text": ["x"], "label": ["B"]}},
        {**CHOICE, "choices": {"text": ["x", "y", "z"], "label": ["A", "B"]}},
        {**CHOICE, "choices": {"text": ["x", "y"], "label": ["B", "B"]}},
        {**CHOICE, "choices": {"text": ["", "y"], "label": ["A", "B"]}},
        {**CHOICE, "choices": {"text": [None, "y"], "label": ["A", "B"]}},
        *(without(CHOICE, column) for column in CHOICE),
        *(without(PROBLEM, column) for column in PROBLEM),
        {**PROBLEM, "Body": "  "},
        {**PROBLEM, "Question": ""},
        {**PROBLEM, "Answer": "many"},
        {**PROBLEM, "Answer": "nan"},
        {**PROBLEM, "Answer": "inf"},
        {**PROBLEM, "Answer": ""},
    ],
    ids=lambda row: ", ".join(f"{key} {value!r}" for key, value in row.items() if value not in [*CHOICE.values(), *PROBLEM.values()]),
)
def test_a_row_that_lacks_something_is_counted_and_not_asked(tmp_path: Path, bad: dict[str, Any]) -> None:
    name, good = ("arc_easy", CHOICE) if "id" in bad else ("svamp", PROBLEM)
    task = tasks.load(name, path=lines(tmp_path / "own.jsonl", [bad, {**good, "id" if "id" in good else "ID": "good"}, bad]))
    assert ([item.id for item in task.items], task.dropped) == (["good"], 2)


def test_the_limit_takes_the_first_and_what_is_dropped_is_of_the_whole_split(tmp_path: Path) -> None:
    rows = numbered(5)
    rows[4]["Answer"] = rows[1]["Answer"] = "many"
    folder = write(tmp_path / "data", rows)
    task = tasks.load("svamp", limit=2, path=folder)
    assert ([item.id for item in task.items], task.dropped) == (["n0", "n2"], 2)
    assert len(tasks.load("svamp", limit=100, path=folder).items) == 3


def test_every_split_has_its_own_file(tmp_path: Path) -> None:
    write(tmp_path, [{**PROBLEM, "ID": "test"}])
    write(tmp_path, [{**PROBLEM, "ID": "train"}], "train")
    assert [item.id for item in tasks.load("svamp", path=tmp_path).items] == ["test"]
    assert [item.id for item in tasks.training("svamp", tmp_path)] == ["train"]


def test_a_sample_is_that_of_its_seed_in_the_order_of_the_data_set(tmp_path: Path) -> None:
    path = lines(tmp_path / "own.jsonl", numbered(40))

    def sample(seed: int, limit: int = 10) -> list[int]:
        return [int(item.id[1:]) for item in tasks.load("own", limit=limit, path=path, take="sample", seed=seed).items]

    assert sample(1) == sample(1) == sorted(sample(1))
    assert sample(1) != sample(2)
    assert len(set(sample(1))) == 10
    assert sample(1) != list(range(10))
    assert sample(3, 40) == sample(3, 1000) == list(range(40))


def test_a_sample_takes_every_item_as_often() -> None:
    import random

    items = [Item(str(n), "q", " 1") for n in range(8)]
    counts: Counter[str] = Counter()
    for seed in range(2000):
        counts.update(item.id for item in tasks._taken(items, 3, random.Random(seed))[0])
    # 2,000 * 3/8 = 750 each, standard deviation 22
    assert all(650 < counts[item.id] < 850 for item in items), counts


def test_what_is_in_memory_does_not_grow_with_the_data_set(tmp_path: Path) -> None:
    """Seven megabytes, of which five items are kept."""
    path = lines(tmp_path / "own.jsonl", [{**row, "Body": "x" * 5000} for row in numbered(1500)])
    next(tasks.training("own", path))  # what a first use loads is not what is measured
    tracemalloc.start()
    task = tasks.load("own", limit=5, path=path, take="sample")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(task.items) == 5
    assert peak < 4_500_000


def test_training_items_are_read_as_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    known = task_items.number_item
    monkeypatch.setattr(
        tasks, "PROBLEM", task_items.Schema("number", lambda row: (read.append(row["ID"]), known(row))[1], task_items.PROBLEM.columns)
    )
    items = tasks.training("own", lines(tmp_path / "own.jsonl", numbered(50)))
    assert [next(items).id for _ in range(3)] == read == ["n0", "n1", "n2"]


@pytest.mark.parametrize("row", [CHOICE, PROBLEM])
def test_a_file_of_ones_own_is_known_by_its_columns(tmp_path: Path, row: dict[str, Any]) -> None:
    task = tasks.load("mine", path=lines(tmp_path / "own.jsonl", [{"note": "x", **row}]))
    assert (task.name, task.version, task.kind) == ("mine", 1, "choice" if row is CHOICE else "number")
    assert task.origin == str(tmp_path / "own.jsonl")


def test_shots_are_of_the_train_split_and_never_scored(tmp_path: Path) -> None:
    write(tmp_path, numbered(3))
    write(tmp_path, [numbered(1)[0], {**PROBLEM, "ID": "bad", "Answer": "x"}, *numbered(9)[5:]], "train")
    task = tasks.load("svamp", path=tmp_path, fewshot=2)
    assert [item.id for item in task.shots] == ["n5", "n6"]
    assert tasks.load("svamp", path=tmp_path).shots == ()


def test_shots_of_a_single_file_are_items_that_are_not_scored(tmp_path: Path) -> None:
    path = lines(tmp_path / "own.jsonl", numbered(6))
    assert [item.id for item in tasks.load("mine", limit=3, path=path, fewshot=2).shots] == ["n3", "n4"]
    sampled = tasks.load("mine", limit=3, path=path, fewshot=3, take="sample", seed=5)
    assert not {item.id for item in sampled.items} & {item.id for item in sampled.shots}
    message = refused("mine", path, limit=4, fewshot=3)
    assert message == (
        "task 'mine': fewshot = 3 and 2 items are left that are not scored: lower fewshot, or limit where the task is one file"
    )


def test_the_hash_changes_with_what_is_asked_and_only_then() -> None:
    item = Item("a", "Question: b\nAnswer:", " c", (" c", " d"))
    first = TaskSet("some", 1, "choice", (item,)).sha256
    assert TaskSet("other", 1, "choice", (item,), dropped=3, origin="elsewhere").sha256 == first
    changed = [
        TaskSet("some", 2, "choice", (item,)),
        TaskSet("some", 1, "choice", (item, item)),
        TaskSet("some", 1, "choice", (item,), chat_template=True),
        TaskSet("some", 1, "choice", (item,), reasoning_tokens=8),
        TaskSet("some", 1, "choice", (Item("a", "Question: B\nAnswer:", " c", (" c", " d")),)),
        TaskSet("some", 1, "choice", (Item("a", "Question: b\nAnswer:", " d", (" c", " d")),)),
        TaskSet("some", 1, "choice", (Item("a", "Question: b\nAnswer:", " c", (" c", " e")),)),
    ]
    assert len({first, *(task.sha256 for task in changed)}) == 8


def test_reasoning_is_for_numbers_that_a_model_writes() -> None:
    assert tasks.load("word_problems_mini", limit=1, reasoning_tokens=8).reasoning_tokens == 8
    with pytest.raises(TaskError, match="task 'science_mini': reasoning_tokens is for tasks whose answer is a number"):
        tasks.load("science_mini", limit=1, reasoning_tokens=8)


@pytest.mark.parametrize(("text", "number"), [("39 - 17 = 22 inches.", 22), ("so it is **1,200**.", 1200), ("-3 or -.5", -0.5), ("", None)])
def test_the_last_number_is_read_as_the_first_is(text: str, number: float | None) -> None:
    assert task_items.last_number(text) == number


def test_an_unknown_task_names_the_nearest_and_all_that_there_are() -> None:
    assert refused("arc_esay", None) == (
        "task 'arc_esay' is not known; did you mean arc_easy? (there are: arc_easy, arc_challenge, svamp, science_mini, "
        "word_problems_mini; one of your own needs a path)"
    )
    assert refused("zzz", None).startswith("task 'zzz' is not known (there are: arc_easy")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    write(tmp_path, [{"ID": "1", "Body": "b", "Question": "q"}])
    assert refused("svamp", tmp_path) == f"{tmp_path}: no column Answer; it has ID, Body, Question"
    path = lines(tmp_path / "own.jsonl", [{"q": 1, "a": 2}])
    assert refused("mine", path) == (
        f"{path}: expected the columns id, question, choices, answerKey or ID, Body, Question, Answer; it has q, a"
    )


def test_an_empty_task_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, [{**CHOICE, "answerKey": "E"}])
    assert refused("arc_easy", lines(tmp_path / "own.jsonl", [{**CHOICE, "answerKey": "E"}])) == (
        f"task 'arc_easy' has no usable item in {tmp_path / 'own.jsonl'} "
        "(1 dropped, the first because answerKey 'E' is none of the labels A, B)"
    )
    assert refused("arc_easy", lines(tmp_path / "none.jsonl", [])).endswith("none.jsonl (0 dropped)")
    assert refused("mine", tmp_path / "none.jsonl").endswith("it has no row")


def test_an_id_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    path = lines(tmp_path / "own.jsonl", [CHOICE, CHOICE])
    assert refused("mine", path) == f"task 'mine': {path} has the id 'c1' twice; ids tell items apart when runs are compared"


def real(folder: str) -> Path:
    if not (DATA / folder).is_dir():
        pytest.skip(f"no {DATA / folder}")
    return DATA / folder


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "folder", "test", "train", "load"),
    [("arc_easy", "ai2_arc", 2376, 2251, tasks.load), ("svamp", "svamp", 300, 700, tasks.load)],
)
def test_the_published_sets_are_whole(name: str, folder: str, test: int, train: int, load: Callable[..., TaskSet]) -> None:
    for split, count in (("test", test), ("train", train)):
        found = load(name, split, path=real(folder))
        assert (len(found.items), found.dropped) == (count, 0)


@pytest.mark.real_data
def test_the_published_sets_are_asked_as_published() -> None:
    arc = tasks.load("arc_easy", path=real("ai2_arc"))
    assert arc.items[0].prompt == (
        "Question: Which statement best explains why photosynthesis is the foundation of most food webs?\nAnswer:"
    )
    assert arc.items[0].answer == " Sunlight is the source of energy for nearly all ecosystems."
    assert arc.origin == f"{DATA / 'ai2_arc'} ARC-Easy"
    assert {len(item.choices) for item in arc.items} == {3, 4, 5}
    svamp = tasks.load("svamp", limit=1, path=real("svamp"), fewshot=1)
    assert svamp.items[0].answer == " 4"
    assert svamp.shots[0].answer == " 51"
    assert "fewer" not in refused("arc_challenge", real("ai2_arc"))
    assert "'ARC-Challenge' not found. Available: ['ARC-Easy']" in refused("arc_challenge", real("ai2_arc"))
