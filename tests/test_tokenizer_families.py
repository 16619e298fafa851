"""Each family puts special tokens, spaces and turns where its kind does, and decodes to the text."""

from __future__ import annotations

import pytest
from scripts.tokenizer_families import END, FAMILIES

from bitzones.data import prompts, tasks
from bitzones.data.special_tokens import tokens

TEXT = "Question: What is\n 12?"


@pytest.mark.parametrize(
    ("family", "opens", "closes"),
    [("BOS added", True, False), ("EOS added", False, True), ("none added", False, False), ("SentencePiece", True, False)],
)
def test_special_tokens_stand_where_the_family_has_them(family: str, opens: bool, closes: bool) -> None:
    tokenizer = FAMILIES[family].make()
    ids = tokenizer(TEXT)["input_ids"]
    assert (ids[0] == 0, ids[-1] == 0) == (opens, closes)
    assert 0 not in ids[1:-1]
    assert tokenizer.decode(ids, skip_special_tokens=True) == TEXT
    assert tokens(tokenizer, [TEXT])[0].ids == ids[: len(ids) - closes]


def test_sentencepiece_begins_with_a_space_and_writes_it_as_one_character() -> None:
    tokenizer = FAMILIES["SentencePiece"].make()
    assert tokenizer.convert_ids_to_tokens(tokenizer("the the")["input_ids"]) == [END, "▁the", "▁the"]


def test_a_turn_leaves_the_begin_token_to_the_tokenizer() -> None:
    family = FAMILIES["chat template"]
    tokenizer = family.make()
    asked = prompts.asked(tasks.load("science_mini", limit=1, chat_template=family.chat), tokenizer)
    assert asked.items[0].prompt.startswith("user:\nQuestion: ")
    assert asked.items[0].prompt.endswith("\nassistant:\n")
    assert asked.special_tokens is not None
    assert asked.special_tokens.opened == "by the tokenizer"


def test_all_are_over_one_vocabulary() -> None:
    assert {len(family.make()) for family in FAMILIES.values()} == {768}
