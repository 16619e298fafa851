"""The application: OpenAI's completions, chat and models for one model in memory, its health and its metrics."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from bitzones import __version__
from bitzones.serve.answering import Ask, Event, Finished, answer
from bitzones.serve.http import answers, api_errors, body
from bitzones.serve.http.access import Access
from bitzones.serve.http.answers import ChatForm, CompletionForm, Form, Names, Shape
from bitzones.serve.http.api_errors import ApiError
from bitzones.serve.http.asking import Asked, Asking
from bitzones.serve.http.line import Job, Line
from bitzones.serve.http.request_watch import Watch
from bitzones.serve.http.requests import ChatRequest, CompletionRequest, Generation
from bitzones.serve.http.server_metrics import Metrics
from bitzones.serve.limits import Limits
from bitzones.serve.served_model import ServedModel

__all__ = ["create_app"]

Result = TypeVar("Result")
Given = TypeVar("Given", bound=Generation)

DEFAULTS = Limits()


def create_app(served: ServedModel, *, api_key: str | None = None, local: bool = False, limits: Limits = DEFAULTS) -> FastAPI:
    """The ASGI application that serves a model, for a server of your own; `bitzones.serve.http.run` has one.

    Args:
        served: a model in memory; only this application may use it while it runs.
        api_key: what clients have to send as ``Authorization: Bearer``; None lets everyone in.
        local: without a key, answer only requests to a name of this machine; for a server that only it reaches.
        limits: sizes, lengths and waits.
    """
    service = _Service(served, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(title="bitzones serve", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan)
    app.include_router(_routes(service, Access(api_key, local=local)))
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_middleware(Watch, metrics=service.metrics, most=limits.in_flight)
    return app


def _routes(service: _Service, access: Access) -> APIRouter:
    router = APIRouter()
    locked = [Depends(access)]
    for path, endpoint, kind in (
        ("/v1/completions", service.completions, CompletionRequest),
        ("/v1/chat/completions", service.chat, ChatRequest),
    ):
        described = {"requestBody": {"required": True, "content": {"application/json": {"schema": kind.model_json_schema()}}}}
        router.add_api_route(path, endpoint, methods=["POST"], dependencies=locked, openapi_extra=described, response_model=None)
    router.add_api_route("/v1/models", service.models, methods=["GET"], dependencies=locked)
    router.add_api_route("/v1/models/{name:path}", service.model, methods=["GET"], dependencies=locked)
    router.add_api_route("/metrics", service.measured, methods=["GET"], dependencies=locked, response_model=None)
    router.add_api_route("/healthz", service.health, methods=["GET"])
    return router


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return api_errors.response(error)


async def _no_route(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: "there is no such path: try /v1/models", 405: "this path takes another method"}
    return api_errors.response(ApiError(error.status_code, said.get(error.status_code, "the request cannot be handled")))


class _Service:
    """The endpoints, and what they share."""

    def __init__(self, served: ServedModel, limits: Limits) -> None:
        self._served, self._limits = served, limits
        self._asking = Asking(served, limits)
        self._names = Names(served.tokenizer)
        self._line = Line(limits.waiting)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="bitzones-prompts")  # a long prompt does not hold the event loop
        self._since = int(time.time())
        self.metrics = Metrics(served, lambda: self._line.waiting)

    def close(self) -> None:
        """Let the threads end."""
        self._line.close()
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def completions(self, request: Request) -> Response:
        """Text after a prompt."""
        return await self._answered(request, CompletionRequest, self._asking.completion, CompletionForm)

    async def chat(self, request: Request) -> Response:
        """The next message of a chat."""
        return await self._answered(request, ChatRequest, self._asking.chat, ChatForm)

    async def models(self) -> dict[str, Any]:
        """The model, and one name for each of its plans."""
        name, tasks = self._served.name, self._served.tasks
        names = [name, *(f"{name}:{task}" for task in tasks if len(tasks) > 1)]
        return {"object": "list", "data": [self._described(each) for each in names]}

    async def model(self, name: str) -> dict[str, Any]:
        """One of the models."""
        listed: list[dict[str, Any]] = (await self.models())["data"]
        if (found := next((entry for entry in listed if entry["id"] == name), None)) is None:
            raise ApiError(404, "there is no such model: /v1/models lists what is served", "model", "model_not_found")
        return found

    def _described(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._since,
            "owned_by": "bitzones",
            "max_model_len": self._asking.room,
            "sha256": self._served.sha256,
        }

    async def health(self) -> dict[str, str]:
        """That the server answers."""
        return {"status": "ok"}

    async def measured(self) -> Response:
        """The metrics."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def _answered(
        self, request: Request, kind: type[Given], asking: Callable[[Given], Asked], form: Callable[[Form], Shape]
    ) -> Response:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.timeout_s
        self._line.require_room()  # before the body is read: under load this is what nearly all requests cost
        given = await body.read(request, kind, self._limits)
        asked = await loop.run_in_executor(self._reader, asking, given)
        self.metrics.routed.labels(asked.routed.task, asked.routed.by).inc()
        shape = form(Form(asked, self._names, self._served.sha256, given.return_tokens_as_token_ids, given.with_usage))
        job = self._line.join(partial(self._work, asked.ask, time.perf_counter()), deadline)
        return await (self._streamed if given.stream else self._whole)(request, shape, job, deadline)

    def _work(self, ask: Ask, joined: float, job: Job) -> None:
        """Answer; runs in the model's thread."""
        self.metrics.waited.observe(time.perf_counter() - joined)
        counted = self.metrics.tokens
        counted.labels(ask.task, "prompt").inc(sum(len(prompt.ids) for prompt in ask.prompts))

        def out(event: Event) -> None:
            if isinstance(event, Finished):
                counted.labels(ask.task, "new").inc(event.tokens)
            job.put(event)

        answer(self._served, ask, out, job.is_cancelled)

    async def _whole(self, request: Request, shape: Shape, job: Job, _: float) -> Response:
        try:
            return JSONResponse(await _while_connected(request, answers.whole(shape, job.events())))
        finally:
            self._end(job)

    async def _streamed(self, request: Request, shape: Shape, job: Job, deadline: float) -> Response:
        """The first event is awaited before the response begins, so that a refusal in line has its status."""
        chunks = answers.chunks(shape, job.events())
        try:
            first = await _while_connected(request, _next(chunks))
        except BaseException:
            self._end(job)
            raise
        return _Stream(_sse(first, chunks), deadline, lambda: self._end(job))

    def _end(self, job: Job) -> None:
        if not job.whole:
            self.metrics.cancelled.inc()
        job.cancel()


class _Stream(StreamingResponse):
    """Server-sent events until a deadline, also where the client reads too slowly; ``ended`` is called whatever happens."""

    def __init__(self, content: AsyncIterator[str], deadline: float, ended: Callable[[], None]) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._deadline, self._ended = deadline, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout_at(self._deadline + GRACE_S):
                await super().__call__(scope, receive, send)
        except TimeoutError as error:
            raise ClientDisconnect from error
        finally:
            self._ended()


GRACE_S = 1.0
"""After the deadline: time to send that it is over."""


async def _sse(first: dict[str, Any], chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    """Chunks as server-sent events; an error after the first is an event too, since the status is sent."""
    yield _event(first)
    try:
        async for chunk in chunks:
            yield _event(chunk)
    except ApiError as error:
        yield _event(api_errors.shape(error))
        return
    yield "data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(',', ':'))}\n\n"


async def _next(chunks: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    return await anext(chunks)


async def _while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of work that is worth nothing once the client has left.

    Raises:
        ClientDisconnect: it left.
    """
    working, leaving = asyncio.create_task(work), asyncio.create_task(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
