"""Any other OpenAI-compatible server, on loopback: real HTTP around a model that is given as a function, in several servers' manners.

It stands in for vLLM and llama.cpp's server where those cannot be installed: prompts as ids or text, tokens by id or by text, lists of
different lengths, answers that are late, broken or refused, and a model that changes while it serves.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Predict = Callable[[tuple[int, ...]], Mapping[int, float]]
"""Prompt -> log-probability of each next token."""


@dataclass
class Manners:
    """How the server behaves; may be changed while it serves. ``trouble`` is asked at each completion, with its number from 0: None to
    answer, else a status, headers and a body to send in its place, or seconds to wait first."""

    predict: Predict
    encode: Callable[[str], tuple[int, ...]]
    name: Callable[[int], str]
    takes_ids: bool = True
    tells_ids: bool = True
    refuses_unknown: bool = False
    most: int = 20
    shape: str = "openai"
    key: str | None = None
    gives_logprobs: bool = True
    digits: int = 17
    trouble: Callable[[int], tuple[int, dict[str, str], bytes] | float | None] = lambda number: None
    asked: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def running(manners: Manners) -> Iterator[str]:
    """The address of a server in a thread."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # what waits for an acknowledgement waits 40 ms

        def log_message(self, *_: Any) -> None:
            """Stay silent."""

        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": "other", "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            manners.asked.append(body)
            trouble = manners.trouble(len(manners.asked) - 1)
            if isinstance(trouble, float):
                time.sleep(trouble)
            if isinstance(trouble, tuple):
                self._send(trouble[0], trouble[2], trouble[1])
            else:
                self._send(*(_refusal(manners, body, self.headers.get("Authorization")) or (200, _answer(manners, body))))

        def _send(self, status: int, body: dict[str, Any] | bytes, headers: dict[str, str] | None = None) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(BrokenPipeError, ConnectionResetError):  # a client that does not wait
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _refusal(manners: Manners, body: dict[str, Any], key: str | None) -> tuple[int, dict[str, Any]] | None:
    """Status and body, in the words of several servers."""
    if manners.key is not None and key != f"Bearer {manners.key}":
        return 401, {"error": {"message": "no key"}}
    if manners.refuses_unknown and "return_tokens_as_token_ids" in body:
        return 400, {"error": {"message": "unknown parameter", "code": "unknown_parameter"}}
    if not manners.takes_ids and not isinstance(body["prompt"], str):
        return 422, {"detail": "prompt must be a string"}
    if body["logprobs"] > manners.most:
        return 400, {"error": {"message": f"logprobs: at most {manners.most}"}}
    return None


def _answer(manners: Manners, body: dict[str, Any]) -> dict[str, Any]:
    prompt = body["prompt"]
    ids = manners.encode(prompt) if isinstance(prompt, str) else tuple(prompt)
    listed = sorted(manners.predict(ids).items(), key=lambda item: -item[1])[: body["logprobs"]]
    by_id = manners.tells_ids and body.get("return_tokens_as_token_ids", False)
    named = [(f"token_id:{token}" if by_id else manners.name(token), round(value, manners.digits)) for token, value in listed]
    logprobs: dict[str, Any] | None
    if not manners.gives_logprobs:
        logprobs = None
    elif manners.shape == "llama.cpp":
        top = [{"id": token, "token": name, "logprob": value} for (token, _), (name, value) in zip(listed, named, strict=True)]
        logprobs = {"content": [{**top[0], "top_logprobs": top}]}
    else:
        logprobs = {"tokens": [named[0][0]], "token_logprobs": [named[0][1]], "top_logprobs": [dict(named)], "text_offset": [0]}
    return {"object": "text_completion", "model": "other", "choices": [{"index": 0, "text": named[0][0], "logprobs": logprobs}]}
