"""A server is watched over real HTTP: what is an alarm, what is none, and what a crash or an outage leaves."""

from __future__ import annotations

import json
import sqlite3
from functools import partial
from pathlib import Path

import make_canary
import numpy as np
import other_server
import pytest

pytest.importorskip("httpx")

import watch_server
from watch_server import checks, good, watching

from bitzones.monitor.canary import Tolerance
from bitzones.monitor.canary_watch import OUTAGE
from bitzones.monitor.completions import Completions
from bitzones.monitor.overview import Overview, overview
from bitzones.monitor.records import CanaryCheck
from bitzones.monitor.state import State, opened
from bitzones.schema.errors import ArgumentError, BitzonesError, OutputError, ServerError

RECORD = watch_server.RECORD


def alarms(check: CanaryCheck) -> set[str]:
    return {test.name for test in check.tests if test.alarm}


def means(check: CanaryCheck) -> dict[str, float | None]:
    return {test.name: test.mean_nats for test in check.tests}


# --- what is an alarm


def test_the_model_of_the_record_is_enrolled_and_does_not_deviate(tmp_path: Path) -> None:
    manners = good()
    with other_server.running(manners) as url:
        first, *others = checks(tmp_path, url, 4)
    assert (first.kind, first.asked, first.answered) == ("enroll", 40, 40)
    assert [(check.kind, check.asked) for check in others] == [("check", 10)] * 3
    assert all(value == pytest.approx(0, abs=1e-15) for check in [first, *others] for value in means(check).values())
    assert not any(check.alarm for check in [first, *others])
    assert first.reference_nats == pytest.approx(make_canary.mean_deviation(RECORD, 1.02))
    asked = manners.asked[0]
    assert asked["prompt"] == list(RECORD.prompts[0].prompt_ids)
    assert (asked["max_tokens"], asked["temperature"], asked["logprobs"]) == (1, 0, 20)


def test_a_checkpoint_that_was_wrong_from_the_start_is_told_when_it_is_enrolled(tmp_path: Path) -> None:
    with other_server.running(good(predict=partial(make_canary.predict, scale=1.1))) as url:
        (first,) = checks(tmp_path, url, 1)
    assert alarms(first) == {"plan"}
    assert means(first)["plan"] == pytest.approx(make_canary.mean_deviation(RECORD, 1.1))


def test_a_small_change_below_what_engines_differ_by_is_told_from_the_enrolled_answers(tmp_path: Path) -> None:
    """A scale of 1.002 deviates by far less than the record's bound of 2e-4."""
    assert make_canary.mean_deviation(RECORD, 1.002) < 5e-6
    manners = good()
    with other_server.running(manners) as url:
        checks(tmp_path, url, 3)
        manners.predict = partial(make_canary.predict, scale=1.002)
        after = checks(tmp_path, url, 1)[0]
    assert alarms(after) == {"unchanged"}


def test_an_alarm_stays_until_the_server_is_enrolled_again(tmp_path: Path) -> None:
    manners = good()
    with other_server.running(manners) as url:
        checks(tmp_path, url, 2)
        manners.predict = partial(make_canary.predict, scale=1.1)
        assert alarms(checks(tmp_path, url, 1)[0]) == {"plan", "unchanged"}
        manners.predict = make_canary.predict
        assert alarms(checks(tmp_path, url, 3)[-1]) == {"plan", "unchanged"}
        with watching(tmp_path, url) as watch:
            watch.enroll_again()
            assert watch.check().kind == "enroll"
            assert not watch.check().alarm


