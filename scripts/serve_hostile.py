"""Requests that are wrong in every way, against a real server: each is refused with 4xx in the API's JSON, and the log shows no traceback.

    python -m scripts.serve_hostile            # 10,000 requests to `bitzones serve embedded:tiny` in a process of its own; four minutes
    python -m scripts.serve_hostile -n 500 --seed 7

The exit code is 1 if one request was not. Slow requests (a head or a body that never ends) take the server's ten seconds each and are sent
beside the others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from scripts.raw_http import Answer, ask, post
from scripts.served_process import ServedProcess

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
AT_ONCE = 24
"""Requests at a time, below what the server takes in at once: 429 would hide what it says to the request."""
SLOW_SHARE = 0.01
LIMIT_S = 60.0
"""Longest wait for an answer; the slow ones take the server's ten seconds."""


def valid(path: str) -> dict[str, Any]:
    """A request that would be answered."""
    asked: dict[str, Any] = {"max_tokens": 1, "temperature": 0}
    return asked | ({"prompt": "Tom has"} if path == COMPLETIONS else {"messages": [{"role": "user", "content": "Tom has"}]})


def body_of(keys: dict[str, Any], path: str = COMPLETIONS) -> bytes:
    return json.dumps(valid(path) | keys).encode()


def any_path(random: Random) -> str:
    return random.choice([COMPLETIONS, CHAT])


def broken_json(random: Random) -> bytes:
    path = any_path(random)
    whole = body_of({}, path)
    return post(path, whole[: random.randrange(len(whole))] if random.random() < 0.5 else whole + random.choice([b"}", b",", b"x", b"[]"]))


