"""The exact text that a model reads: solved items before a question, and a chat template around it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models

from bitzones.data import prompts
from bitzones.data.task_items import Item
from bitzones.data.tasks import TaskSet
from bitzones.schema.errors import TaskError

SHOTS = (Item("s1", "Question: One?\nAnswer:", " yes", (" yes", " no")), Item("s2", "Question: Two?\nAnswer:", " no", (" yes", " no")))
ITEM = Item("a", "Question: Is 12 even?\nAnswer:", " yes", (" yes", " no", "  maybe"), ((13, 15),))
TOKENIZER = tiny_models.tokenizer()
CHAT = tiny_models.tokenizer()
CHAT.chat_template = tiny_models.CHATML


def content(item: Item) -> list[str]:
    return [item.prompt[start:end] for start, end in item.content]


def test_nothing_is_added_where_nothing_is_asked_for() -> None:
    task = TaskSet("some", 1, "choice", (ITEM,))
    assert replace(prompts.asked(task, TOKENIZER), special_tokens=None) == task


def test_an_item_whose_answer_merges_with_its_prompt_is_passed_over_alone() -> None:
    """The colon and " a" are one token, and nothing is left of the choice after the prompt."""
    merging = tiny_models.tokenizer()
    merging.add_tokens([": a"])
    items = tuple(Item(f"i{n}", "Which?\nAnswer:", f" {right}", (f" {right}", " z")) for n, right in enumerate("abac"))
    task = prompts.asked(TaskSet("letters", 1, "choice", items), merging)
    assert ([item.id for item in task.items], task.passed_over) == (["i1", "i3"], ("i0", "i2"))
    assert task.sha256 == TaskSet("letters", 1, "choice", items[1::2]).sha256
    every = "task 'letters': in all of its 2 items an answer has no token of its own after its prompt in this model's tokenizer"
    with pytest.raises(TaskError, match=every):
        prompts.asked(TaskSet("letters", 1, "choice", items[::2]), merging)
    assert prompts.asked(task, TOKENIZER).passed_over == ()


def test_shots_stand_solved_before_the_question() -> None:
    task = TaskSet("some", 1, "choice", (ITEM,), shots=SHOTS)
    asked = prompts.asked(task, TOKENIZER)
    (item,) = asked.items
    assert item.prompt == (
        "Question: One?\nAnswer: yes\n\nQuestion: Two?\nAnswer: no\n\nQuestion: Is 12 even?\nAnswer:"  # as in lm-evaluation-harness
    )
    assert (item.answer, item.choices, content(item)) == (ITEM.answer, ITEM.choices, ["12"])
    assert asked.sha256 != task.sha256
    assert asked.shots == SHOTS


def test_a_chat_is_one_turn_of_the_user_and_answers_lose_their_space() -> None:
    task = TaskSet("some", 1, "choice", (ITEM,), shots=SHOTS[:1], chat_template=True)
    (item,) = prompts.asked(task, CHAT).items
    assert item.prompt == (
        "<|im_start|>user\nQuestion: One?\nAnswer: yes\n\nQuestion: Is 12 even?\nAnswer:<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (item.answer, item.choices, item.gold, content(item)) == ("yes", ("yes", "no", " maybe"), 0, ["12"])


def test_the_hash_is_of_the_template_too() -> None:
    task = TaskSet("some", 1, "choice", (ITEM,), chat_template=True)
    other = tiny_models.tokenizer()
    other.chat_template = tiny_models.CHATML.replace("assistant", "model")
    assert len({task.sha256, prompts.asked(task, CHAT).sha256, prompts.asked(task, other).sha256}) == 3


def test_content_is_forgotten_where_a_template_changes_the_text() -> None:
    loud = tiny_models.tokenizer()
    loud.chat_template = "{{ messages[0].content | upper }}"
    (item,) = prompts.asked(TaskSet("some", 1, "choice", (ITEM,), chat_template=True), loud).items
    assert (item.prompt, item.content) == (ITEM.prompt.upper(), ())


@pytest.mark.parametrize("template", ["{{ raise_exception('no users here') }}", "{% if %}"])
def test_a_template_that_is_missing_or_fails_is_one_line(template: str) -> None:
    task = TaskSet("some", 1, "choice", (ITEM,), chat_template=True)
    with pytest.raises(TaskError, match="the tokenizer of the model has no chat template: leave it out"):
        prompts.asked(task, TOKENIZER)
    broken = tiny_models.tokenizer()
    broken.chat_template = template
    with pytest.raises(TaskError, match="the tokenizer's chat template fails on item 'a': "):
        prompts.asked(task, broken)
