"""Sets of several sources: shares, what is left for the next set, and that no document is in two of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from bitzones.data import tasks
from bitzones.data.sequences import TokenSequence
from bitzones.data.sets import SequenceSets
from bitzones.schema.errors import TaskError
from bitzones.schema.profile import Profile

TOKENIZER = tiny_models.tokenizer()


def profile(**sections: Any) -> Profile:
    given = {
        "schema": 2,
        "formats": ("qint8", "qint4:gptq"),
        "model": {"source": "memory:llama"},
        "tasks": ({"name": "science_mini"},),
        "text": {"sequence_tokens": 64},
        "sensitivity": {"tokens": 600},
        "held_out": {"tokens": 600},
        "calibration": {"tokens": 800},
        "budget": {"average_bits": 6.0},
    }
    return Profile.model_validate({**given, **sections})


def written(length: int) -> Iterator[TokenSequence]:
    for number in count(1):
        yield TokenSequence((0, *(number % 200 + n % 50 for n in range(length - 1))), length - 1, ())


def sets(chosen: Profile, **given: Any) -> SequenceSets:
    return SequenceSets(chosen, TOKENIZER, tasks.of_profile(chosen), tiny_models.llama(), given, writer=written)


def test_tasks_without_a_train_split_give_no_sequences_and_say_so() -> None:
    class Documents:
        prompts, has_training = frozenset[str](), False

    chosen = profile()
    without = SequenceSets(chosen, TOKENIZER, {"pages": Documents()}, tiny_models.llama(), {}, writer=written)
    with pytest.raises(TaskError, match=r"no train split .*\(pages\): name text of their own in \[\[sensitivity.text\]\]"):
        _ = without.sensitivity
    beside = SequenceSets(chosen, TOKENIZER, {"pages": Documents(), **tasks.of_profile(chosen)}, tiny_models.llama(), {}, writer=written)
    assert beside.sensitivity.sequences == sets(chosen).sensitivity.sequences
    assert beside.texts["sensitivity"].origin == "train splits of science_mini"


def texts(letter: str) -> list[str]:
    return [f"{letter}{number:03}" * 25 for number in range(60)]


def test_each_source_gives_its_share_and_is_on_record() -> None:
    mixture = ({"source": "tasks", "share": 0.5}, {"source": "a", "license": "mine"}, {"source": "embedded:law"})
    made = sets(profile(sensitivity={"tokens": 1200, "text": mixture}), a=texts("a"))
    assert sum(made.sensitivity.sequence_tokens) >= 1200
    record = made.texts["sensitivity"]
    assert [(part.origin, part.share, part.license) for part in record.parts] == [
        ("train splits of science_mini", 0.5, None),
        ("a", 0.25, "mine"),
        ("embedded:law", 0.25, "public domain"),
    ]
    assert all(0 <= part.tokens - part.share * 1200 < 100 for part in record.parts)
    assert record.tokens == sum(part.tokens for part in record.parts) == sum(made.sensitivity.sequence_tokens)
    assert len({part.sha256 for part in record.parts}) == 3


def test_sets_and_domains_that_share_a_source_share_no_document() -> None:
    chosen = profile(
        sensitivity={"tokens": 600, "text": ({"source": "a"},)},
        calibration={"tokens": 800, "text": ({"source": "a", "share": 0.5}, {"source": "b", "share": 0.5})},
        domains=({"name": "d", "source": "a", "tokens": 600, "window": 64}, {"name": "e", "source": "b", "tokens": 64, "window": 64}),
    )
    made = sets(chosen, a=texts("a"), b=[*texts("a")[:30], *texts("b")])
    _ = made.calibration
    found = [TOKENIZER.decode(row.ids[1:]) for every in (made.sensitivity, made.held_out, made.calibration) for row in every.sequences]
    windows = [TOKENIZER.decode(row.ids[1:]) for name in "de" for row in made.domains[name].windows.sequences]
    numbers = [{text[n : n + 4] for text in part for n in range(len(text) - 3) if text[n] in "ab"} for part in (found, windows)]
    whole = [{number for number in part if number[1:].isdigit()} for part in numbers]
    assert whole[0]
    assert whole[1]
    assert whole[0].isdisjoint(whole[1])
    assert made.texts["calibration"].parts[1].passed_over["already taken"] > 0


def test_domains_are_the_same_whatever_the_sets_take() -> None:
    domain = ({"name": "d", "source": "a", "tokens": 600, "window": 64},)
    hashes = set()
    for tokens in (100, 900):
        made = sets(profile(sensitivity={"tokens": tokens, "text": ({"source": "a"},)}, domains=domain), a=texts("a"))
        _ = made.sensitivity
        hashes.add(made.domains["d"].windows.sha256)
    assert len(hashes) == 1


def test_generated_and_random_tokens_are_sources_too() -> None:
    mixture = ({"source": "generated", "share": 0.5}, {"source": "random", "share": 0.5})
    first, again = (sets(profile(sensitivity={"tokens": 512, "text": mixture})) for _ in range(2))
    assert first.sensitivity.sequence_tokens == (64,) * 8
    assert first.sensitivity.sha256 == again.sensitivity.sha256
    assert first.held_out.sha256 != first.sensitivity.sha256
    drawn = [row.ids for row in first.sensitivity.sequences[4:]]
    assert all(row[0] == 0 and 0 not in row[1:] for row in drawn)
    assert len({token for row in drawn for token in row}) > 100


def test_a_source_that_holds_too_little_names_its_share() -> None:
    mixture = ({"source": "tasks", "share": 0.5}, {"source": "a", "share": 0.5})
    made = sets(profile(sensitivity={"tokens": 1000, "text": mixture}), a=["b" * 90])
    with pytest.raises(TaskError, match=r"sensitivity.tokens \(share 0.5 of a\) asks for 500 tokens and a holds 92"):
        _ = made.sensitivity


def test_tasks_alone_give_what_they_gave_without_any_text() -> None:
    made = sets(profile(text=None))
    assert made.texts == {}
    _ = made.held_out
    assert [record.parts[0].origin for record in made.texts.values()] == ["train splits of science_mini"] * 2
    assert made.texts["held_out"].documents == len(made.held_out.sequences)


def by(kind: str, **sections: Any) -> Profile:
    two = ({"name": "science_mini"}, {"name": "word_problems_mini"})
    return profile(**{"tasks": two, "plans": {"by": kind}, "formats": ("qint8", "qint4"), **sections})


def test_every_task_has_enough_sequences_for_an_interval_and_each_has_its_own() -> None:
    made = sets(by("task", sensitivity={"tokens": 40}, held_out={"tokens": 40}))
    for name, chosen in (("sensitivity", made.sensitivity), ("held_out", made.held_out)):
        found = made.by_slice(name)  # type: ignore[arg-type]
        assert {task: len(places) for task, places in found.items()} == {"science_mini": 20, "word_problems_mini": 20}
        assert sorted(place for places in found.values() for place in places) == list(range(len(chosen.sequences)))
        for task, places in found.items():
            assert {row.task for row in chosen.of(places).sequences} == {task}
    first, second = (
        TOKENIZER.decode(made.sensitivity.sequences[made.by_slice("sensitivity")[task][0]].ids) for task in made.by_slice("sensitivity")
    )
    assert first.rsplit(" ", 1)[1].isalpha(), "a question that is answered in words"
    assert second.rsplit(" ", 1)[1].isdigit(), "a problem with a number"


def test_a_set_that_is_large_enough_is_that_of_a_run_with_one_plan() -> None:
    wide = {"sensitivity": {"tokens": 9000}, "held_out": {"tokens": 9000}}
    one, each = (sets(by("task", **wide, plans=plans)) for plans in ({}, {"by": "task"}))
    assert one.by_slice("sensitivity") == {}
    assert (one.sensitivity, one.held_out) == (each.sensitivity, each.held_out)


def test_every_source_has_enough_sequences_and_their_names() -> None:
    mixture = ({"source": "a", "share": 0.2}, {"source": "tasks", "share": 0.6}, {"source": "random", "share": 0.2})
    domains = ({"name": "letters", "source": "a", "tokens": 64, "window": 64},)
    said = list[str]()
    chosen = by("domain", sensitivity={"tokens": 300, "text": mixture}, held_out={"tokens": 300}, domains=domains)
    made = SequenceSets(chosen, TOKENIZER, tasks.of_profile(chosen), tiny_models.llama(), {"a": texts("a")}, said.append, writer=written)
    found = made.by_slice("held_out")
    assert {name: len(places) for name, places in found.items()} == {"letters": 20, "tasks": 20, "random": 20}
    assert all(TOKENIZER.decode(row.ids[1:3]).startswith("a") for row in made.held_out.of(found["letters"]).sequences[:1])
    assert any("held_out.tokens" in line and "letters 20, tasks 20, random 20" in line for line in said)


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("domain", texts("a")[:2], "sensitivity.tokens .*: a gives 4 sequences where 20 are needed: .*give more text"),
        ("task", [], "sensitivity.tokens: the train splits give .* of mine where 20 are needed"),
    ],
)
def test_text_that_is_too_short_for_a_slice_is_refused_in_one_line(kind: str, given: list[str], said: str, tmp_path: Path) -> None:
    rows = [{"ID": f"n{n}", "Body": f"Tom had {n} pens.", "Question": "How many?", "Answer": str(n)} for n in range(14)]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    named = ({"name": "science_mini"}, {"name": "mine", "path": str(path), "limit": 4})
    text = {"text": ({"source": "a"}, {"source": "tasks"})} if kind == "domain" else {}
    with pytest.raises(TaskError, match=said) as error:
        _ = sets(by(kind, tasks=named, sensitivity={"tokens": 40, **text}), a=given).sensitivity
    assert "\n" not in str(error.value)


def test_a_task_without_a_train_split_has_no_plan_of_its_own() -> None:
    class Documents:
        prompts, has_training = frozenset[str](), False

    chosen = by("task")
    scored = {**tasks.of_profile(chosen), "pages": Documents()}
    made = SequenceSets(chosen, TOKENIZER, scored, tiny_models.llama(), {}, writer=written)
    with pytest.raises(TaskError, match=r"plans\.by = task: task pages has no train split to make its plan from"):
        made.check()
