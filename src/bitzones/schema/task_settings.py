"""The section ``[[tasks]]`` of a profile: the tasks that are answered."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from bitzones.schema.section import Section

__all__ = ["Task", "is_task_file"]

_MOST_REASONING = 4096
"""Of a task's reasoning: more is a sign of a model that does not stop."""


class Task(Section):
    """One task and how its items are read.

    ``name`` is a built-in task or, with a ``path``, any name. ``lm_eval`` is a task of lm-evaluation-harness in place of a built-in one:
    its name there (``hellaswag``), or a task file of its layout (``tasks/mine.yaml``), relative to the working directory or beside the
    profile; ``name`` is then optional. ``path`` is a local folder in the hub's layout or a file (``.jsonl``, ``.json``, ``.parquet``,
    ``.csv``); without it the items come from the hub, or from the embedded tasks. ``otherwise`` is the task to use where there is no data
    folder. ``limit`` is the number of items of the test split. ``take`` picks the first items or a seeded sample. ``fewshot`` is the
    number of solved examples before each item; a task of the harness has its own number by default. ``chat_template`` wraps the prompt in
    the tokenizer's chat template. ``reasoning_tokens`` lets a model that answers in sentences write so many tokens before a number; the
    last number counts then instead of the first. ``batch`` is the number of items computed at a time. ``metric`` is what a task of the
    harness is judged by, if not by its first metric that has a right or wrong for every item: ``exact_match``, or with the name of a
    filter ``exact_match,flexible-extract``. ``trust_remote_code`` lets a task file run Python that it names, and a task run code that the
    model writes.
    """

    name: str = Field(min_length=1)
    lm_eval: str | None = Field(default=None, min_length=1)
    path: str | None = None
    otherwise: str | None = None
    limit: int = Field(default=500, ge=1)
    take: Literal["first", "sample"] = "first"
    fewshot: int | None = Field(default=0, ge=0)
    chat_template: bool = False
    reasoning_tokens: int = Field(default=0, ge=0, le=_MOST_REASONING)
    batch: int = Field(default=64, ge=1)
    metric: str | None = Field(default=None, min_length=1)
    trust_remote_code: bool = False

    @model_validator(mode="before")
    @classmethod
    def _as_the_harness_has_it(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or not isinstance(asked := given.get("lm_eval"), str):
            return given
        return {"name": PurePath(asked).stem if is_task_file(asked) else asked, "fewshot": None, **given}

    @model_validator(mode="after")
    def _keys_of_its_kind(self) -> Task:
        if self.lm_eval is None:
            if self.fewshot is None:
                raise ValueError("fewshot has to be a number")
            if others := [key for key in ("metric", "trust_remote_code") if getattr(self, key)]:
                raise ValueError(f"{others[0]} is for tasks of lm-evaluation-harness: name one with lm_eval")
        elif self.reasoning_tokens:
            raise ValueError("reasoning_tokens is for built-in tasks: a task of lm-evaluation-harness says itself how long an answer is")
        elif self.otherwise is not None:
            raise ValueError("otherwise is for built-in tasks: leave it out beside lm_eval")
        elif self.path is not None and is_task_file(self.lm_eval):
            raise ValueError("path is for a task that lm-evaluation-harness has: a task file says itself where its data is")
        return self

    @model_serializer(mode="wrap")
    def _as_older_ones(self, given: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A built-in task is written, and hashed, as before there were others, and reasoning."""
        found: dict[str, Any] = given(self)
        newer = (frozenset() if self.lm_eval is not None else _HARNESS_KEYS) | (
            frozenset() if self.reasoning_tokens else {"reasoning_tokens"}
        )
        return {key: found[key] for key in found if key not in newer}


_HARNESS_KEYS = frozenset({"lm_eval", "metric", "trust_remote_code"})


def is_task_file(asked: str) -> bool:
    """Whether ``lm_eval`` of a task names a file.

    >>> is_task_file("tasks/mine.yaml"), is_task_file("hellaswag")
    (True, False)
    """
    return asked.endswith((".yaml", ".yml"))
