"""Pieces of text joined are the text, whatever the tokens and stop strings are."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st
from tiny_served import tiny

from bitzones.serve.decoding import Step
from bitzones.serve.pieces import Piece, Writing, placed_prompt, text_of_tokens, token_name

TOKENIZER = tiny().tokenizer
END = 0
WORDS = st.text(st.sampled_from("ab \nTom4é€😀"), max_size=12)


def encoded(text: str) -> list[int]:
    return [token for token in TOKENIZER(text)["input_ids"] if token != END]


def pieces(ids: list[int], stops: tuple[str, ...] = (), before: list[int] | None = None) -> tuple[list[Piece], Writing]:
    found: list[Piece] = []
    writing = Writing(TOKENIZER, before or [], stops, frozenset({END}), found.append)
    for place, token in enumerate(ids):
        if writing.add(Step(token, -1.0), last=place == len(ids) - 1):
            break
    return found, writing


def joined(found: list[Piece]) -> str:
    return "".join(piece.text for piece in found)


@given(WORDS, WORDS)
def test_pieces_join_to_the_text_that_follows_the_prompt(prompt: str, text: str) -> None:
    found, writing = pieces(encoded(text), before=encoded(prompt))
    assert joined(found) == text
    assert not any("\ufffd" in piece.text for piece in found)
    assert [token.step.token for piece in found for token in piece.tokens] == encoded(text)
    assert (writing.count, writing.ended) == (len(encoded(text)), False)


@given(WORDS, st.lists(st.text(st.sampled_from("ab \nTom4é"), min_size=1, max_size=3), max_size=3))
@example("aab", ["ab"])
@example("aaab", ["aab", "b"])
def test_text_ends_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    found, writing = pieces(encoded(text), tuple(stops))
    # Of the tokens that complete a stop string, the first decides; what it leaves is cut at the earliest stop string in it.
    cuts = [place for stop in stops if (place := text.find(stop)) >= 0]
    assert writing.ended == bool(cuts)
    if not cuts:
        assert joined(found) == text
    else:
        assert text.startswith(joined(found))
        assert not any(stop in joined(found) for stop in stops)
        assert any(text[len(joined(found)) :].startswith(stop) for stop in stops)


def test_what_may_become_a_stop_string_is_held_back() -> None:
    found, _ = pieces(encoded("Tom has"), ("has a dog",))
    assert joined(found) == "Tom has"  # released at the end
    early: list[Piece] = []
    writing = Writing(TOKENIZER, [], (" has a dog",), frozenset({END}), early.append)
    for token in encoded("Tom has"):
        writing.add(Step(token, None), last=False)
    assert joined(early) == "Tom"


def test_tokens_behind_a_stop_string_are_left_out() -> None:
    ids = encoded("Tom has 3 apples.")
    found, _ = pieces(ids, (" apples",))
    kept = [token.step.token for piece in found for token in piece.tokens]
    assert joined(found) == "Tom has 3"
    assert text_of_tokens(TOKENIZER, kept) == "Tom has 3"


def test_an_end_token_ends_it_and_is_no_text() -> None:
    found, writing = pieces([*encoded("Tom"), END, *encoded("never")])
    assert (joined(found), writing.ended) == ("Tom", True)
    assert found[-1].tokens[-1].step.token == END


def test_offsets_are_places_in_the_text() -> None:
    text = "Tom é€ has 😀 3 apples"
    found, _ = pieces(encoded(text))
    placed = [token for piece in found for token in piece.tokens]
    for this, following in pairwise(placed):
        piece = text[this.offset : following.offset]
        name = token_name(TOKENIZER, this.step.token)
        assert piece == name or piece in "é€😀"  # characters of several tokens begin where their first token does
    assert [token.offset for token in placed_prompt(TOKENIZER, [Step(token, None) for token in encoded(text)])] == [
        token.offset for token in placed
    ]


def test_no_two_tokens_have_one_name() -> None:
    names = [token_name(TOKENIZER, token) for token in range(len(TOKENIZER))]
    assert len(set(names)) == len(names)
    assert token_name(TOKENIZER, END) == "<|end|>"
