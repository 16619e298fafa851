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
from typing import Any, ClassVar, Literal, TypeAlias

from bitzones import embedded
from bitzones.data import harness_tasks, readers
from bitzones.data.harness_tasks import HarnessTask
from bitzones.data.readers import Source
from bitzones.data.task_items import CHOICE, NUMBER_RULE, PROBLEM, Item, Kind, Schema, item_of
from bitzones.schema.errors import TaskError
from bitzones.schema.profile import Profile
from bitzones.schema.quality_cells import SpecialTokens
from bitzones.schema.task_settings import Task

__all__ = ["TASK_NAMES", "ScoredTask", "TaskSet", "load", "of_profile", "training"]

Split = Literal["train", "test"]


@dataclass(frozen=True)
class TaskSet:
    """The scored items of one task.

    ``dropped`` counts malformed rows in the whole split, whether or not ``limit`` reaches them. ``shots`` are solved examples before every
    question; with ``chat_template``, prompts are turns of a chat with its special tokens. `prompts.asked` applies both, leaves out the
    items ``passed_over`` that the tokenizer cannot score, and records the ``special_tokens`` of the prompts. ``sha256`` covers everything
    that a model reads or is scored on. ``path`` is where the items come from, as in a profile. With ``reasoning_tokens``, a model may write
    so many before the number that counts, the last one.
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
    path: str | Path | None = None
    reasoning_tokens: int = 0
    sha256: str = field(init=False)
    cell_kind: ClassVar[str] = "accuracy"
    has_training: ClassVar[bool] = True

    def __post_init__(self) -> None:
        rule = [NUMBER_RULE] if self.kind == "number" else []
        rule += [self.reasoning_tokens] if self.reasoning_tokens else []
        asked = [[i.id, i.prompt, i.answer, i.choices] for i in self.items]
        text = json.dumps([rule, self.chat_template, asked], ensure_ascii=False)
        object.__setattr__(self, "sha256", hashlib.sha256(f"{self.version}\n{text}".encode()).hexdigest())

    @property
    def prompts(self) -> frozenset[str]:
        """The questions that are scored, and those that stand before them."""
        return frozenset(item.prompt for item in (*self.items, *self.shots))

    def training(self) -> Iterator[Item]:
        """The usable items of the train split, as `training`."""
        return training(self.name, self.path)


ScoredTask: TypeAlias = TaskSet | HarnessTask


@dataclass(frozen=True)
class _Task:
    """``version`` is raised when the prompt or the scoring changes. ``repository`` is on the hub; None for an embedded task."""

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
"""Version of a user's own task: the prompt and scoring of its schema at this version."""

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
    reasoning_tokens: int = 0,
) -> TaskSet:
    """The usable items of a split, at most ``limit``; all if it is None.

    The split is read once, with at most ``limit`` of its items in memory.

    Args:
        name: one of `TASK_NAMES`, or any name if there is a ``path``.
        split: ignored for a single file, of which all rows are read.
        limit: most items.
        path: a folder in the hub's layout or a file, relative to the working directory.
        take: the first items, or a uniform random sample in the data set's order; the same seed gives the same sample.
        seed: seed of the sample.
        fewshot: number of solved examples before every question: the first of `training` whose prompt is not scored.
        chat_template: whether to apply the chat template of the model's tokenizer.
        reasoning_tokens: tokens that a model may write before the number that counts, which is the last one then.

    Raises:
        TaskError: the task is unknown, its data cannot be read or lacks a column, it has no usable item, an ID occurs twice, or there are
            too few items for ``fewshot``; or its answers are chosen, and there is nothing to reason before.
    """
    opened = _open(name, path, split)
    if reasoning_tokens and opened.schema.kind != "number":
        raise TaskError(f"task {name!r}: reasoning_tokens is for tasks whose answer is a number that the model writes: leave it out")
    items, dropped, reason = _taken(opened.items, limit, random.Random(seed) if take == "sample" else None)
    if not items:
        why = f", the first because {reason}" if reason else ""
        raise TaskError(f"task {name!r} has no usable item in {opened.source.where} ({dropped} dropped{why})")
    if twice := [item for item, count in Counter(item.id for item in items).items() if count > 1]:
        raise TaskError(f"task {name!r}: {opened.source.where} has the id {twice[0]!r} twice; ids tell items apart when runs are compared")
    shots = _shots(name, path, fewshot, {item.prompt for item in items})
    return TaskSet(
        name,
        opened.version,
        opened.schema.kind,
        tuple(items),
        dropped,
        opened.source.origin,
        shots,
        chat_template,
        path=path,
        reasoning_tokens=reasoning_tokens,
    )


def of_profile(chosen: Profile) -> dict[str, ScoredTask]:
    """Task name -> the scored items of a profile, as in the data set.

    Raises:
        MissingPackageError: a task is one of lm-evaluation-harness, which is not installed.
        TaskError: as `load`, or as `harness_tasks.load`.
    """
    return {task.name: _of_profile(task, chosen.seed) for task in chosen.tasks}


def _of_profile(task: Task, seed: int) -> ScoredTask:
    if task.lm_eval is not None:
        return harness_tasks.load(task, seed)
    return load(
        task.name,
        limit=task.limit,
        path=task.path,
        take=task.take,
        seed=seed,
        fewshot=task.fewshot or 0,
        chat_template=task.chat_template,
        reasoning_tokens=task.reasoning_tokens,
    )


def training(name: str, path: str | Path | None = None) -> Iterator[Item]:
    """The usable items of the train split, read lazily. A single file has no splits: all of its items, including the scored ones.

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
    """A split with a known schema; ``items`` yields a reason instead of an item for a malformed row."""

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
    """The schema whose columns are in the first row."""
    for schema in (CHOICE, PROBLEM):
        if first is not None and all(column in first for column in schema.columns):
            return schema
    expected = " or ".join(", ".join(schema.columns) for schema in (CHOICE, PROBLEM))
    raise TaskError(f"{source.where}: expected the columns {expected}; it has {', '.join(first or ['no row'])}")


def _taken(items: Iterable[Item | str], limit: int | None, rng: random.Random | None) -> tuple[list[Item], int, str]:
    """Items up to the limit, the number of dropped rows, and the reason of the first.

    With ``rng`` the items are a random sample (Algorithm R, Vitter 1985), else the first ones.
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
