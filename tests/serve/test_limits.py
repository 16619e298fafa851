"""What the server does when it is asked for too much, too slowly, by nobody any more, or told to stop."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from scripts import serve_hostile, serve_overload
from scripts.raw_http import Answer, ask, post
from tiny_served import OTHER, tiny, two_plans

from bitzones.serve.http import Limits, running
from bitzones.serve.http.asking import Asking

BODY = {"prompt": "Tom has", "max_tokens": 3, "temperature": 0}
PATIENCE_S = 30.0
"""Longest wait for what takes milliseconds on an idle machine."""


class Gate:
    """Holds the model before each pass while it is closed."""

    def __init__(self) -> None:
        self.passes = 0
        self._open = threading.Event()
        self._open.set()

    def hook(self, *_: Any) -> None:
        self.passes += 1
        assert self._open.wait(PATIENCE_S)

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    handle = tiny().model.register_forward_pre_hook(gate.hook)
    yield gate
    gate.open()
    handle.remove()


@contextmanager
def serving(**limits: Any) -> Iterator[httpx.Client]:
    with running(tiny(), limits=Limits(**limits)) as url, httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        yield client


def metric(client: httpx.Client, name: str) -> float:
    return next(float(line.rsplit(" ", 1)[1]) for line in client.get("/metrics").text.splitlines() if line.startswith(f"{name} "))


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def ask_in(pool: ThreadPoolExecutor, client: httpx.Client, **keys: Any) -> Future[httpx.Response]:
    return pool.submit(client.post, "/v1/completions", json=BODY | keys)


def place(client: httpx.Client) -> tuple[str, int]:
    url = urlsplit(str(client.base_url))
    assert url.hostname is not None
    assert url.port is not None
    return url.hostname, url.port


def raw(client: httpx.Client, request: bytes) -> Answer:
    return asyncio.run(ask(*place(client), request, PATIENCE_S))


def test_the_guide_has_the_limits_as_they_are() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    table = guide.partition("## Limits")[2].partition("One request more")[0]
    found = [float(number) for number in re.findall(r"^\| [^|]+ \| (\d+)", table, re.MULTILINE)]
    now = Limits()
    expected = [now.tokens, now.prompts, now.body_bytes, now.waiting, now.timeout_s, now.head_s, now.body_s, now.drain_s, now.connections]
    assert found == expected


def test_a_full_line_refuses_and_what_waits_is_answered(gate: Gate) -> None:
    with serving(waiting=2) as client, ThreadPoolExecutor(3) as pool:
        gate.close()
        first = ask_in(pool, client)
        until(lambda: gate.passes > 0)
        waiting = [ask_in(pool, client, stream=stream) for stream in (False, True)]
        until(lambda: metric(client, "bitzones_waiting_requests") == 2)
        refused = client.post("/v1/completions", json=BODY)
        gate.open()
        assert [future.result().status_code for future in (first, *waiting)] == [200, 200, 200]
        assert client.post("/v1/completions", json=BODY).status_code == 200
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert 1 <= int(refused.headers["retry-after"]) <= 60


def test_more_requests_than_are_held_in_memory_are_refused_unread(gate: Gate) -> None:
    with serving(waiting=0, arriving=0) as client, ThreadPoolExecutor(1) as pool:
        gate.close()
        first = ask_in(pool, client)
        until(lambda: gate.passes > 0)
        assert client.post("/v1/completions", json=BODY).json()["error"]["code"] == "too_many_requests"
        assert client.get("/healthz").status_code == 200
        gate.open()
        assert first.result().status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_generation(gate: Gate, *, stream: bool) -> None:
    with serving() as client:
        gate.close()
        with socket.create_connection(place(client)) as connection:
            connection.sendall(post("/v1/completions", json.dumps(BODY | {"max_tokens": 400, "stream": stream}).encode()))
            until(lambda: gate.passes > 0)
        until(lambda: metric(client, "bitzones_cancelled_total") == 1)
        gate.open()
        assert client.post("/v1/completions", json=BODY | {"max_tokens": 1}).status_code == 200
        assert gate.passes <= 3  # its first token, one that may have begun, and the other request's


def test_a_client_that_leaves_in_the_middle_of_a_stream_ends_it(gate: Gate) -> None:
    with serving() as client:
        body = json.dumps(BODY | {"max_tokens": 400, "stream": True, "temperature": 1, "seed": 1}).encode()
        with socket.create_connection(place(client)) as connection:
            connection.sendall(post("/v1/completions", body))
            connection.recv(1)
            gate.close()
        until(lambda: metric(client, "bitzones_cancelled_total") == 1)
        before = gate.passes
        gate.open()
        assert client.post("/v1/completions", json=BODY | {"max_tokens": 1}).status_code == 200
        assert gate.passes - before <= 2


def test_a_client_that_leaves_the_line_frees_its_place(gate: Gate) -> None:
    with serving(waiting=1) as client, ThreadPoolExecutor(1) as pool:
        gate.close()
        first = ask_in(pool, client)
        until(lambda: gate.passes > 0)
        with socket.create_connection(place(client)) as connection:
            connection.sendall(post("/v1/completions", json.dumps(BODY).encode()))
            until(lambda: metric(client, "bitzones_waiting_requests") == 1)
        until(lambda: metric(client, "bitzones_waiting_requests") == 0)
        gate.open()
        assert first.result().status_code == 200


def test_a_request_has_its_time_in_line_too(gate: Gate) -> None:
    with serving(timeout_s=0.3) as client, ThreadPoolExecutor(2) as pool:
        gate.close()
        answers = [ask_in(pool, client).result, ask_in(pool, client, stream=True).result]
        errors = [answer().json()["error"] for answer in answers]
        gate.open()
    assert {error["code"] for error in errors} == {"timeout"}
    assert any("in line" in error["message"] for error in errors)
    assert any("fewer tokens" in error["message"] for error in errors)


def test_a_stream_out_of_time_ends_with_an_error(gate: Gate) -> None:
    with serving(timeout_s=3.0) as client:
        lines: list[str] = []
        with client.stream(
            "POST", "/v1/completions", json=BODY | {"stream": True, "max_tokens": 400, "temperature": 1, "seed": 1}
        ) as answer:
            for line in filter(None, answer.iter_lines()):
                lines.append(line)
                gate.close()
        gate.open()
    assert answer.status_code == 200
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "timeout"


def test_bodies_have_a_size_a_type_and_a_time() -> None:
    large = json.dumps(BODY | {"user": "x" * 3_000}).encode()
    whole = json.dumps(BODY).encode()
    with serving(body_bytes=2_000, body_s=0.2, head_s=0.3) as client:
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(large), large)
        sent = {
            "large": post("/v1/completions", large),
            "large chunks": post("/v1/completions", chunked, Content_Length="", Transfer_Encoding="chunked"),
            "said to be large": post("/v1/completions", b"", Content_Length="9" * 12),
            "text": post("/v1/completions", whole, Content_Type="text/plain"),
            "slow": post("/v1/completions", whole[:5], Content_Length=str(len(whole))),
            "slow head": b"POST /v1/compl",
            "good": post("/v1/completions", whole, Content_Type="Application/JSON; charset=utf-8"),
        }
        found = {name: raw(client, request).status for name, request in sent.items()}
    assert found == {"large": 413, "large chunks": 413, "said to be large": 413, "text": 415, "slow": 408, "slow head": 408, "good": 200}


def test_a_second_request_of_a_connection_has_no_more_time_for_its_head() -> None:
    with serving(head_s=0.3) as client, socket.create_connection(place(client)) as connection:
        connection.settimeout(PATIENCE_S)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 2 + b"GET /heal")
        answers = b"".join(iter(lambda: connection.recv(4_096), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"200", b"408"]


@pytest.mark.parametrize(
    ("header", "status"), [(None, 401), ("Bearer wrong", 401), ("Basic key-1", 401), ("Bearer key-\xe9", 401), ("bearer key-1", 200)]
)
def test_a_key_opens_everything_but_the_health(header: str | None, status: int) -> None:
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    with running(tiny(), api_key="key-1") as url, httpx.Client(base_url=url, headers=headers) as client:
        statuses = [client.get(path).status_code for path in ("/v1/models", "/v1/models/tiny", "/metrics")]
        answer = client.post("/v1/completions", json=BODY | {"max_tokens": 0})
        assert client.get("/healthz").status_code == 200
    assert {*statuses, answer.status_code} == {status}
    if status == 401:
        assert answer.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    ("host", "key", "status"),
    [
        ("localhost:8000", None, 200),
        ("127.0.0.1", None, 200),
        ("[::1]:80", None, 200),
        ("evil.example", None, 403),
        ("localhost.evil.example", None, 403),
        ("evil.example", "key-1", 200),
    ],
)
def test_a_page_under_another_name_does_not_reach_a_local_server(host: str, key: str | None, status: int) -> None:
    with running(tiny(), api_key=key) as url:
        assert httpx.get(f"{url}/v1/models", headers={"host": host, "authorization": "Bearer key-1"}).status_code == status


def test_the_log_says_what_happened_and_never_what_was_said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Asking, request: Any) -> Any:
        raise KeyError(request.prompt)

    with caplog.at_level(logging.DEBUG), serving() as client:
        client.post("/v1/completions", json=BODY | {"prompt": "SECRET"})
        client.post("/v1/completions", json=BODY | {"SECRET": "SECRET", "prompt": ["SECRET"]})
        raw(client, b"GET /SECRET?SECRET HTTP/1.1\r\nHost: SECRET\r\n\r\n")
        raw(client, b"SECRET SECRET\r\n\r\n")
        monkeypatch.setattr(Asking, "completion", broken)
        failed = client.post("/v1/completions", json=BODY | {"prompt": "SECRET"})
    ours = [record.getMessage() for record in caplog.records if record.name.startswith(("bitzones", "uvicorn"))]
    assert (failed.status_code, failed.json()["error"]["code"]) == (500, "internal")
    assert any(line.startswith("POST /v1/completions 200 ") for line in ours)
    assert any("KeyError at" in line and "test_limits.py" in line for line in ours)
    assert not any("SECRET" in text for text in (*ours, failed.text))
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize(("drain_s", "status"), [(30.0, 200), (1.0, 503)])
def test_what_is_in_flight_has_its_time_before_the_server_stops(gate: Gate, drain_s: float, status: int) -> None:
    with httpx.Client(timeout=PATIENCE_S) as client, ThreadPoolExecutor(2) as pool:
        with running(tiny(), limits=Limits(drain_s=drain_s)) as url:
            client.base_url = httpx.URL(url)
            gate.close()
            futures = [ask_in(pool, client), ask_in(pool, client)]
            until(lambda: metric(client, "bitzones_waiting_requests") == 1)
            if status == 200:
                threading.Timer(0.3, gate.open).start()
        gate.open()
        answers = [future.result() for future in futures]
    assert [answer.status_code for answer in answers] == [status, status]
    assert {answer.json().get("error", {}).get("code") for answer in answers} == {None if status == 200 else "stopping"}


def test_requests_for_two_plans_at_once_get_their_own_plans_answers() -> None:
    with running(two_plans()) as url, httpx.Client(base_url=url, timeout=PATIENCE_S) as client, ThreadPoolExecutor(8) as pool:

        def text(task: str) -> str:
            answer = client.post(
                "/v1/completions", json=BODY | {"task": task, "prompt": "Tom has 3 apples. He buys", "max_tokens": 8}
            ).json()
            assert answer["model"] == f"pair:{task}"
            return str(answer["choices"][0]["text"])

        alone = {task: text(task) for task in ("base", OTHER)}
        asked = ["base", OTHER] * 4
        assert list(pool.map(text, asked)) == [alone[task] for task in asked]
    assert alone["base"] != alone[OTHER]


def test_an_overload_loses_and_mixes_up_nothing() -> None:
    """`scripts/serve_overload.py`, short: 36 requests at once for a line of 6."""
    asked = serve_overload.cases(8)
    with serving(waiting=6) as client:
        seen, number = asyncio.run(serve_overload.flood(*place(client), asked, rate=200.0, seconds=0.18))
    assert (number, seen.counts["200"] + seen.counts["429"]) == (36, 36), seen
    assert seen.counts["200"] >= 7
    assert seen.counts["429"] > 0


def test_hostile_requests_are_refused() -> None:
    """`scripts/serve_hostile.py`, short."""
    with serving(head_s=1.0, body_s=1.0) as client:
        outcome = asyncio.run(serve_hostile.attack(*place(client), number=160, seed=3))
        assert client.post("/v1/completions", json=BODY).status_code == 200
    assert outcome.wrong == []
    assert sum(outcome.statuses.values()) == 160