def test_noise_that_was_there_when_the_server_was_enrolled_is_none(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    with other_server.running(good(predict=partial(make_canary.predict, noise=rng, size=0.02))) as url:
        found = checks(tmp_path, url, 8)
    assert found[0].tests[1].bound_nats > 1e-5
    assert not any(check.alarm for check in found)


def test_a_known_engine_may_be_allowed_more(tmp_path: Path) -> None:
    with other_server.running(good(predict=partial(make_canary.predict, scale=1.05))) as url:
        found = checks(tmp_path, url, 3, tolerance=Tolerance(plan=2 * make_canary.mean_deviation(RECORD, 1.05)))
    assert not any(check.alarm for check in found)


def test_bounds_that_come_too_late_are_refused(tmp_path: Path) -> None:
    with other_server.running(good()) as url:
        checks(tmp_path, url, 1)
        for late in (Tolerance(plan=0.1), Tolerance(noise=1e-3)):
            with pytest.raises(ArgumentError, match="--enroll"):
                checks(tmp_path, url, 1, tolerance=late)
        assert not checks(tmp_path, url, 1, tolerance=Tolerance(noise=1e-9))[0].alarm, "less than the bound changes nothing"


def test_answers_without_a_distribution_are_pointed_out(tmp_path: Path) -> None:
    """Some servers give log-probabilities after temperature 0."""
    with other_server.running(good(predict=lambda ids: {max(make_canary.predict(ids).items(), key=lambda item: item[1])[0]: 0.0})) as url:
        (found,) = checks(tmp_path, url, 1)
    assert found.one_sided
    assert found.alarm


# --- servers of other manners


@pytest.mark.parametrize(
    ("changes", "way"),
    [
        ({}, "prompts as token ids, tokens by id"),
        ({"refuses_unknown": True}, "prompts as token ids, tokens by text"),
        ({"refuses_unknown": True, "shape": "llama.cpp"}, "prompts as token ids, tokens by text"),
        ({"tells_ids": False}, "prompts as token ids, tokens by text"),
        ({"takes_ids": False}, "prompts as text, tokens by text"),
        ({"takes_ids": False, "most": 5}, "prompts as text, tokens by text, at most 5 log-probabilities"),
        ({"digits": 3}, "prompts as token ids, tokens by id"),
    ],
)
def test_every_manner_of_a_good_server_is_without_alarm_and_of_a_broken_one_with(
    changes: dict[str, object], way: str, tmp_path: Path
) -> None:
    manners = good(**changes)
    with other_server.running(manners) as url:
        before = checks(tmp_path, url, 2)
        manners.predict = partial(make_canary.predict, scale=1.1)
        after = checks(tmp_path, url, 2)[-1]
    assert {check.way for check in before} == {way}
    assert not any(check.alarm for check in before)
    assert all((value or 0) < 1e-7 for check in before for value in means(check).values())
    assert "unchanged" in alarms(after)


def test_tokens_that_are_written_alike_are_left_out(tmp_path: Path) -> None:
    """A server that tells texts merges two of the tokens: of 60 equal tokens, what it says of "same " is of one of them."""
    even = dict.fromkeys(range(make_canary.VOCABULARY), float(np.log(1 / 60)))
    prompts = tuple(prompt.model_copy(update={"plan": make_canary.predicted(even)}) for prompt in RECORD.prompts)
    listed = {token: even[token] for token in (57, 58, 59, *range(17))}
    with other_server.running(good(refuses_unknown=True, predict=lambda ids: listed)) as url:
        (found,) = checks(tmp_path, url, 1, record=RECORD.model_copy(update={"prompts": prompts}))
    assert means(found)["plan"] == pytest.approx(0, abs=1e-12)


# --- what says nothing about the model


def reply(status: int, body: bytes = b"{}", **headers: str) -> tuple[int, dict[str, str], bytes]:
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, body


NULL = json.dumps({"choices": [{"logprobs": {"top_logprobs": [{"a": None}]}}]}).encode()
NAN = b'{"choices": [{"logprobs": {"top_logprobs": [{"a": NaN}]}}]}'


@pytest.mark.parametrize(
    "trouble",
    [
        reply(429, b'{"error": {"message": "full"}}', Retry_After="1"),
        reply(500, b"<html>"),
        reply(503),
        reply(200, b'{"choices": [{"log'),
        reply(200, b"[]"),
        reply(200, b'{"choices": []}'),
        reply(200, NULL),
        reply(200, NAN),
        reply(200, b"\xff\xfe"),
        0.4,
    ],
    ids=["429", "500", "503", "cut off", "list", "no choice", "null", "NaN", "no UTF-8", "late"],
)
def test_trouble_now_and_then_is_tried_again_counted_and_never_an_alarm(
    trouble: tuple[int, dict[str, str], bytes] | float, tmp_path: Path
) -> None:
    manners = good(trouble=lambda number: trouble if number % 7 == 3 else None)
    with other_server.running(manners) as url:
        found = checks(tmp_path, url, 2, timeout_s=0.25)
        with opened(tmp_path / "monitor.sqlite", alone=False) as state:
            seen = overview(state)
    assert [check.answered for check in found] == [40, 10]
    assert not any(check.alarm for check in found)
    assert seen.retries == sum(check.retries for check in found) >= 7
    assert len(manners.asked) == 50 + seen.retries


def test_prompts_that_stay_unanswered_are_counted_by_reason(tmp_path: Path) -> None:
    bad = list(RECORD.prompts[7].prompt_ids)
    manners = good(trouble=lambda number: reply(500) if manners.asked[-1]["prompt"] == bad else None)
    with other_server.running(manners) as url:
        found = checks(tmp_path, url, 3, prompts=20)
        with opened(tmp_path / "monitor.sqlite", alone=False) as state:
            seen = overview(state)
    assert [(check.answered, check.unanswered) for check in found] == [(38, {"server error": 2}), *[(19, {"server error": 1})] * 2]
    assert seen.prompts == {"answered": 76, "server error": 4}
    assert not seen.alarms


def test_a_server_that_is_not_there_is_an_error_and_leaves_no_check(tmp_path: Path) -> None:
    with other_server.running(good()) as url:
        pass
    with pytest.raises(ServerError, match="unreachable"):
        checks(tmp_path, url, 1)
    with opened(tmp_path / "monitor.sqlite") as state:
        seen = overview(state)
    assert (seen.checks, seen.outages, seen.alarms) == ((), 1, ())


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"key": "secret"}, "BITZONES_API_KEY"),
        ({"gives_logprobs": False}, "no logprobs"),
        ({"most": 2}, "refuses to complete.*at most 2"),
    ],
)
def test_a_server_that_cannot_be_watched_is_refused_in_a_line(changes: dict[str, object], error: str, tmp_path: Path) -> None:
    with other_server.running(good(**changes)) as url, pytest.raises(ArgumentError, match=error) as caught:
        checks(tmp_path, url, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "", "http://[::1"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ArgumentError):
        Completions(url)


