"""Tasks: which items are asked, so that a score names exactly what was asked.

Two schemas: multiple choice as in ARC (prompt ``Question: ...``, newline, ``Answer:``: the text of lm-evaluation-harness's ``arc_easy``)
and word problems as in SVAMP (same prompt, free generation, the first number counts). This module does not know about models, nor how rows
are read (`readers`) or how an item is put to a model (`prompts`).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bitzones import embedded
from bitzones.data import readers
from bitzones.data.readers import Source
from bitzones.schema.errors import TaskError
from bitzones.schema.profile import Profile
from bitzones.schema.records import SpecialTokens

__all__ = ["NUMBER_RULE", "TASK_NAMES", "Item", "TaskSet", "first_number", "load", "of_profile", "training"]

Split = Literal["train", "test"]
Kind = Literal["choice", "number"]

NUMBER_RULE = 1
"""Which rule `first_number` follows. It is part of the hash of every task of numbers: raise it when the rule changes."""

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
_GROUPED = re.compile(r"-?\d{1,3}(?:,\d{2,3})*(?:,\d{3})(?:\.\d+)?")
"""Commas that group thousands, the Indian way too: "1,5" is one and a half in most of Europe, and rule 1 would read fifteen."""


@dataclass(frozen=True)
class Item:
    """One question. ``choices`` is empty where the answer is generated; ``content`` are (start, end) characters of ``prompt`` that carry
    the question's content: its numbers, and option text where the prompt shows options. Answer and choices bring the space before them."""

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
    """The scored items of one task.

    ``dropped`` counts the rows of the whole split that lack what their schema asks for, whether or not ``limit`` reaches them. ``shots``
    are solved items that stand before every question, ``chat_template`` says that prompts are turns of a chat, special tokens included:
    `prompts.asked` puts both into the prompts, leaves out the items ``passed_over``, which the tokenizer at hand cannot score, and says
    which ``special_tokens`` the prompts get. ``sha256`` is of everything that a model reads or is judged by.
    """

    name: str
    version: int
    kind: Kind
    items: tuple[Item, ...]
    dropped: int = 0
    origin: str = ""
    shots: tuple[Item, ...] = ()
    chat_template: bool = False
    passed_over: tuple[str, ...] = ()
    special_tokens: SpecialTokens | None = None
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        rule = [NUMBER_RULE] if self.kind == "number" else []
        asked = [[i.id, i.prompt, i.answer, i.choices] for i in self.items]
        text = json.dumps([rule, self.chat_template, asked], ensure_ascii=False)
        object.__setattr__(self, "sha256", hashlib.sha256(f"{self.version}\n{text}".encode()).hexdigest())


def first_number(text: str) -> float | None:
    """The first number written in digits, or None: rule 1.

    The first place counts that holds a digit, or a point with a digit after it; what follows the number is not looked at. Commas after a
    digit group thousands and are left out. A point belongs to the number where a digit follows it, so one that ends a sentence does not.
    A minus sign counts only directly before the number. Currency and percent signs, units, exponents and numbers in words do not count.

    >>> [first_number(text) for text in ("7.0", "$1,200", "-3", "seven", "12 apples, not 5")]
    [7.0, 1200.0, -3.0, None, 12.0]
    """
    match = _NUMBER.search(text)
    return float(match.group().replace(",", "")) if match else None


def _text(row: Mapping[str, Any], column: str) -> str:
    if row[column] is None or not (text := str(row[column])).strip():
        raise ValueError(f"{column} is empty")
    return text


def _choices(row: Mapping[str, Any]) -> dict[str, str]:
    """Label -> text of the choices that are not empty: tables fill short rows up with empty ones."""
    choices = json.loads(row["choices"]) if isinstance(row["choices"], str) else row["choices"]  # a CSV holds it as JSON
    labels, texts = list(choices["label"]), list(choices["text"])
    if len(labels) != len(texts):
        raise ValueError(f"choices has {len(labels)} labels and {len(texts)} texts")
    pairs = [(str(label), str(text)) for label, text in zip(labels, texts, strict=True) if text is not None and str(text).strip()]
    if len({label for label, _ in pairs}) < len(pairs) or len({text for _, text in pairs}) < len(pairs):
        raise ValueError("two of the choices have the same label or text")
    if len(pairs) < 2:
        raise ValueError("fewer than two choices that are not empty")
    return dict(pairs)


