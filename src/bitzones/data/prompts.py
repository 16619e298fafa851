"""Builds prompts from items: few-shot examples before them and the chat template around them, as lm-evaluation-harness does.

Items that the tokenizer cannot score are left out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from bitzones.data.encoding import text_of, unanswerable
from bitzones.data.special_tokens import described
from bitzones.data.task_items import Item
from bitzones.data.tasks import TaskSet
from bitzones.schema.errors import TaskError

__all__ = ["asked", "check_template"]

SEPARATOR = "\n\n"
"""Separator between few-shot examples, as in lm-evaluation-harness (``fewshot_delimiter``)."""


def asked(task: TaskSet, tokenizer: PreTrainedTokenizerBase) -> TaskSet:
    """The task as the model reads it: ``shots`` before every prompt, and all of that as one user turn if the task uses a chat template.

    After a chat template an answer has no leading space, as in lm-evaluation-harness. Items in which an answer merges with the end of its
    prompt are left out, because an answer without a token of its own has no likelihood.

    Raises:
        TaskError: the task uses a chat template, and the tokenizer has none or it fails; or no item is left.
    """
    shots = "".join(f"{shot.prompt}{shot.answer}{SEPARATOR}" for shot in task.shots)
    items = task.items
    if shots:
        items = tuple(replace(item, prompt=shots + item.prompt, content=_moved(item, len(shots))) for item in items)
    if task.chat_template:
        check_template(tokenizer)
        items = tuple(_turn(item, tokenizer) for item in items)
    return _scorable(replace(task, items=items), tokenizer)


def _scorable(task: TaskSet, tokenizer: PreTrainedTokenizerBase) -> TaskSet:
    merged = set(unanswerable(tokenizer, task.items))
    kept = tuple(item for item in task.items if item.id not in merged)
    if not kept:
        of = f"task {task.name!r}: in all of its {len(merged)} items"
        raise TaskError(f"{of} an answer has no token of its own after its prompt in this model's tokenizer")
    used = described(tokenizer, (text_of(item).context for item in kept))
    return replace(task, items=kept, passed_over=tuple(item.id for item in task.items if item.id in merged), special_tokens=used)


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that the tokenizer has a chat template.

    Raises:
        TaskError: it has none.
    """
    if not tokenizer.chat_template:
        raise TaskError("a task has chat_template = true, and the tokenizer of the model has no chat template: leave it out")


def _turn(item: Item, tokenizer: PreTrainedTokenizerBase) -> Item:
    try:
        text: Any = tokenizer.apply_chat_template([{"role": "user", "content": item.prompt}], add_generation_prompt=True, tokenize=False)
    except (TemplateError, ValueError, TypeError) as error:
        raise TaskError(f"the tokenizer's chat template fails on item {item.id!r}: {str(error)[:200]}") from error
    start = text.find(item.prompt)  # a template may change the text; the position of the content is then unknown
    return Item(
        item.id,
        text,
        item.answer.removeprefix(" "),
        tuple(choice.removeprefix(" ") for choice in item.choices),
        _moved(item, start) if start >= 0 else (),
    )


def _moved(item: Item, by: int) -> tuple[tuple[int, int], ...]:
    return tuple((start + by, end + by) for start, end in item.content)
