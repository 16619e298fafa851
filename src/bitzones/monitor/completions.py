"""Asks an OpenAI-compatible server for the next token's log-probabilities after a prompt, and reads what different servers answer.

Servers differ in what they take: our own and vLLM take token ids and name tokens by id where asked to; llama.cpp's take token ids and name
tokens by text; others take only text. Of `server_answers.WAYS` the first that a server does not refuse is kept.

A server that is busy, restarting or broken says nothing about the model: such answers are tried again, then counted as unanswered.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from typing import Any

import httpx

from bitzones.monitor.server_answers import WAYS, Answered, Unanswered, Way, no_answer
from bitzones.schema.errors import ArgumentError

__all__ = ["Completions"]

TRIES = 4
"""A prompt is asked at most this often: a restart of a server takes longer and is the next check's business."""

FIRST_PAUSE_S = 0.5
"""Before the second try; each later pause is twice as long."""

LONGEST_PAUSE_S = 10.0
"""A server that asks for more patience than this (Retry-After) is left alone until the next check."""

TOKEN_ID = "token_id:"  # noqa: S105  # vLLM's name of a token
REFUSED = frozenset({400, 404, 422})
"""Statuses by which servers refuse a parameter or the form of a prompt."""

PLACES = 300
"""Characters of a server's own words that an error shows."""