def _choice_item(row: Mapping[str, Any]) -> Item:
    texts, key = _choices(row), str(row["answerKey"])
    if key not in texts:
        raise ValueError(f"answerKey {key!r} is none of the labels {', '.join(texts)}")
    answer = texts[key]
    return Item(
        _text(row, "id"), f"Question: {_text(row, 'question')}\nAnswer:", f" {answer}", tuple(f" {text}" for text in texts.values())
    )


def _number(text: str) -> float:
    """The number that an answer is: in Python's spelling, or the only one that rule 1 finds in it, as in "$1,200" and "12 apples".

    >>> [_number(text) for text in ("1e3", "1,200", "$7", "50%")]
    [1000.0, 1200.0, 7.0, 50.0]
    """
    found = _NUMBER.findall(text)
    try:
        number = float(text)
    except ValueError:
        if len(found) != 1 or ("," in found[0] and not _GROUPED.fullmatch(found[0])):
            raise ValueError(f"Answer {text[:40]!r} is not one number") from None
        number = float(found[0].replace(",", ""))
    if not math.isfinite(number):
        raise ValueError(f"Answer {text[:40]!r} is not a finite number")
    return number


def _number_item(row: Mapping[str, Any]) -> Item:
    prompt = f"Question: {_text(row, 'Body').strip()} {_text(row, 'Question').strip()}\nAnswer:"
    answer = _number(_text(row, "Answer"))
    content = tuple(match.span() for match in _NUMBER.finditer(prompt))
    return Item(_text(row, "ID"), prompt, f" {np.format_float_positional(answer, trim='-')}", content=content)


@dataclass(frozen=True)
class _Schema:
    kind: Kind
    item: Callable[[Mapping[str, Any]], Item]
    columns: tuple[str, ...]


_CHOICE = _Schema("choice", _choice_item, ("id", "question", "choices", "answerKey"))
_PROBLEM = _Schema("number", _number_item, ("ID", "Body", "Question", "Answer"))


@dataclass(frozen=True)
class _Task:
    """``version`` goes up when the prompt text or the scoring changes. ``repository`` on the hub; None where the task is embedded."""

    schema: _Schema
    version: int
    repository: str | None = None
    config: str | None = None


_TASKS = {
    "arc_easy": _Task(_CHOICE, 1, "allenai/ai2_arc", "ARC-Easy"),
    "arc_challenge": _Task(_CHOICE, 1, "allenai/ai2_arc", "ARC-Challenge"),
    "svamp": _Task(_PROBLEM, 1, "ChilleD/SVAMP"),
    "science_mini": _Task(_CHOICE, 1),
    "word_problems_mini": _Task(_PROBLEM, 1),
}

_OWN_VERSION = 1
"""Of a task that only the user knows: it has the prompt text and scoring of its schema at this version."""

TASK_NAMES = tuple(_TASKS)


def load(
    name: str,
    split: Split = "test",
    limit: int | None = None,
    *,
    path: str | Path | None = None,
    take: Literal["first", "sample"] = "first",
    seed: int = 0,
    fewshot: int = 0,
    chat_template: bool = False,
) -> TaskSet:
    """Usable items of a split: at most ``limit``, all where it is None or larger than what there is.

    The split is read once, and no more than ``limit`` of its items are in memory at a time.

    Args:
        name: one of `TASK_NAMES`, or any name where there is a path.
        split: of a single file all rows are read, whatever the split.
        limit: how many.
        path: a folder in the hub's layout or a file; a relative one starts at the working directory.
        take: the first items, or a sample in which every item is as likely, in the data set's order; the same seed gives the same sample.
        seed: of the sample.
        fewshot: how many solved items stand before every question: the first of `training` whose prompt is not scored.
        chat_template: whether the prompt is to go through the chat template of the model's tokenizer.

    Raises:
        TaskError: the task is unknown, its data cannot be read or lack a column, it has no usable item, an id stands twice, or there are
            too few items for ``fewshot``.
    """
    opened = _open(name, path, split)
    items, dropped, reason = _taken(opened.items, limit, random.Random(seed) if take == "sample" else None)
    if not items:
        why = f", the first because {reason}" if reason else ""
        raise TaskError(f"task {name!r} has no usable item in {opened.source.where} ({dropped} dropped{why})")
    if twice := [item for item, count in Counter(item.id for item in items).items() if count > 1]:
        raise TaskError(f"task {name!r}: {opened.source.where} has the id {twice[0]!r} twice; ids tell items apart when runs are compared")
    shots = _shots(name, path, fewshot, {item.prompt for item in items})
    return TaskSet(name, opened.version, opened.schema.kind, tuple(items), dropped, opened.source.origin, shots, chat_template)


