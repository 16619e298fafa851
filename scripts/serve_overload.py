"""Ten times as many requests as a real server can answer, for a minute: nothing is lost or mixed up, memory is bounded, the rest gets 429.

    python -m scripts.serve_overload               # about two minutes
    python -m scripts.serve_overload --seconds 10

Capacity is measured first, by one client that asks again as soon as it has its answer. Then requests arrive evenly at ten times that rate,
whether or not earlier ones were answered, every third as a stream. Each answer is compared, token by token,
with what transformers' ``generate`` writes after it in this process. The exit code is 1 if one answer was wrong or missing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from scripts.raw_http import Answer, ask, post
from scripts.served_process import ServedProcess

from bitzones.serve import load

PROMPTS = 120
"""Different prompts; arrivals take them in turn."""
NEW_TOKENS = 6
FACTOR = 10
CAPACITY_S = 5.0
LIMIT_S = 120.0
"""Longest wait for an answer: what is later is lost. The server's own limit."""
SAMPLED_S = 0.5
"""Between two readings of the server's memory."""


@dataclass(frozen=True)
class Case:
    """A prompt and the tokens that follow it."""

    prompt: tuple[int, ...]
    expected: tuple[str, ...]


@dataclass
class Seen:
    """What came back, by kind."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@torch.no_grad()
def cases(number: int, seed: int = 0) -> list[Case]:
    """Prompts of random tokens with what transformers writes after each; no two alike."""
    served, random = load("embedded:tiny"), Random(seed)
    found: dict[tuple[str, ...], Case] = {}
    while len(found) < number:
        prompt = tuple(random.randrange(1, 768) for _ in range(random.randrange(4, 24)))
        given = torch.tensor([prompt])
        written: Any = served.model.generate(  # type: ignore[operator]
            given, attention_mask=torch.ones_like(given), max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
        )
        expected = tuple(f"token_id:{token}" for token in written[0, len(prompt) :].tolist())
        found.setdefault(expected, Case(prompt, expected))
    return list(found.values())


def request(case: Case, *, stream: bool) -> bytes:
    body = {
        "prompt": list(case.prompt), "max_tokens": NEW_TOKENS, "temperature": 0, "logprobs": 0, "return_tokens_as_token_ids": True,
        "stream": stream,
    }  # fmt: skip
    return post("/v1/completions", json.dumps(body).encode())


def tokens(answer: Answer, *, stream: bool) -> tuple[str, ...]:
    """The tokens of an answer."""
    if not stream:
        return tuple(answer.json["choices"][0]["logprobs"]["tokens"])
    events = [line.removeprefix(b"data: ") for line in answer.body.splitlines() if line.startswith(b"data: ")]
    assert events.pop() == b"[DONE]"
    chunks = [json.loads(event)["choices"][0]["logprobs"] for event in events]
    return tuple(token for chunk in chunks if chunk for token in chunk["tokens"])


async def one(host: str, port: int, case: Case, seen: Seen, *, stream: bool) -> None:
    try:
        answer = await ask(host, port, request(case, stream=stream), LIMIT_S)
    except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
        seen.counts["lost"] += 1
        seen.wrong.append(type(error).__name__)
        return
    if answer.status == 429:
        seen.counts["429" if answer.headers.get("retry-after", "").isdigit() else "429 without Retry-After"] += 1
    elif answer.status == 200:
        same = tokens(answer, stream=stream) == case.expected
        seen.counts["200" if same else "mixed up"] += 1
    else:
        seen.counts[f"{answer.status}"] += 1


async def capacity(host: str, port: int, asked: Sequence[Case], seconds: float) -> float:
    """Answers per second to one client."""
    start, seen, count = time.perf_counter(), Seen(), 0
    while time.perf_counter() - start < seconds:
        await one(host, port, asked[count % len(asked)], seen, stream=False)
        count += 1
    assert seen.counts["200"] == count, seen
    return count / (time.perf_counter() - start)


async def flood(host: str, port: int, asked: Sequence[Case], rate: float, seconds: float) -> tuple[Seen, int]:
    """Requests at an even rate, and how many they were."""
    seen, tasks, start = Seen(), [], time.perf_counter()
    number = round(rate * seconds)
    for place in range(number):
        await asyncio.sleep(max(0.0, start + place / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(one(host, port, asked[place % len(asked)], seen, stream=place % 3 == 0)))
    await asyncio.gather(*tasks)
    return seen, number


async def watched(server: ServedProcess, readings: list[int]) -> None:
    """Read the server's memory until it is cancelled."""
    while True:
        readings.append(server.resident_bytes())
        await asyncio.sleep(SAMPLED_S)


async def measure(server: ServedProcess, seconds: float) -> tuple[float, Seen, int, list[int]]:
    asked = cases(PROMPTS)
    answered_per_s = await capacity(server.host, server.port, asked, CAPACITY_S)
    readings: list[int] = []
    watching = asyncio.create_task(watched(server, readings))
    seen, number = await flood(server.host, server.port, asked, FACTOR * answered_per_s, seconds)
    watching.cancel()
    return answered_per_s, seen, number, readings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    seconds: float = parser.parse_args().seconds
    with ServedProcess("embedded:tiny", "--quiet") as server:
        answered_per_s, seen, number, readings = asyncio.run(measure(server, seconds))
        alive = asyncio.run(ask(server.host, server.port, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", LIMIT_S)).status == 200
        log = server.stop()
    half = len(readings) // 2
    first, second = max(readings[:half]) / 1e6, max(readings[half:]) / 1e6
    good = seen.counts["200"] + seen.counts["429"]
    print(f"capacity {answered_per_s:.1f} answers/s; {number:,} requests at {FACTOR} times that in {seconds:g} s: {dict(seen.counts)}")
    print(
        f"memory of the server: {readings[0] / 1e6:.0f} MB before, at most {first:.0f} MB in the first half, {second:.0f} MB in the second"
    )
    print(f"lost, mixed up or wrong: {number - good}; answers afterwards: {'yes' if alive else 'no'}; log: {log.strip() or 'empty'}")
    return int(good != number or not alive)


if __name__ == "__main__":
    sys.exit(main())
