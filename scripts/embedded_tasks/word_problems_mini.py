"""A generated set of arithmetic word problems: the default run's free-generation task, where one wrong digit is a wrong answer.

Items follow the schema of SVAMP (Patel et al. 2021, arXiv:2103.07191): ``ID, Body, Question, Equation, Answer, Type``. Both the *templates*
(an opening, a change and a question taken together) and the *numbers* of the test split are kept out of training. Only addition and
subtraction below 100: a model of a few million parameters can learn these for numbers it has not seen, and could not learn products. It
does not know about models, tokenizers or scoring.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal, TypedDict

__all__ = ["TEST_NUMBERS", "TRAIN_NUMBERS", "Template", "WordProblem", "generate", "stream", "sums", "templates"]

Split = Literal["train", "test"]

SMALLEST, LARGEST = 2, 49
"""Bounds of the numbers written in a problem."""

LARGEST_ANSWER = 99
"""Two digits are enough to make carrying matter, and keep the problem learnable by a tiny model."""

TEST_NUMBERS = tuple(sorted(random.Random("word_problems_mini/numbers").sample(range(10, LARGEST + 1), 8)))
"""Numbers of the test split, one two-digit number in five: a single digit that was never seen alone could not be known."""

TRAIN_NUMBERS = tuple(n for n in range(SMALLEST, LARGEST + 1) if n not in TEST_NUMBERS)

TEST_SHARE = 5
"""One template in five belongs to the test split."""

DISTRACTOR_SHARE = 0.25
"""Share of problems with a number that does not matter, as in SVAMP."""


class WordProblem(TypedDict):
    """One item in SVAMP's schema."""

    ID: str
    Body: str
    Question: str
    Equation: str
    Answer: str
    Type: str


@dataclass(frozen=True)
class Template:
    """``body`` and ``question`` with the slots A, B (names), o (things), x, y (numbers); ``sign`` is what combines x and y."""

    body: str
    question: str
    sign: Literal["+", "-"]


_OPENINGS = (
    "{A} had {x} {o}.",
    "{A} started the day with {x} {o}.",
    "{A} picked {x} {o} in the morning.",
    "There were {x} {o} in the house of {A}.",
    "{A} counted {x} {o}.",
)
_GAINS = (
    "Then {A} bought {y} more.",
    "Later {A} found {y} more {o}.",
    "{B} gave {A} {y} more {o}.",
    "{A} then collected another {y}.",
    "Then {B} brought {y} more {o}.",
)
_LOSSES = (
    "Then {A} gave {y} of them to {B}.",
    "Later {A} lost {y} of them.",
    "{A} then sold {y} {o}.",
    "Then {B} took {y} {o} away.",
    "{A} used {y} of them.",
)
_NOW = (
    "How many {o} does {A} have now?",
    "How many {o} are there now?",
    "What is the number of {o} in the end?",
    "How many {o} are there in the end?",
)
_PAIRS = (
    "{A} has {x} {o}. {B} has {y} {o}.",
    "{A} has {x} {o} and {B} has {y}.",
    "{A} found {x} {o}. {B} found {y} {o}.",
    "There are {x} {o} with {A} and {y} with {B}.",
    "{A} counted {x} {o} and {B} counted {y}.",
)
_TOGETHER = (
    "How many {o} do they have together?",
    "How many {o} are there altogether?",
    "What is the total number of {o}?",
    "How many {o} are there in total?",
)
_COMPARED = (
    "How many more {o} does {A} have than {B}?",
    "How many fewer {o} does {B} have than {A}?",
    "What is the difference between the two numbers of {o}?",
    "By how many {o} is {A} ahead of {B}?",
)
_DISTRACTORS = (
    "{C} is {z} years old.",
    "{C} has {z} {d}.",
    "The trip was {z} miles long.",
    "There were {z} people in the town.",
)
_NAMES = tuple("Mary John Paul Anna Tom Lucy Mike Sara Dan Emma Jack Rosa Bill Jane Alan Nina Luke Ella".split())
_THINGS = tuple(
    "apples pencils books stickers marbles cards shells cookies coins flowers eggs stamps balloons oranges crayons stones".split()
)


def _all_templates() -> list[Template]:
    changes = [(_GAINS, "+"), (_LOSSES, "-")]
    stories = [Template(f"{o} {c}", q, s) for cs, s in changes for o, c, q in product(_OPENINGS, cs, _NOW)]  # type: ignore[arg-type]
    pairs = [Template(b, q, s) for qs, s in ((_TOGETHER, "+"), (_COMPARED, "-")) for b, q in product(_PAIRS, qs)]  # type: ignore[arg-type]
    return stories + pairs


def templates(split: Split) -> list[Template]:
    """The templates of a split: a fixed shuffle, then one in ``TEST_SHARE`` for the test split."""
    shuffled = _all_templates()
    random.Random("word_problems_mini/templates").shuffle(shuffled)
    return [t for n, t in enumerate(shuffled) if (n % TEST_SHARE == 0) == (split == "test")]


def _operands(rng: random.Random, sign: str, numbers: tuple[int, ...]) -> tuple[int, int]:
    while True:
        x, y = rng.choice(numbers), rng.choice(numbers)
        if sign == "-" and x < y:
            x, y = y, x
        if (sign == "+" and x + y <= LARGEST_ANSWER) or (sign == "-" and x > y):
            return x, y


def _problem(rng: random.Random, template: Template, numbers: tuple[int, ...], item_id: str) -> WordProblem:
    x, y = _operands(rng, template.sign, numbers)
    first, second, third = rng.sample(_NAMES, 3)
    thing, other = rng.sample(_THINGS, 2)
    body = template.body
    if rng.random() < DISTRACTOR_SHARE:
        body = f"{body} {rng.choice(_DISTRACTORS)}"
    words = {"A": first, "B": second, "C": third, "o": thing, "d": other, "x": x, "y": y, "z": rng.choice(numbers)}
    return {
        "ID": item_id,
        "Body": body.format(**words),
        "Question": template.question.format(**words),
        "Equation": f"( {x}.0 {template.sign} {y}.0 )",
        "Answer": f"{x + y if template.sign == '+' else x - y}.0",
        "Type": "Addition" if template.sign == "+" else "Subtraction",
    }


def stream(seed: int, split: Split) -> Iterator[WordProblem]:
    """Endless problems; the same seed gives the same problems."""
    rng = random.Random(f"word_problems_mini/{split}/{seed}")
    numbers = TRAIN_NUMBERS if split == "train" else TEST_NUMBERS
    choices = templates(split)
    number = 0
    while True:
        yield _problem(rng, rng.choice(choices), numbers, f"words-{split}-{number:04d}")
        number += 1


def generate(seed: int, split: Split, count: int) -> list[WordProblem]:
    """``count`` problems with different texts."""
    seen: dict[tuple[str, str], WordProblem] = {}
    for problem in stream(seed, split):
        seen.setdefault((problem["Body"], problem["Question"]), problem)
        if len(seen) == count:
            break
    return [{**p, "ID": f"words-{split}-{n:04d}"} for n, p in enumerate(seen.values())]


def sums(seed: int) -> Iterator[tuple[str, str]]:
    """Endless bare sums of the training numbers, as (``12+7=``, ``19``): practice for the trainer, in no split."""
    rng = random.Random(f"word_problems_mini/sums/{seed}")
    while True:
        sign = rng.choice("+-")
        x, y = _operands(rng, sign, TRAIN_NUMBERS)
        yield f"{x}{sign}{y}=", str(x + y if sign == "+" else x - y)