class Completions:
    """A server's ``/v1/completions``.

    Args:
        url: of the server, with or without ``/v1``.
        model: its name there; None for the first that the server lists, or the first of ``task``.
        task: the plan of a bundle that is asked for, since our own server would choose one by itself.
        key: sent as a bearer token.
        timeout_s: for one answer.
        way: how the server was asked before; found out where it is None.
        sleep: pauses between tries.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        key: str | None = None,
        timeout_s: float = 60.0,
        way: Way | None = None,
        sleep: Callable[[float], None] = time.sleep,
        task: str | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ArgumentError(f"--server {url!r}: give an address such as http://127.0.0.1:8000")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.way = way
        self._sleep = sleep
        try:
            secure = self.url.startswith("https://")  # reading all certificates takes longer than a check of a server without any
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            self._client = httpx.Client(timeout=timeout_s, headers=headers, verify=secure)
            httpx.URL(self.url)
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise ArgumentError(f"--server {url!r} or the key cannot be used: {error}") from error
        self._model = model
        self._task = task

    def __enter__(self) -> Completions:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def model(self) -> str:
        """The model's name on the server.

        Raises:
            ServerError: the server cannot be reached, or lists no model.
            ArgumentError: it refuses, as where a key is missing.
        """
        if self._model is None:
            try:
                found = self._tried(lambda: self._client.get(f"{self.url}/v1/models"), lambda data: _first_model(data, self._task))
            except _RefusedError as error:
                raise ArgumentError(f"{self.url}/v1/models answers {error}: no OpenAI-compatible server, or name its model") from error
            if isinstance(found, Unanswered):
                raise no_answer(self.url, found)
            self._model = found[0]
        return self._model

    def next_token(self, ids: tuple[int, ...], text: str, top: int) -> Answered | Unanswered:
        """The next token's ``top`` log-probabilities.

        Raises:
            ServerError: the first answer of a server is missing: nothing is known of how to ask it.
            ArgumentError: the server refuses every way of asking, or the key.
        """
        if self.way is not None:
            return self._ask(self.way, ids, text, top)
        refused = ""
        for way in WAYS:
            try:
                found = self._ask(way, ids, text, top)
            except _RefusedError as error:
                refused = refused or str(error)
                continue
            if isinstance(found, Unanswered):
                raise no_answer(self.url, found)
            by_id = any(isinstance(token, int) for token in found.logprobs)
            self.way = replace(way, by_id=way.by_id and by_id)  # some servers take the parameter and do not know it
            return found
        raise ArgumentError(f"{self.url} refuses to complete a prompt with log-probabilities: {refused}")

    def _ask(self, way: Way, ids: tuple[int, ...], text: str, top: int) -> Answered | Unanswered:
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": list(ids) if way.ids else text,
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": top if way.most is None else min(top, way.most),
        }
        if way.by_id:
            body["return_tokens_as_token_ids"] = True
        found = self._tried(lambda: self._client.post(f"{self.url}/v1/completions", json=body), _logprobs)
        if isinstance(found, Unanswered):
            return found
        (listed, model), tries = found
        return Answered({_by_id(token) if way.by_id else token: value for token, value in listed.items()}, model, tries)

    def _tried(self, send: Callable[[], httpx.Response], read: Callable[[Any], Any]) -> Any:
        """What ``read`` makes of an answer, with the number of tries; `Unanswered` after the last."""
        failed = Unanswered("unreachable", "never asked", 0)
        for tries in range(1, TRIES + 1):
            pause = FIRST_PAUSE_S * 2 ** (tries - 1)
            try:
                answer = send()
                if answer.status_code == httpx.codes.OK:
                    return read(answer.json()), tries
                failed, wanted = self._refusal(answer, tries)
                pause = max(pause, wanted)
            except httpx.TimeoutException as error:
                failed = Unanswered("timeout", str(error) or type(error).__name__, tries)
            except httpx.TransportError as error:
                failed = Unanswered("unreachable", str(error) or type(error).__name__, tries)
            except _NoLogprobsError as error:
                return Unanswered("no log-probabilities", str(error), tries)
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError, httpx.DecodingError) as error:
                failed = Unanswered("malformed", _shown(f"{type(error).__name__}: {error}"), tries)
            if tries == TRIES or pause > LONGEST_PAUSE_S:
                break
            self._sleep(pause)
        return failed

    def _refusal(self, answer: httpx.Response, tries: int) -> tuple[Unanswered, float]:
        """What a status other than 200 means, and how many seconds the server asks for."""
        status, words = answer.status_code, _words(answer)
        if status in {401, 403}:
            raise ArgumentError(f"{self.url} answers {status}: {words}; set BITZONES_API_KEY to the server's key")
        if status in REFUSED:
            raise _RefusedError(f"{status}: {words}")
        if status in {429, 503}:
            return Unanswered("busy", f"{status}: {words}", tries), _seconds(answer.headers.get("retry-after", ""))
        return Unanswered("server error", f"{status}: {words}", tries), 0.0


class _RefusedError(ArgumentError):
    """The server does not take the request as it is."""


class _NoLogprobsError(Exception):
    """The answer has no log-probabilities: asking again will not change that."""


def _first_model(data: Any, task: str | None) -> str:
    names = [str(item["id"]) for item in data["data"]]
    return next((name for name in names if task is not None and name.endswith(f":{task}")), names[0])


def _logprobs(data: Any) -> tuple[dict[str, float], str]:
    """Log-probabilities of the first new token, in the shape of OpenAI's completions or in that of llama.cpp's server."""
    found = data["choices"][0].get("logprobs")
    if not found:
        raise _NoLogprobsError("the answer has no logprobs: start the server so that it gives them")
    listed = dict(_pairs(found))
    if not listed:
        raise _NoLogprobsError("the answer's list of log-probabilities is empty")
    if not all(math.isfinite(value) for value in listed.values()):
        raise ValueError("a log-probability is NaN or infinite")
    return listed, str(data.get("model", ""))


def _pairs(found: Any) -> Iterator[tuple[str, float]]:
    if "content" in found:  # llama.cpp's server, and chat completions
        for item in found["content"][0]["top_logprobs"]:
            yield str(item["token"]), float(item["logprob"])
        return
    yield from ((str(token), float(value)) for token, value in found["top_logprobs"][0].items())


def _by_id(token: str) -> Hashable:
    name = token.removeprefix(TOKEN_ID)
    return int(name) if name != token and name.isdecimal() else token


def _words(answer: httpx.Response) -> str:
    """The server's own explanation."""
    try:
        data = answer.json()
        said = data["error"]["message"] if isinstance(data.get("error"), dict) else data.get("detail") or data.get("error") or data
    except (ValueError, KeyError, AttributeError):
        said = answer.text
    return _shown(said if isinstance(said, str) else json.dumps(said))


def _shown(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)[:PLACES]


def _seconds(text: str) -> float:
    return float(text) if text.isdecimal() else 0.0