# --- restarts


def test_an_outage_in_a_check_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """The server goes away after 15 of 40 answers: the next call asks the other 25, and the result is that of an undisturbed check."""
    manners = good()
    with other_server.running(manners) as url:
        manners.trouble = lambda number: reply(503) if number >= 15 else None
        with pytest.raises(ServerError, match="busy"):
            checks(tmp_path, url, 1)
        tried = len(manners.asked) - 15
        manners.trouble = lambda number: None
        (resumed,) = checks(tmp_path, url, 1)
        asked = [tuple(body["prompt"]) for body in manners.asked]
        (undisturbed,) = checks(tmp_path / "other", url, 1)
    assert tried == OUTAGE * 4
    assert asked[:15] + asked[15 + tried :] == 2 * [prompt.prompt_ids for prompt in RECORD.prompts]
    assert resumed.model_dump(exclude={"at"}) == undisturbed.model_dump(exclude={"at"})


def test_evidence_goes_on_after_a_restart(tmp_path: Path) -> None:
    manners = good()
    with other_server.running(manners) as url:
        together = checks(tmp_path / "one", url, 4)
        for _ in range(4):
            apart = checks(tmp_path / "six", url, 1)
    assert [test.evidence for test in apart[0].tests] == [test.evidence for test in together[-1].tests]


def seen(path: Path) -> Overview:
    with opened(path / "monitor.sqlite", alone=False) as state:
        return overview(state)


def test_a_state_is_of_one_record_and_one_server(tmp_path: Path) -> None:
    with other_server.running(good()) as url:
        checks(tmp_path, url, 1)
        with pytest.raises(ArgumentError, match="another canary"):
            checks(tmp_path, url, 1, record=make_canary.record(10))
        with pytest.raises(ArgumentError, match="the server was"):
            checks(tmp_path, url.replace("127.0.0.1", "localhost"), 1)
    assert len(seen(tmp_path).checks) == 1


def test_two_processes_do_not_work_on_one_state(tmp_path: Path) -> None:
    with opened(tmp_path / "state") as state, pytest.raises(OutputError, match="another bitzones"), opened(tmp_path / "state"):
        assert isinstance(state, State)
    with opened(tmp_path / "state"):
        pass


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be taken for one" * 20, b"\x00" * 4096])
def test_what_is_no_state_is_refused_and_left_as_it_is(content: bytes, tmp_path: Path) -> None:
    place = tmp_path / "state"
    place.write_bytes(content)
    with pytest.raises(BitzonesError), opened(place):
        pass
    assert place.read_bytes() == content


def test_a_state_of_another_version_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "state"):
        pass
    with sqlite3.connect(tmp_path / "state") as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(OutputError, match="version 9"), opened(tmp_path / "state"):
        pass