def of_profile(chosen: Profile) -> dict[str, TaskSet]:
    """Task name -> the items that a profile scores, as the data set has them.

    Raises:
        TaskError: as `load`.
    """
    return {
        task.name: load(
            task.name,
            limit=task.limit,
            path=task.path,
            take=task.take,
            seed=chosen.seed,
            fewshot=task.fewshot,
            chat_template=task.chat_template,
        )
        for task in chosen.tasks
    }


def training(name: str, path: str | Path | None = None) -> Iterator[Item]:
    """The usable items of the train split, read as they are asked for. A single file has no splits: all its items, the scored ones too.

    Raises:
        TaskError: as `load`.
    """
    return (item for item in _open(name, path, "train").items if isinstance(item, Item))


def _shots(name: str, path: str | Path | None, count: int, scored: set[str]) -> tuple[Item, ...]:
    if not count:
        return ()
    shots = tuple(islice((item for item in training(name, path) if item.prompt not in scored), count))
    if len(shots) < count:
        raise TaskError(
            f"task {name!r}: fewshot = {count} and {len(shots)} items are left that are not scored: lower fewshot, "
            "or limit where the task is one file"
        )
    return shots


@dataclass(frozen=True)
class _Opened:
    """A split whose schema is known; ``items`` holds the reason instead of an item where a row lacks what the schema asks for."""

    source: Source
    schema: _Schema
    version: int
    items: Iterator[Item | str]


def _open(name: str, path: str | Path | None, split: Split) -> _Opened:
    source, known = _source(name, path), _TASKS.get(name)
    found = source.rows(split)
    first = next(found, None)
    schema = known.schema if known else _schema_of(source, first)
    if first is None:
        return _Opened(source, schema, _OWN_VERSION, iter(()))
    if missing := [column for column in schema.columns if column not in first]:
        raise TaskError(f"{source.where}: no column {', '.join(missing)}; it has {', '.join(first)}")
    items = (_item(schema, row) for row in chain([first], found))
    return _Opened(source, schema, known.version if known else _OWN_VERSION, items)


def _source(name: str, path: str | Path | None) -> Source:
    known = _TASKS.get(name)
    if path is not None:
        return readers.local(Path(path).expanduser(), known.config if known else None)
    if known is None:
        near = difflib.get_close_matches(name, TASK_NAMES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise TaskError(f"task {name!r} is not known{hint} (there are: {', '.join(TASK_NAMES)}; one of your own needs a path)")
    if known.repository is None:
        return readers.local(embedded.DATA / name, origin=f"embedded:{name}")
    return readers.hub(known.repository, known.config)


def _schema_of(source: Source, first: Mapping[str, Any] | None) -> _Schema:
    """The schema that has its columns in the first row."""
    for schema in (_CHOICE, _PROBLEM):
        if first is not None and all(column in first for column in schema.columns):
            return schema
    expected = " or ".join(", ".join(schema.columns) for schema in (_CHOICE, _PROBLEM))
    raise TaskError(f"{source.where}: expected the columns {expected}; it has {', '.join(first or ['no row'])}")


def _item(schema: _Schema, row: Mapping[str, Any]) -> Item | str:
    try:
        return schema.item(row)
    except json.JSONDecodeError as error:
        return f"choices is no JSON: {error}"
    except KeyError as error:
        return f"it has no {error}"
    except TypeError:
        return f"a column holds another kind of value than {', '.join(schema.columns)} should"
    except ValueError as error:
        return str(error)


def _taken(items: Iterable[Item | str], limit: int | None, rng: random.Random | None) -> tuple[list[Item], int, str]:
    """Items up to the limit, how many rows were dropped in all, and why the first of them was.

    With ``rng`` the items are a sample (Algorithm R, Vitter 1985), else the first.
    """
    kept: list[tuple[int, Item]] = []
    dropped, usable, reason = 0, 0, ""
    for item in items:
        if isinstance(item, str):
            dropped, reason = dropped + 1, reason or item
            continue
        if limit is None or usable < limit:
            kept.append((usable, item))
        elif rng is not None and (place := rng.randrange(usable + 1)) < limit:
            kept[place] = (usable, item)
        usable += 1
    return [item for _, item in sorted(kept, key=lambda pair: pair[0])], dropped, reason
