"""Tokens of a record and of a server in the same names."""

from __future__ import annotations

import make_canary

from bitzones.monitor.naming import Names

RECORD = make_canary.record()


def test_ids_are_taken_as_they_are() -> None:
    names = Names(RECORD, by_id=True)
    assert names.served({5: -1.0, 58: -2.0, "odd": -3.0}) == {5: -1.0, 58: -2.0, "odd": -3.0}
    assert set(names.plan(0)) == set(RECORD.prompts[0].plan.token_ids)


def test_texts_and_entries_of_the_vocabulary_are_both_understood() -> None:
    names = Names(RECORD, by_id=False)
    assert names.served({"t5 ": -1.0, "vocabulary6": -2.0}) == {5: -1.0, 6: -2.0}


def test_a_text_of_two_tokens_says_nothing_of_either_and_a_strange_one_stays() -> None:
    names = Names(RECORD, by_id=False)
    assert names.served({"same ": -1.0, "vocabulary58": -1.5, "strange": -2.0}) == {"strange": -2.0}
    kept = {token for prompt in range(len(RECORD.prompts)) for token in names.plan(prompt)}
    assert not kept & {58, 59}
