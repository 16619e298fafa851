"""Which tokens sensitivity is measured on, and that padding is marked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from bitzones.data import sequences
from bitzones.data.sequences import SequenceSet, TokenSequence
from bitzones.data.task_items import Item
from bitzones.devices import device as devices
from bitzones.schema.errors import TaskError

TOKENIZER = tiny_models.tokenizer()
WORDS = tuple(Item(f"w{n}", f"Q{n}:", " yes", (" yes", " no")) for n in range(3))
PROMPT = "Tom had 12 pens and 0.\nAnswer:"
PROMPTS = tuple(PROMPT.replace("0", str(n)) for n in range(5))
NUMBERS = tuple(Item(f"n{n}", PROMPTS[n], f" {n}7", content=((8, 10), (20, 21))) for n in range(5))


def build(tokenizer: PreTrainedTokenizerBase, items: list[tuple[Item, ...]], tokens: int, seen: Collection[str] = ()) -> SequenceSet:
    return sequences.take(sequences.sequences(tokenizer, items, seen), tokens)


def texts(of: SequenceSet) -> list[str]:
    return [TOKENIZER.decode(sequence.ids, skip_special_tokens=True) for sequence in of.sequences]


def test_tasks_take_turns_and_the_longer_one_goes_on_alone() -> None:
    words, numbers = [f"Q{n}: yes" for n in range(3)], [f"{PROMPTS[n]} {n}7" for n in range(5)]
    expected = [words[0], numbers[0], words[1], numbers[1], words[2], numbers[2], numbers[3], numbers[4]]
    total = 8 + sum(map(len, expected))
    assert texts(build(TOKENIZER, [WORDS, NUMBERS], total)) == expected


def test_whole_items_until_the_tokens_are_reached() -> None:
    one = 1 + len(PROMPT) + 3
    assert build(TOKENIZER, [NUMBERS], one).sequence_tokens == (one,)
    assert build(TOKENIZER, [NUMBERS], one + 1).sequence_tokens == (one, one)


def test_too_few_tokens_are_an_error_that_says_how_many_there_are() -> None:
    held = 5 * (1 + len(PROMPT) + 3)
    with pytest.raises(TaskError, match=f"asks for {held + 1} tokens and the train splits hold {held} that are neither scored nor used"):
        build(TOKENIZER, [NUMBERS], held + 1)
    assert sum(build(TOKENIZER, [NUMBERS], held).sequence_tokens) == held


def test_positions_are_those_of_the_answer_and_the_content() -> None:
    (sequence,) = build(TOKENIZER, [NUMBERS], 1).sequences
    assert TOKENIZER.decode(sequence.ids[sequence.answer_position + 1 :]) == " 07"
    assert TOKENIZER.decode([sequence.ids[sequence.answer_position]]) == ":"
    assert [TOKENIZER.decode([sequence.ids[n]]) for n in sequence.content] == ["1", "2", "0"]
    (without,) = build(TOKENIZER, [WORDS], 1).sequences
    assert without.content == ()


def test_the_hash_is_that_of_the_tokens() -> None:
    first, again, other = (build(TOKENIZER, tasks, 50) for tasks in ([NUMBERS], [NUMBERS], [WORDS, NUMBERS]))
    assert first.sha256 == again.sha256 != other.sha256


@pytest.mark.parametrize("size", [1, 3, 100])
def test_batches_hold_every_sequence_once_and_mask_padding(size: int) -> None:
    whole = build(TOKENIZER, [WORDS, NUMBERS], 180)
    seen: list[int] = []
    for batch in sequences.batches(whole, size, torch.device("cpu")):
        assert len(batch.index) <= size
        assert batch.ids.shape == batch.mask.shape == (len(batch.index), max(len(s.ids) for s in batch.sequences))
        for row, (index, sequence) in enumerate(zip(batch.index, batch.sequences, strict=True)):
            assert sequence is whole.sequences[index]
            length = len(sequence.ids)
            assert tuple(batch.ids[row, :length].tolist()) == sequence.ids
            assert batch.mask[row].tolist() == [1] * length + [0] * (batch.mask.shape[1] - length)
        seen += batch.index
    assert sorted(seen) == list(range(len(whole.sequences)))
    lengths = [len(whole.sequences[n].ids) for n in seen]
    assert lengths == sorted(lengths)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=7).map(sorted),
    size=st.integers(1, 4),
    start=st.sampled_from([0, 3, 20, 1000]),
)
def test_no_other_cut_takes_fewer_tokens(lengths: list[int], size: int, start: int) -> None:
    def cost(cuts: Iterable[tuple[int, int]]) -> int:
        return sum(lengths[end - 1] * (end - begin) + start for begin, end in cuts)

    def every(begin: int) -> Iterator[list[tuple[int, int]]]:
        if begin == len(lengths):
            yield []
        for end in range(begin + 1, min(begin + size, len(lengths)) + 1):
            yield from ([(begin, end), *rest] for rest in every(end))

    found = [(unit.start, unit.stop) for unit in sequences._cuts(lengths, size, start)]
    assert found in list(every(0))
    assert cost(found) == min(map(cost, every(0)))


def test_a_cpu_cuts_where_lengths_differ_and_a_gpu_goes_on() -> None:
    lengths = [10] * 4 + [100] * 4
    for kind, sizes in (("cpu", [4, 4]), ("cuda", [8])):
        cuts = sequences._cuts(lengths, 8, devices.batch_start_tokens(torch.device(kind)))
        assert [unit.stop - unit.start for unit in cuts] == sizes
    rows = SequenceSet(tuple(TokenSequence(tuple(range(length)), 0, ()) for length in reversed(lengths)))
    shapes = [tuple(batch.ids.shape) for batch in sequences.batches(rows, 8, torch.device("cpu"))]
    assert shapes == [(4, 10), (4, 100)]


def test_what_is_scored_is_passed_over() -> None:
    tokens = 8
    assert texts(build(TOKENIZER, [WORDS], tokens)) == ["Q0: yes"]
    assert texts(build(TOKENIZER, [WORDS], tokens, seen={"Q0:", "Q1:"})) == ["Q2: yes"]
    with pytest.raises(TaskError, match="hold 0"):
        build(TOKENIZER, [WORDS], tokens, seen={item.prompt for item in WORDS})


def test_what_is_taken_next_has_no_item_in_common() -> None:
    found = sequences.sequences(TOKENIZER, [WORDS, (*WORDS, *NUMBERS)])
    first, second = sequences.take(found, 8), sequences.take(found, 100)
    assert texts(first) == ["Q0: yes"]
    assert texts(second) == ["Q1: yes", "Q2: yes", *(f"{PROMPTS[n]} {n}7" for n in range(3))]
    with pytest.raises(TaskError, match=r"held_out\.tokens asks for 1000 tokens"):
        sequences.take(found, 1000, "held_out.tokens")


def test_an_item_that_is_longer_than_the_model_is_passed_over_and_counted() -> None:
    long = Item("long", "Q" * 40 + ":", " yes", (" yes", " no"))
    found = sequences.sequences(TOKENIZER, [(WORDS[0], long, WORDS[1], replace(long, prompt="P" * 40), WORDS[2])], room=20)
    first, rest = sequences.take(found, 16), sequences.take(found, 8)
    assert (texts(first), first.passed_over) == (["Q0: yes", "Q1: yes"], 1)
    assert (texts(rest), rest.passed_over) == (["Q2: yes"], 1)
    with pytest.raises(TaskError, match=r"hold 0 that are neither scored nor used \(2 items are longer than the model's 20 positions\)"):
        sequences.take(found, 1)
    exactly = 1 + len(long.prompt) + len(long.answer)
    assert [len(sequences.take(sequences.sequences(TOKENIZER, [[long]], room=exactly), 1).sequences[0].ids)] == [exactly]


def test_where_prompt_and_answer_merge_the_last_token_is_still_predicted() -> None:
    merging = tiny_models.tokenizer()
    merging.add_tokens([": a"])
    (sequence,) = sequences.sequences(merging, [[Item("a", "Q:", " a", (" a", " b"))]])
    assert len(sequence.ids) == 3
    assert sequence.answer_position == 1