def bad_utf8(random: Random) -> bytes:
    wrong = random.choice([b"\xff", b"\xc3(", b"\xe2\x82", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xc0\xaf"])
    return post(COMPLETIONS, b'{"max_tokens": 1, "prompt": "a' + wrong + b'"}')


def lone_surrogate(random: Random) -> bytes:
    return post(COMPLETIONS, b'{"max_tokens": 1, "prompt": "\\u%04x"}' % random.randrange(0xD800, 0xE000))


def control_characters(random: Random) -> bytes:
    return post(COMPLETIONS, b'{"max_tokens": 1, "prompt": "a' + bytes([random.randrange(0x20)]) + b'"}')


def wrong_types(random: Random) -> bytes:
    path = any_path(random)
    kinds: list[tuple[str, list[Any]]] = [
        ("max_tokens", ["1", 1.5, True, [1], {}, 10**400]),
        ("temperature", ["0", [], {}, True]),
        ("top_p", ["1", [0.5], True]),
        ("seed", ["1", 0.5, True, 2**64]),
        ("stop", [1, [1], {}, [["a"]], ""]),
        ("stream", ["yes", 1, []]),
        ("model", [1, [], {}, "a" * 1000]),
        ("task", [1, ["base"]]),
        ("user", [1]),
        ("return_tokens_as_token_ids", ["true", None]),
    ]
    own: tuple[str, list[Any]] = ("prompt", [1, True, None, {}, [True], [1, "a"], [[1], "a"], [[1.5]], [None], [[[1]]]])
    said = (
        "messages",
        [1, "hi", {}, [1], [{}], [{"role": "user"}], [{"role": 1, "content": "x"}], [{"role": "user", "content": {}}], None],
    )
    key, values = random.choice([*kinds, own if path == COMPLETIONS else said])
    return post(path, body_of({key: random.choice(values)}, path))


def out_of_range(random: Random) -> bytes:
    path = any_path(random)
    below = -random.choice([1, 2, 2**31, 2**63])
    keys: list[dict[str, Any]] = [
        {"max_tokens": below},
        {"max_tokens": 2**31 - 1},
        {"max_tokens": 10**18},
        {"temperature": below},
        {"temperature": 1e300},
        {"top_p": 1.0001},
        {"top_p": below},
        {"n": random.choice([0, 2, -1])},
        {"presence_penalty": 0.1},
        {"logit_bias": {"1": 100}},
        {"stop": ["a"] * 5},
        {"stop": "a" * 257},
        {"logprobs": random.choice([21, below])} if path == COMPLETIONS else {"top_logprobs": random.choice([21, below])},
        {"prompt": [below]} if path == COMPLETIONS else {"messages": []},
        {"prompt": [random.choice([768, 2**31, 2**70])]} if path == COMPLETIONS else {"messages": [{"role": "king", "content": ""}]},
    ]
    return post(path, body_of(random.choice(keys), path))


def no_number(random: Random) -> bytes:
    value = random.choice(["NaN", "Infinity", "-Infinity", "1e999", "01", "+1", ".5", "0x10"])
    key = random.choice(["temperature", "top_p", "max_tokens", "seed", "logprobs"])
    return post(COMPLETIONS, f'{{"prompt": "a", "{key}": {value}}}'.encode())


def deep(random: Random) -> bytes:
    depth = random.choice([250, 1_000, 10_000, 100_000])
    opened, closed = random.choice([(b"[", b"]"), (b'{"a":', b"}")])
    inside = opened * depth + (b"1" + closed * depth if random.random() < 0.5 else b"")
    return post(COMPLETIONS, b'{"prompt": ' + inside + b"}")


def huge(random: Random) -> bytes:
    choice = random.randrange(4)
    if choice == 0:  # more bytes than are read
        return post(COMPLETIONS, b'{"prompt": "' + b"a" * random.choice([1 << 20, 2_000_000, 5_000_000]) + b'"}')
    if choice == 1:  # more tokens than fit
        return post(COMPLETIONS, body_of({"prompt": "apples " * random.randrange(2_000, 20_000)}))
    if choice == 2:
        return post(COMPLETIONS, body_of({"prompt": [5] * random.randrange(600, 100_000)}))
    return post(COMPLETIONS, body_of({"prompt": ["a"] * random.randrange(65, 20_000)}))


def unknown_keys(random: Random) -> bytes:
    key = "".join(random.choice("abc\x00\x1b\u202e😀\n") for _ in range(random.randrange(1, 200))) + "!"
    return post(any_path(random), body_of({key: 1}, COMPLETIONS) if random.random() < 0.5 else body_of({key: {key: []}}, CHAT))


def other_media(random: Random) -> bytes:
    path = any_path(random)
    headers = random.choice(
        [{"Content_Type": "text/plain"}, {"Content_Type": ""}, {"Content_Type": "application/xml"}, {"Content_Encoding": "gzip"}]
    )
    return post(path, body_of({}, path), **headers)


def other_paths(random: Random) -> bytes:
    path = random.choice(
        [
            "/",
            "/v1",
            "/v1/completions/../../etc/passwd",
            "/%00",
            "/%ff%fe",
            "/v1/Completions",
            "/a" * 2_000,
            "//",
            "/v1/completions%20",
            "/v1/completions/",
            "/healthz/",
        ]
    )
    method = random.choice(["GET", "POST", "PUT", "DELETE", "TRACE", "OPTIONS", "QUERY"])
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


def other_methods(random: Random) -> bytes:
    method = random.choice(["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
    return f"{method} {any_path(random)} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


def no_http(random: Random) -> bytes:
    return random.choice(
        [
            bytes(random.randrange(256) for _ in range(200)) + b"\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100 + b"\r\n\r\n",  # what a TLS client says first
            b"GET /\r\n\r\n",
            b"POST /v1/completions HTTP/9.9.9\r\n\r\n",
            b"POST /v1/completions HTTP/1.1\r\n\r\n",  # no Host
            b"POST /v1/comp\x00letions HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST /é HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
            b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nX\x00Y: a\r\n\r\n",
            b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
            b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
            b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        ]
    )


def wrong_length(random: Random) -> bytes:
    body = body_of({})
    length = random.choice(["-1", "abc", "1e3", "0x10", "1, 2", " ", "9" * 30, str(len(body) - random.randrange(1, len(body)))])
    return post(COMPLETIONS, body, Content_Length=length)


def bad_chunks(random: Random) -> bytes:
    chunks = random.choice([b"zz\r\nabc\r\n", b"-5\r\nabc\r\n", b"3\r\nabcdef\r\n0\r\n\r\n", b"ffffffffffffffffffffffff\r\n", b"\r\n\r\n"])
    return post(COMPLETIONS, chunks, Content_Length="", Transfer_Encoding="chunked")


def slow_head(random: Random) -> bytes:
    return post(COMPLETIONS, b"")[: random.randrange(1, 60)]


def slow_body(random: Random) -> bytes:
    body = body_of({})
    return post(COMPLETIONS, body[: random.randrange(len(body))], Content_Length=str(len(body)), Expect=random.choice(["", "100-continue"]))


FAST: tuple[Callable[[Random], bytes], ...] = (
    broken_json, bad_utf8, lone_surrogate, control_characters, wrong_types, out_of_range, no_number, deep, huge, unknown_keys, other_media,
    other_paths, other_methods, no_http, wrong_length, bad_chunks,
)  # fmt: skip
SLOW: tuple[Callable[[Random], bytes], ...] = (slow_head, slow_body)


@dataclass(frozen=True)
class Wrong:
    """A request that was not refused as it should be."""

    kind: str
    request: bytes
    answer: Answer | None


@dataclass
class Outcome:
    """What the server said, by kind and status, and what it should not have said."""

    statuses: Counter[tuple[str, int]]
    wrong: list[Wrong]


def refused(answer: Answer) -> bool:
    """Whether an answer is 4xx in OpenAI's shape and names nothing of the server's inside."""
    error = answer.json.get("error") if isinstance(answer.json, dict) else None
    shaped = isinstance(error, dict) and set(error) == {"message", "type", "param", "code"} and bool(error["message"])
    return 400 <= answer.status < 500 and shaped and b"Traceback" not in answer.body and b".py" not in answer.body


async def attack(host: str, port: int, number: int, seed: int) -> Outcome:
    """Send as many requests, the slow ones beside the others."""
    random = Random(seed)
    slow = max(len(SLOW), round(number * SLOW_SHARE))
    outcome, gate = Outcome(Counter(), []), asyncio.Semaphore(AT_ONCE)

    async def one(kind: Callable[[Random], bytes], request: bytes, *, wait: bool) -> None:
        try:
            if wait:
                async with gate:
                    answer = await ask(host, port, request, LIMIT_S)
            else:
                answer = await ask(host, port, request, LIMIT_S)
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            outcome.wrong.append(Wrong(kind.__name__, request, None))
            return
        outcome.statuses[kind.__name__, answer.status] += 1
        if not refused(answer):
            outcome.wrong.append(Wrong(kind.__name__, request, answer))

    tasks = [one(kind, kind(random), wait=False) for kind in (SLOW[place % len(SLOW)] for place in range(slow))]
    tasks += [one(kind, kind(random), wait=True) for kind in (FAST[place % len(FAST)] for place in range(number - slow))]
    await asyncio.gather(*tasks)
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--number", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with ServedProcess("embedded:tiny") as server:
        start = time.perf_counter()
        outcome = asyncio.run(attack(server.host, server.port, given.number, given.seed))
        took_s = time.perf_counter() - start
        alive = asyncio.run(ask(server.host, server.port, post(COMPLETIONS, body_of({})), LIMIT_S)).status == 200
        log = server.stop()
    for (kind, status), count in sorted(outcome.statuses.items()):
        print(f"{kind:<20} {status} {count:>6}")
    for wrong in outcome.wrong[:10]:
        print(f"not refused: {wrong.kind}: {wrong.request[:200]!r} -> {wrong.answer}")
    traceback = "Traceback" in log or "Error at" in log
    print(
        f"{given.number:,} requests in {took_s:.0f} s: {given.number - len(outcome.wrong):,} refused with 4xx in the API's JSON, "
        f"{len(outcome.wrong)} not; traceback or internal error in the log: {'yes' if traceback else 'no'}; "
        f"answers afterwards: {'yes' if alive else 'no'}"
    )
    return int(bool(outcome.wrong) or traceback or not alive)


if __name__ == "__main__":
    sys.exit(main())
