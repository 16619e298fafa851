"""router.json: the rules of a bundle, and its classifier as plain numbers. Nothing in it is code, and reading it runs none."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from bitzones.schema.record import Count, Positive, Record, Share
from bitzones.serve.bundle_record import TaskName
from bitzones.serve.patterns import compiled
from bitzones.stats.intervals import Interval

__all__ = ["CONFIDENCE", "Classifier", "HeldOutPrompts", "Router", "Rule"]

CONFIDENCE = 0.8
"""Least probability at which the classifier's task is taken: a wrong task's plan is worse than the base, so a task has to be four times as
likely as all others together."""

LONGEST_PATTERN = 1000
"""Characters of a regular expression: more is no rule that a person can check."""


def _compiles(pattern: str) -> str:
    compiled(pattern)
    return pattern


Pattern = Annotated[str, Field(min_length=1, max_length=LONGEST_PATTERN), AfterValidator(_compiles)]


class Rule(Record):
    """All conditions that a rule has must hold: patterns are searched for anywhere in the text, and ``role`` is the last message's."""

    task: TaskName | Literal["base"]
    prompt: Pattern | None = None
    system: Pattern | None = None
    role: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _has_a_condition(self) -> Rule:
        if self.prompt is None and self.system is None and self.role is None:
            raise ValueError("a rule needs a condition: prompt, system or role")
        return self


class HeldOutPrompts(Record):
    """How a classifier did on prompts of the test splits that are not in its train splits.

    ``confusion[i][j]`` counts prompts of task i that were given task j; ``below`` counts, by task, those that it was too unsure of, which
    go to the base. ``share`` is that of prompts whose likeliest task is their own, whatever the confidence.
    """

    n: Positive
    confusion: tuple[tuple[Count, ...], ...]
    below: tuple[Count, ...]
    share: Interval

    @property
    def misrouted(self) -> int:
        """Prompts that were given another task than their own."""
        return sum(count for row, counts in enumerate(self.confusion) for column, count in enumerate(counts) if row != column)


class Classifier(Record):
    """TF-IDF of words and pairs of words, and multinomial logistic regression over the tasks.

    A text is lowercased; its words are runs of at least two word characters. Term t with count c weighs (1 + ln c) * idf[t], and the
    weights of a text have length 1. ``coefficients[task][t]`` and ``intercepts[task]`` give the logits.
    """

    tasks: tuple[TaskName, ...] = Field(min_length=2)
    vocabulary: tuple[str, ...] = Field(min_length=1)
    idf: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...]
    intercepts: tuple[float, ...]
    confidence: Share = CONFIDENCE
    trained_on: dict[TaskName, Positive]
    """Prompts of each train split."""
    held_out: HeldOutPrompts | None = None

    @model_validator(mode="after")
    def _shapes(self) -> Classifier:
        rows = {len(self.coefficients), len(self.intercepts), len(self.tasks)}
        columns = {len(self.idf), len(self.vocabulary), *map(len, self.coefficients)}
        if len(rows) > 1 or len(columns) > 1:
            raise ValueError("numbers of tasks, terms and coefficients do not fit together")
        return self


class Router(Record):
    """What decides where a request goes that names no task: the first rule that holds, else the classifier, else the base."""

    format: Literal["bitzones-router"] = "bitzones-router"
    schema_number: Literal[1] = Field(default=1, alias="schema")
    rules: tuple[Rule, ...] = ()
    classifier: Classifier | None = None
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)
