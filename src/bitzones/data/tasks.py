"""The scored items of each task, by name or from a file, so that a score says exactly what was asked."""

from __future__ import annotations

import difflib
import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from bitzones import embedded
from bitzones.data import readers
from bitzones.data.readers import Source
from bitzones.data.task_items import CHOICE, NUMBER_RULE, PROBLEM, Item, Kind, Schema, item_of
from bitzones.schema.errors import TaskError
from bitzones.schema.profile import Profile
from bitzones.schema.quality_cells import SpecialTokens

__all__ = ["TASK_NAMES", "TaskSet", "load", "of_profile", "training"]

Split = Literal["train", "test"]


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


@dataclass(frozen=True)
class _Task:
    """``version`` goes up when the prompt text or the scoring changes. ``repository`` on the hub; None where the task is embedded."""

    schema: Schema
    version: int
    repository: str | None = None
    config: str | None = None


_TASKS = {
    "arc_easy": _Task(CHOICE, 1, "allenai/ai2_arc", "ARC-Easy"),
    "arc_challenge": _Task(CHOICE, 1, "allenai/ai2_arc", "ARC-Challenge"),
    "svamp": _Task(PROBLEM, 1, "ChilleD/SVAMP"),
    "science_mini": _Task(CHOICE, 1),
    "word_problems_mini": _Task(PROBLEM, 1),
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
    schema: Schema
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
    items = (item_of(schema, row) for row in chain([first], found))
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


def _schema_of(source: Source, first: Mapping[str, Any] | None) -> Schema:
    """The schema that has its columns in the first row."""
    for schema in (CHOICE, PROBLEM):
        if first is not None and all(column in first for column in schema.columns):
            return schema
    expected = " or ".join(", ".join(schema.columns) for schema in (CHOICE, PROBLEM))
    raise TaskError(f"{source.where}: expected the columns {expected}; it has {', '.join(first or ['no row'])}")


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
