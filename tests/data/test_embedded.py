"""The shipped task sets are what the generators make, every item has one right answer, and the splits share nothing that they must not."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pyarrow.parquet as pq
import pytest
import torch

from bitzones import embedded
from bitzones.data import tasks
from bitzones.evaluation import accuracy
from bitzones.models import loading, structure
from bitzones.schema import profile_files
from embedded_tasks import science_mini, word_problems_mini

NAMES = ("science_mini", "word_problems_mini")
Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")


@cache
def make_tasks() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "make_tasks.py"
    spec = importlib.util.spec_from_file_location("make_tasks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def shipped(name: str, split: Split) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(embedded.DATA / name / f"{split}-00000-of-00001.parquet").to_pylist()
    return rows


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_shipped_is_what_the_generators_make(name: str, split: Split) -> None:
    assert shipped(name, split) == make_tasks().items(name, split)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", NAMES)
def test_there_are_500_usable_items_and_all_differ(name: str, split: Split) -> None:
    task = tasks.load(name, split)
    assert (len(task.items), task.dropped) == (500, 0)
    assert len({item.id for item in task.items}) == 500
    assert len({item.prompt for item in task.items}) == 500


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_is_scored_is_calibrated_on(name: str) -> None:
    train, test = (tasks.load(name, split) for split in SPLITS)
    assert not {item.prompt for item in train.items} & {item.prompt for item in test.items}
    assert not {item.id for item in train.items} & {item.id for item in test.items}


# --- science_mini


def test_chance_is_a_quarter() -> None:
    for item in tasks.load("science_mini", "test").items:
        assert len(set(item.choices)) == 4


def science_pattern(template: str) -> re.Pattern[str]:
    """A template with its slot open, and 'a' before a vowel allowed to be 'an'."""
    text = re.escape(template).replace(re.escape("{s}"), "(?P<s>.+)")
    return re.compile(re.sub(r"\b([Aa])\\ ", r"\1n?\\ ", text))


@pytest.mark.parametrize("split", SPLITS)
def test_the_answer_is_the_fact_and_no_other_choice_is_right(split: Split) -> None:
    for row in shipped("science_mini", split):
        texts, labels = row["choices"]["text"], row["choices"]["label"]
        found = [
            (relation, match["s"])
            for relation in science_mini.RELATIONS
            for template in relation.templates_of(split)
            if (match := science_pattern(template).fullmatch(row["question"])) and match["s"] in relation.facts
        ]
        assert found, row["question"]
        answer = texts[labels.index(row["answerKey"])]
        for relation, subject in found:
            assert relation.facts[subject] == answer
            assert set(texts) <= set(relation.answers)


def test_the_right_answer_has_no_favourite_place() -> None:
    keys = [row["answerKey"] for row in shipped("science_mini", "test")]
    assert all(90 <= keys.count(label) <= 160 for label in "ABCD")


def test_science_templates_of_the_splits_are_disjoint() -> None:
    for relation in science_mini.RELATIONS:
        train, test = set(relation.templates_of("train")), set(relation.templates_of("test"))
        assert train
        assert test
        assert not train & test
        assert train | test == set(relation.templates)


# --- word_problems_mini


def calculated(equation: str) -> float:
    match = re.fullmatch(r"\( (\d+)\.0 ([+-]) (\d+)\.0 \)", equation)
    assert match, equation
    x, y = int(match[1]), int(match[3])
    return float(x + y if match[2] == "+" else x - y)


@pytest.mark.parametrize("split", SPLITS)
def test_the_equation_gives_the_answer_with_the_problem_s_numbers(split: Split) -> None:
    for row in shipped("word_problems_mini", split):
        assert calculated(row["Equation"]) == float(row["Answer"])
        assert 0 < float(row["Answer"]) <= word_problems_mini.LARGEST_ANSWER
        written = re.findall(r"\d+", row["Body"])
        assert set(re.findall(r"(\d+)\.0", row["Equation"])) <= set(written)
        assert row["Type"] == ("Addition" if "+" in row["Equation"] else "Subtraction")


def test_numbers_of_the_splits_are_disjoint() -> None:
    written = {split: {int(n) for row in shipped("word_problems_mini", split) for n in re.findall(r"\d+", row["Body"])} for split in SPLITS}
    assert not written["train"] & written["test"]
    assert written["test"] == set(word_problems_mini.TEST_NUMBERS)
    assert written["train"] == set(word_problems_mini.TRAIN_NUMBERS)


def test_problem_templates_of_the_splits_are_disjoint() -> None:
    train, test = (word_problems_mini.templates(split) for split in SPLITS)
    assert test
    assert not set(train) & set(test)
    assert not {(t.body, t.question) for t in train} & {(t.body, t.question) for t in test}


def test_practice_sums_hold_training_numbers_only() -> None:
    sums = word_problems_mini.sums(0)
    for _ in range(200):
        text, answer = next(sums)
        x, y = map(int, re.findall(r"\d+", text))
        assert {x, y} <= set(word_problems_mini.TRAIN_NUMBERS)
        assert int(answer) == (x + y if "+" in text else x - y)


@pytest.mark.parametrize("generator", [science_mini, word_problems_mini])
def test_the_same_seed_gives_the_same_items(generator: Any) -> None:
    assert generator.generate(3, "test", 20) == generator.generate(3, "test", 20) != generator.generate(4, "test", 20)


def test_more_science_than_there_is_is_an_error() -> None:
    with pytest.raises(ValueError, match="different test questions, 100000 asked"):
        science_mini.generate(1, "test", 100_000)


# --- the model


@pytest.fixture(scope="module")
def loaded() -> loading.Loaded:
    return loading.load(profile_files.load("tiny").model.model_copy(update={"dtype": "float32"}), torch.device("cpu"))


def test_the_embedded_model_is_small_and_has_enough_layers(loaded: loading.Loaded) -> None:
    assert sum(path.stat().st_size for path in embedded.TINY.rglob("*") if path.is_file()) <= 12_000_000
    assert len(structure.decoder_layers(loaded.model)) >= 12
    assert {path.suffix for path in embedded.TINY.iterdir()} <= {".json", ".safetensors", ".md", ".txt"}
    assert (embedded.TINY / "README.md").is_file()


@pytest.mark.parametrize(("name", "least"), [("science_mini", 0.80), ("word_problems_mini", 0.60)])
def test_the_embedded_model_has_something_to_lose(loaded: loading.Loaded, name: str, least: float) -> None:
    cell = accuracy.measure(loaded.model, loaded.tokenizer, tasks.load(name, "test", 200), "bf16", 64)
    assert sum(cell.correct) / len(cell.correct) >= least
