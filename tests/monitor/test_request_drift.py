"""Requests against the sensitivity set: the distances by hand, when they are drift, and a log that grows."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import make_canary
import numpy as np
import pytest

from bitzones.monitor import request_drift
from bitzones.monitor.records import DriftFeature, DriftWindow
from bitzones.monitor.request_log import LogPlace, Request, read_requests
from bitzones.schema.canary_record import TrafficRecord, TrafficSequence
from bitzones.schema.errors import ArgumentError

KNOWN = make_canary.record().traffic


def window(requests: list[Request], number: int = 1) -> dict[str, DriftFeature]:
    return {item.name: item for item in request_drift.window(number, requests, 0, KNOWN, "now").features}


def alike(count: int, seed: int = 0) -> list[Request]:
    """Requests that are drawn from the sensitivity set."""
    rows = np.random.default_rng(seed).choice(len(KNOWN.sequences), count)
    return [as_request(KNOWN.sequences[row]) for row in rows]


def as_request(known: TrafficSequence) -> Request:
    return Request(
        task=known.domain, characters=known.characters, tokens=known.tokens, nll_nats=known.nll_nats, entropy_nats=known.entropy_nats
    )


def test_distances_are_those_of_the_distribution_functions() -> None:
    """The set's characters are 80 to 149, each once: of requests that all have 114, 35 of 70 lie above."""
    found = window([Request(characters=114)] * 60)
    assert found.keys() == {"characters"}, "what the log lacks is not compared"
    assert found["characters"].distance == pytest.approx(35 / 70)
    assert (found["characters"].typical, found["characters"].expected) == (114, 114.5)
    assert found["characters"].drifted


def test_shares_of_tasks_by_hand() -> None:
    """30 of 60 requests are of svamp as in the set, the others of a task that the set does not have."""
    (found,) = window([Request(task=("svamp", "code")[n % 2]) for n in range(60)]).values()
    assert (found.name, found.distance, found.typical) == ("tasks", pytest.approx(0.5), None)
    assert found.drifted
    (same,) = window([Request(task=("svamp", "arc")[n % 2]) for n in range(60)]).values()
    assert (same.distance, same.p, same.drifted) == (0, pytest.approx(1), False)


def test_requests_as_in_the_sensitivity_set_are_no_drift_over_many_windows() -> None:
    windows = [request_drift.window(number, alike(200, number), 0, KNOWN, "now") for number in range(1, 21)]
    assert not any(found.alarm for found in windows)
    assert sum(found.alpha for found in windows) == pytest.approx(request_drift.ALPHA * 20 / 21), "the error is spent, never exceeded"


@pytest.mark.parametrize("name", ["characters", "tokens", "likelihood", "entropy"])
def test_a_property_that_moves_is_told_alone(name: str) -> None:
    field = {"likelihood": "nll_nats", "entropy": "entropy_nats"}.get(name, name)
    moved = [Request(**{**vars(request), field: 1.5 * (getattr(request, field) or 0) + 1}) for request in alike(300)]
    found = window(moved, number=20)
    assert {item.name for item in found.values() if item.drifted} == {name}


def test_a_difference_that_is_told_and_small_is_no_drift() -> None:
    known = TrafficRecord(sequences=tuple(one.model_copy(update={"characters": 1 + n}) for n, one in enumerate(KNOWN.sequences * 100)))
    requests = [Request(characters=1 + int(n * 0.95)) for n in range(len(known.sequences))]
    (found,) = request_drift.window(1, requests, 0, known, "now").features
    assert found.p_adjusted < 1e-6
    assert found.distance < request_drift.LEAST_DISTANCE
    assert not found.drifted


def test_tasks_that_are_rare_are_one_cell() -> None:
    seen = [Request(task=f"rare {n}") for n in range(3)] + [Request(task=("arc", "svamp")[n % 2]) for n in range(200)]
    (found,) = window(seen).values()
    assert found.p > 0.5
    assert not found.drifted


def test_a_window_alarms_by_any_of_its_properties() -> None:
    assert request_drift.window(1, [Request(characters=3)] * 60, 0, KNOWN, "now").alarm
    assert isinstance(request_drift.window(1, [], 0, KNOWN, "now"), DriftWindow)


# --- the log


def line(**values: object) -> bytes:
    return json.dumps(values).encode() + b"\n"


def test_a_log_is_read_on_from_where_it_was_left(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(
        line(prompt="äh", task="svamp", prompt_tokens=4, prompt_logprobs=[None, -1.0, -3.0], entropy_nats=1.5) + line(prompt="b") + b'{"pro'
    )
    first, malformed, place = read_requests(log, LogPlace())
    assert first == [Request("äh", "svamp", None, 2, 4, 2.0, 1.5), Request("b", characters=1)]
    assert malformed == 0
    with log.open("ab") as file:
        file.write(b'mpt": "c"}\n' + line(characters=9))
    second, _, place = read_requests(log, LogPlace.of(place.to_text()))
    assert [request.characters for request in second] == [1, 9]
    assert read_requests(log, place)[0] == []


def test_a_log_that_was_rotated_or_cut_off_is_read_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(line(prompt="a") * 3)
    _, _, place = read_requests(log, LogPlace())
    log.rename(tmp_path / "log.1")
    log.write_bytes(line(prompt="bb") * 5)
    found, _, place = read_requests(log, place)
    assert Counter(request.characters for request in found) == {2: 5}
    log.write_bytes(line(prompt="ccc"))
    assert [request.characters for request in read_requests(log, place)[0]] == [3]


@pytest.mark.parametrize(
    "bad",
    [b"no JSON", b"[1]", b'"text"', b"{}", b'{"prompt": 3}', b'{"task": ""}', b'{"characters": -1}', b'{"prompt_tokens": true}',
     b'{"prompt_logprobs": [NaN, null]}', b'{"entropy_nats": -1}', b"\xff\xff", b"[" * 100_000, b'{"prompt_logprobs": ["x"]}'],
)  # fmt: skip
def test_lines_that_are_no_requests_are_counted(bad: bytes, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(line(prompt="a") + bad + b"\n\n" + line(prompt="b"))
    found, malformed, _ = read_requests(tmp_path / "log", LogPlace())
    assert (len(found), malformed) == (2, 1)


def test_a_log_that_is_not_there_is_a_line(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="cannot be read"):
        read_requests(tmp_path / "none", LogPlace())
