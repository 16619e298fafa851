"""Tasks: where items come from and what text a model reads, so that a score names exactly what was asked.

Two schemas: multiple choice as in ARC (prompt ``Question: ...``, newline, ``Answer:``: the text of lm-evaluation-harness's ``arc_easy``)
and word problems as in SVAMP (same prompt, free generation, first number counts). This module does not know about models: it gives text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from bitzones import embedded
from bitzones.errors import TaskError

__all__ = ["TASK_NAMES", "Item", "TaskSet", "first_number", "load", "parse"]

Split = Literal["train", "test"]

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")


@dataclass(frozen=True)
class Item:
    """One question. ``choices`` is empty where the answer is generated; ``content`` are (start, end) characters of ``prompt`` that carry
    the question's content: its numbers, and option text where the prompt shows options."""

    id: str
    prompt: str
    answer: str
    choices: tuple[str, ...] = ()
    content: tuple[tuple[int, int], ...] = ()

    @property
    def gold(self) -> int:
        """Index of the right choice."""
        return self.choices.index(self.answer)


@dataclass(frozen=True)
class TaskSet:
    """The items of one split of one task. ``dropped`` counts items that lack what their schema asks for."""

    name: str
    version: int
    kind: Literal["choice", "number"]
    items: tuple[Item, ...]
    dropped: int = 0
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        text = json.dumps([[i.id, i.prompt, i.answer, i.choices] for i in self.items], ensure_ascii=False)
        object.__setattr__(self, "sha256", hashlib.sha256(f"{self.version}\n{text}".encode()).hexdigest())


def first_number(text: str) -> float | None:
    """The first number written in digits, or None: rule 1.

    Commas between digits group thousands, a sign counts only directly before the digits, currency signs and words do not count.

    >>> [first_number(text) for text in ("7.0", "$1,200", "-3", "seven", "12 apples, not 5")]
    [7.0, 1200.0, -3.0, None, 12.0]
    """
    match = _NUMBER.search(text)
    return float(match.group().replace(",", "")) if match else None


def _choice_item(row: Mapping[str, Any]) -> Item:
    texts, labels = list(row["choices"]["text"]), list(row["choices"]["label"])
    answer = texts[labels.index(row["answerKey"])]
    if len(set(texts)) < max(2, len(texts)):
        raise ValueError("fewer than two different choices")
    return Item(str(row["id"]), f"Question: {row['question']}\nAnswer:", f" {answer}", tuple(f" {text}" for text in texts))


def _number_item(row: Mapping[str, Any]) -> Item:
    body, question = str(row["Body"]).strip(), str(row["Question"]).strip()
    if not body or not question:
        raise ValueError("no body or no question")
    prompt = f"Question: {body} {question}\nAnswer:"
    content = tuple(match.span() for match in _NUMBER.finditer(prompt))
    return Item(str(row["ID"]), prompt, f" {float(row['Answer']):.15g}", content=content)


@dataclass(frozen=True)
class _Schema:
    kind: Literal["choice", "number"]
    item: Callable[[Mapping[str, Any]], Item]
    columns: tuple[str, ...]


_CHOICE = _Schema("choice", _choice_item, ("id", "question", "choices", "answerKey"))
_PROBLEM = _Schema("number", _number_item, ("ID", "Body", "Question", "Answer"))

_TASKS: dict[str, tuple[_Schema, int]] = {"science_mini": (_CHOICE, 1), "word_problems_mini": (_PROBLEM, 1)}
"""Task name -> (schema, version). The version goes up when the prompt text or the rule of scoring changes."""

TASK_NAMES = tuple(_TASKS)


def load(name: str, split: Split, limit: int | None = None, folder: Path = embedded.DATA) -> TaskSet:
    """The first ``limit`` usable items of a split.

    Raises:
        TaskError: the task is unknown, its file is missing or lacks a column, or it has no usable item.
    """
    if name not in _TASKS:
        raise TaskError(f"task {name!r} is not known; there are: {', '.join(TASK_NAMES)}")
    schema, version = _TASKS[name]
    path = folder / name / f"{split}-00000-of-00001.parquet"
    items, dropped = parse(schema, _rows(path, schema.columns))
    if not items:
        raise TaskError(f"task {name!r} has no usable item in {path} ({dropped} dropped)")
    return TaskSet(name, version, schema.kind, tuple(items[:limit]), dropped)


def _rows(path: Path, columns: Iterable[str]) -> list[dict[str, Any]]:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise TaskError(f"{path}: not a readable parquet file: {str(error)[:200]}") from error
    if missing := [column for column in columns if column not in table.column_names]:
        raise TaskError(f"{path}: no column {', '.join(missing)}; it has {', '.join(table.column_names)}")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def parse(schema: _Schema, rows: Iterable[Mapping[str, Any]]) -> tuple[list[Item], int]:
    """Items of the rows that have what the schema asks for, and the number of rows that do not."""
    items: list[Item] = []
    dropped = 0
    for row in rows:
        try:
            items.append(schema.item(row))
        except (ValueError, KeyError, TypeError):
            dropped += 1
    return items, dropped
