"""A text is opened by special tokens once and never closed, whatever the tokenizer adds and whatever a chat template brings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
from tokenizers import processors
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from bitzones.data import prompts, sequences, special_tokens
from bitzones.data.task_items import Item
from bitzones.data.tasks import TaskSet
from bitzones.evaluation import accuracy, generation, likelihood
from bitzones.schema.quality_cells import SpecialTokens

END = 0
OPENS = "<|end|> $A"
CLOSES = "$A <|end|>"
BOTH = "<|end|> $A <|end|>"
NEITHER = "$A"
ITEMS = (
    Item("a", "Question: Which?\nAnswer:", " mammal", (" fish", " mammal", " x")),
    Item("b", "Question: Is 12 even?\nAnswer:", " yes", (" yes", " no"), ((13, 15),)),
)
TURN = "{% for m in messages %}{{ m.content }}{% endfor %}"
"""A template that leaves the prompt as it is, with no begin token of its own."""


def framed(single: str, template: str | None = None) -> PreTrainedTokenizerFast:
    """A token per byte, and the end token where ``single`` says."""
    made = tiny_models.tokenizer()
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<|end|>", END)])
    made.chat_template = template
    return made


def plain(text: str) -> list[int]:
    return list(tiny_models.tokenizer()(text, add_special_tokens=False)["input_ids"])


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_models.llama()


@pytest.mark.parametrize(("single", "before"), [(OPENS, [END]), (BOTH, [END]), (CLOSES, []), (NEITHER, [])])
def test_a_text_is_opened_as_the_tokenizer_opens_it_and_is_not_closed(single: str, before: list[int]) -> None:
    (found,) = special_tokens.tokens(framed(single), ["ab c"])
    assert found == special_tokens.Tokens([*before, *plain("ab c")], len(before), [(0, 1), (1, 2), (2, 3), (3, 4)])


@pytest.mark.parametrize("single", [OPENS, BOTH, CLOSES, NEITHER])
def test_a_text_that_begins_with_the_begin_token_gets_no_second_one(single: str) -> None:
    (found,) = special_tokens.tokens(framed(single), ["<|end|>ab"])
    assert (found.ids, found.opening) == ([END, *plain("ab")], 0)


@pytest.mark.parametrize("single", [OPENS, NEITHER])
def test_what_a_closing_tokenizer_gives_is_what_one_without_it_gives(single: str, model: LlamaForCausalLM) -> None:
    closing, without = framed(f"{single} <|end|>"), framed(single)
    assert likelihood.choice_log_likelihoods(model, closing, ITEMS, 2) == likelihood.choice_log_likelihoods(model, without, ITEMS, 2)
    assert generation.answers(model, closing, ITEMS, 2) == generation.answers(model, without, ITEMS, 2)
    assert [*sequences.sequences(closing, [ITEMS])] == [*sequences.sequences(without, [ITEMS])]


def test_positions_of_answer_and_content_are_those_of_the_text_without_what_closes_it() -> None:
    prompt, answer = plain(ITEMS[1].prompt), plain(ITEMS[1].answer)
    for single, before in ((BOTH, [END]), (CLOSES, [])):
        (sequence,) = sequences.sequences(framed(single), [ITEMS[1:]])
        assert sequence.ids == (*before, *prompt, *answer)
        assert sequence.ids[sequence.answer_position + 1 :] == tuple(answer)
        assert [sequence.ids[n] for n in sequence.content] == plain("12")


@pytest.mark.parametrize(
    ("single", "template", "opened"),
    [
        (OPENS, None, "by the tokenizer"),
        (OPENS, TURN, "by the tokenizer"),
        (OPENS, "{{ bos_token }}" + TURN, "by the prompt"),
        (OPENS, "{% if '12' in messages[0].content %}{{ bos_token }}{% endif %}" + TURN, "by either"),
        (NEITHER, TURN, "not at all"),
    ],
)
def test_a_chat_has_one_begin_token_whoever_brings_it(single: str, template: str | None, opened: str, model: LlamaForCausalLM) -> None:
    tokenizer = framed(single, template)
    task = prompts.asked(TaskSet("some", 1, "choice", ITEMS, chat_template=template is not None), tokenizer)
    expected = SpecialTokens.model_validate({"opening": () if single == NEITHER else ("<|end|>",), "opened": opened})
    assert task.special_tokens == expected
    bare = tuple(replace(item, choices=tuple(choice.removeprefix(" " if template else "") for choice in item.choices)) for item in ITEMS)
    found = accuracy.measure(model, tokenizer, task, "bf16", 2)
    assert found.special_tokens == expected
    assert likelihood.choice_log_likelihoods(model, tokenizer, task.items, 2) == likelihood.choice_log_likelihoods(
        model, framed(single), bare, 2
    )


def test_the_run_file_says_what_closes_a_text_and_is_left_out() -> None:
    task = prompts.asked(TaskSet("some", 1, "choice", ITEMS), framed(BOTH))
    assert task.special_tokens == SpecialTokens(opening=("<|end|>",), opened="by the tokenizer", closing=("<|end|>",))
