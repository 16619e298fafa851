"""Sequences from a user's own texts: how they are cut, and that no document is in two sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import tiny_models
from tokenizers import processors

from bitzones.data import plain_text, text
from bitzones.data.dealing import Dealer, Taken
from bitzones.schema.errors import TaskError
from bitzones.schema.text_settings import Domain

TOKENIZER = tiny_models.tokenizer()
BOS = 0


def dealer(length: int = 20, **options: Any) -> Dealer:
    return Dealer(TOKENIZER, length, **options)


def decoded(taken: Taken) -> list[str]:
    return [TOKENIZER.decode(row.ids[1:]) for row in taken.sequences]


def test_a_document_is_cut_into_sequences_that_each_open_as_a_text_does() -> None:
    made = dealer().take(text.opened(["a" * 19 + "b" * 19 + "c" * 7 + "d"]), 48, "calibration.tokens")
    assert decoded(made) == ["a" * 19, "b" * 19, "c" * 7 + "d"]
    assert all(row.ids[0] == BOS and row.ids.count(BOS) == 1 for row in made.sequences)
    assert (made.part.documents, made.part.sequences, made.part.tokens) == (1, 3, 20 + 20 + 9)
    assert made.part.origin == "memory:list"


def test_a_tail_shorter_than_the_shortest_sequence_is_dropped() -> None:
    made = dealer().take(text.opened(["a" * 19 + "bcd", "x", "e" * 19]), 40, "k")
    assert decoded(made) == ["a" * 19, "e" * 19]
    assert made.part.passed_over == {"too short": 1}


def test_what_a_tokenizer_appends_is_not_in_a_sequence() -> None:
    appending = tiny_models.tokenizer()
    appending.backend_tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[attr-defined]
        single="<|end|> $A <|end|>", special_tokens=[("<|end|>", BOS)]
    )
    made = Dealer(appending, 20).take(text.opened(["a" * 40]), 20, "k")
    assert [row.ids.count(BOS) for row in made.sequences] == [1]


def test_no_document_is_in_two_sets_even_where_two_sources_share_it() -> None:
    shared = [letter * 30 for letter in "abcdef"]
    deal, first = dealer(), text.opened(shared)
    sensitivity = deal.take(first, 25, "k")
    held_out = deal.take(first, 25, "k")
    calibration = deal.take(text.opened([*shared, "g" * 30]), 25, "k")
    letters = [set("".join(decoded(made))) for made in (sensitivity, held_out, calibration)]
    assert letters == [{"a"}, {"b"}, {"c"}]
    assert calibration.part.passed_over == {"already taken": 2}


def test_a_document_that_holds_a_scored_item_is_passed_over() -> None:
    made = dealer(scored={"Question: 1+1?"}).take(text.opened(["see: Question: 1+1? 2 yes it is", "b" * 19]), 20, "k")
    assert decoded(made) == ["b" * 19]
    assert made.part.passed_over == {"holds a scored item": 1}


def test_the_hash_is_of_the_documents_used_and_their_order() -> None:
    first, second = "a" * 19, "b" * 19
    hashes = {dealer().take(text.opened(given), 40, "k").part.sha256 for given in ([first, second], [first, second, "c"], [second, first])}
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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b" \n\n", "the file is empty"),
        (b"ab\0cd\n", "binary, not text: byte 2 is 0"),
        (b"x" * (plain_text.LONGEST_LINE + 1), "line 1 is longer than 1,048,576 characters"),
        (b"first\n" + b"x" * (plain_text.LONGEST_LINE + 1), "line 2 is longer than 1,048,576 characters"),
    ],
)
@pytest.mark.parametrize("name", ["bad.txt", "bad.jsonl"])
def test_a_file_that_is_no_text_is_one_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    if name == "bad.jsonl" and content.startswith(b"first"):
        said = "not readable as a data set"
    with pytest.raises(TaskError) as caught:
        list(text.opened(tmp_path / name).unread)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_blank_lines_is_not_one_document_of_any_size(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text(("y" * 1023 + "\n") * 50, encoding="utf-8")
    found = list(text.opened(tmp_path / "long.txt").unread)
    assert [len(document) for document in found] == [32 * 1024 - 1, 18 * 1024 - 1]


@pytest.mark.parametrize("kind", ["docs", "code", "law"])
def test_the_texts_that_ship_are_read_with_their_license(kind: str) -> None:
    found = text.opened(f"embedded:{kind}")
    documents = list(found.unread)
    assert found.license in {"PSF-2.0", "public domain"}
    assert len(set(documents)) == len(documents) > 15
    assert sum(map(len, documents)) > 50_000


def test_an_unknown_text_of_the_package_names_those_there_are() -> None:
    with pytest.raises(TaskError, match="embedded:docs, embedded:code, embedded:law"):
        text.opened("embedded:poems")


MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]


@pytest.mark.parametrize("messages", [MESSAGES, [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello there"}]])
def test_conversations_go_through_the_chat_template(messages: list[dict[str, str]]) -> None:
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = tiny_models.CHATML
    made = Dealer(tokenizer, 200).take(text.opened(datasets.Dataset.from_dict({"text": [messages]})), 20, "k")
    assert [tokenizer.decode(row.ids[1:]) for row in made.sequences] == [
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello there<|im_end|>\n"
    ]


def test_a_template_that_opens_a_text_itself_does_not_open_it_twice() -> None:
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = "<|end|>" + tiny_models.CHATML
    made = Dealer(tokenizer, 200).take(text.opened(datasets.Dataset.from_dict({"text": [MESSAGES]})), 20, "k")
    assert [row.ids.count(BOS) for row in made.sequences] == [1]


def test_conversations_need_a_template() -> None:
    with pytest.raises(TaskError, match=r"memory:Dataset holds conversations, .* no chat template"):
        dealer().take(text.opened(datasets.Dataset.from_dict({"text": [MESSAGES]})), 20, "k")


def test_the_license_of_a_folder_is_what_its_card_says(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "one"}\n', encoding="utf-8")
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: cc-by-sa-4.0\n---\n# Data\nlicense: none\n", encoding="utf-8")
    assert text.opened(tmp_path).license == "cc-by-sa-4.0"
    (tmp_path / "README.md").write_text("# Data\nlicense: mit\n", encoding="utf-8")
    assert text.opened(tmp_path).license is None


def test_joined_windows_are_cut_from_one_text_and_open_as_llama_perplexity_opens_them() -> None:
    domain = Domain(name="d", source="s", tokens=40, window=16)
    made = dealer().windows(text.opened(["a" * 20, "b" * 30]), domain)
    assert decoded(made) == ["a" * 15, "a" * 3 + "\n\n" + "b" * 10]
    assert made.part.documents == 2
    assert [row.ids[0] for row in made.sequences] == [BOS, BOS]


def test_windows_with_a_stride_overlap() -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    domain = Domain(name="d", source="s", tokens=26, window=16, stride=5)
    assert decoded(dealer().windows(text.opened([letters]), domain)) == [letters[1:16], letters[6:21], letters[11:26]]


def test_windows_of_documents_apart_end_with_a_short_one() -> None:
    domain = Domain(name="d", source="s", tokens=40, window=16, joined=False)
    assert decoded(dealer().windows(text.opened(["a" * 15 + "b" * 15 + "c" * 9]), domain)) == ["a" * 15, "b" * 15, "c" * 9]


def test_a_domain_takes_no_more_documents_than_it_needs_and_leaves_the_rest() -> None:
    deal, documents = dealer(), text.opened([letter * 30 for letter in "abcdefgh"])
    first = deal.windows(documents, Domain(name="d", source="s", tokens=64, window=32))
    rest = deal.take(documents, 20, "k")
    assert first.part.documents <= 3
    assert first.hashes.isdisjoint(rest.hashes)


def test_a_domain_of_too_little_text_names_itself() -> None:
    with pytest.raises(TaskError, match=r"domain d: tokens asks for 64 tokens and memory:list holds 40"):
        dealer().windows(text.opened(["a" * 40]), Domain(name="d", source="s", tokens=64, window=64))
