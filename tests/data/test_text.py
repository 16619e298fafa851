"""Sequences from a user's own texts: how they are cut, and that no document is in two sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import tiny_models
from tokenizers import processors

from bitzones.data import text
from bitzones.schema.errors import TaskError

TOKENIZER = tiny_models.tokenizer()
BOS = 0


def dealer(length: int = 20, **options: Any) -> text.Dealer:
    return text.Dealer(TOKENIZER, length, **options)


def decoded(sequences: Any) -> list[str]:
    return [TOKENIZER.decode(row.ids[1:]) for row in sequences]


def test_a_document_is_cut_into_sequences_that_each_open_as_a_text_does() -> None:
    made, record = dealer().take(text.opened(["a" * 19 + "b" * 19 + "c" * 7 + "d"]), 48, "calibration.tokens")
    assert decoded(made.sequences) == ["a" * 19, "b" * 19, "c" * 7 + "d"]
    assert all(row.ids[0] == BOS and row.ids.count(BOS) == 1 for row in made.sequences)
    assert (record.documents, record.sequences, record.tokens, record.sequence_tokens) == (1, 3, 20 + 20 + 9, 20)
    assert record.origin == "memory:list"


def test_a_tail_shorter_than_the_shortest_sequence_is_dropped() -> None:
    made, record = dealer().take(text.opened(["a" * 19 + "bcd", "x", "e" * 19]), 40, "k")
    assert decoded(made.sequences) == ["a" * 19, "e" * 19]
    assert record.passed_over == {"too short": 1}


def test_what_a_tokenizer_appends_is_not_in_a_sequence() -> None:
    appending = tiny_models.tokenizer()
    appending.backend_tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[attr-defined]
        single="<|end|> $A <|end|>", special_tokens=[("<|end|>", BOS)]
    )
    made, _ = text.Dealer(appending, 20).take(text.opened(["a" * 40]), 20, "k")
    assert [row.ids.count(BOS) for row in made.sequences] == [1]


def test_no_document_is_in_two_sets_even_where_two_sources_share_it() -> None:
    shared = [letter * 30 for letter in "abcdef"]
    deal, first = dealer(), text.opened(shared)
    sensitivity, _ = deal.take(first, 25, "k")
    held_out, _ = deal.take(first, 25, "k")
    calibration, record = deal.take(text.opened([*shared, "g" * 30]), 25, "k")
    letters = [set("".join(decoded(made.sequences))) for made in (sensitivity, held_out, calibration)]
    assert letters == [{"a"}, {"b"}, {"c"}]
    assert record.passed_over == {"already taken": 2}


def test_a_document_that_holds_a_scored_item_is_passed_over() -> None:
    made, record = dealer(scored={"Question: 1+1?"}).take(text.opened(["see: Question: 1+1? 2 yes it is", "b" * 19]), 20, "k")
    assert decoded(made.sequences) == ["b" * 19]
    assert record.passed_over == {"holds a scored item": 1}


def test_the_hash_is_of_the_documents_used_and_their_order() -> None:
    first, second = "a" * 19, "b" * 19
    hashes = {dealer().take(text.opened(given), 40, "k")[1].sha256 for given in ([first, second], [first, second, "c"], [second, first])}
    assert len(hashes) == 2


def test_too_little_text_names_the_key_and_says_what_was_there() -> None:
    with pytest.raises(TaskError, match=r"calibration.tokens asks for 100 tokens and memory:list holds 20 .*passed over: 1 too short"):
        dealer().take(text.opened(["a" * 19, "b"]), 100, "calibration.tokens")


def test_sequences_longer_than_the_model_are_refused() -> None:
    with pytest.raises(TaskError, match=r"text\.sequence_tokens = 20 and the model has 16 positions"):
        dealer(positions=16)


def sources(folder: Path) -> Iterator[Any]:
    (folder / "plain.txt").write_text("one\ntwo\n\n\nthree\n", encoding="utf-8-sig")
    (folder / "lines.jsonl").write_text('{"text": "one\\ntwo"}\n{"text": "three"}\n', encoding="utf-8")
    yield str(folder / "plain.txt")
    yield folder / "lines.jsonl"
    yield ["one\ntwo", "three"]
    yield (word for word in ("one\ntwo", "three"))
    yield datasets.Dataset.from_dict({"text": ["one\ntwo", "three"], "other": [1, 2]})


def test_every_kind_of_source_gives_the_same_documents(tmp_path: Path) -> None:
    found = [list(text.opened(given).unread) for given in sources(tmp_path)]
    assert found == [["one\ntwo", "three"]] * 5


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("/nowhere/file.jsonl", "/nowhere/file.jsonl: no such file or folder, and no hub id"),
        ([1], "memory:list: item 0 is int, not text"),
        (datasets.Dataset.from_dict({"body": ["a"]}), "memory:Dataset: no column text; it has body"),
        (datasets.Dataset.from_dict({"text": [1]}), "memory:Dataset: column text holds int, not text"),
    ],
)
def test_a_source_that_holds_no_text_is_one_line(given: Any, said: str) -> None:
    with pytest.raises(TaskError) as caught:
        list(text.opened(given).unread)
    assert said in str(caught.value)


def test_a_file_that_is_not_utf8_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(TaskError, match=r"latin\.txt: not UTF-8 text"):
        list(text.opened(tmp_path / "latin.txt").unread)
