"""The line before the model: one request at a time in a thread of its own, a bounded number that waits, the rest refused at once."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

from bitzones.schema.errors import BitzonesError
from bitzones.serve.answering import Event
from bitzones.serve.http.api_errors import ApiError

__all__ = ["Job", "Line"]

LONGEST_RETRY_S = 60
"""Most seconds that a client is told to wait before it tries again."""


class Job:
    """One request in line: its events, and how to end it."""

    def __init__(self, deadline: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline = deadline
        self._events: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()
        self._cancelled = threading.Event()
        self.task: asyncio.Task[None] | None = None
        self.begun = False
        self.whole = False

    def cancel(self) -> None:
        """End it: at once while it waits, before the next token where the model is at work."""
        self._cancelled.set()
        if not self.begun and self.task is not None:
            self.task.cancel()

    def is_cancelled(self) -> bool:
        """Whether nobody waits for the answer; asked from the model's thread."""
        return self._cancelled.is_set()

    def put(self, event: Event | BaseException | None) -> None:
        """Hand an event to the event loop, from any thread; None is the end."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the loop is closed: the server has stopped, and nobody waits
            self._cancelled.set()

    async def events(self) -> AsyncIterator[Event]:
        """Every event, as it comes.

        Raises:
            ApiError: the answer was not whole in time, or the model failed.
        """
        while (event := await self._next()) is not None:
            yield event

    async def _next(self) -> Event | None:
        try:
            async with asyncio.timeout_at(self._deadline):
                event = await self._events.get()
        except TimeoutError:
            where = "while it was answered: ask for fewer tokens" if self.begun else "in line: try again later"
            raise ApiError(504, f"the time for one request ran out {where}", code="timeout") from None
        if isinstance(event, BitzonesError):
            raise ApiError(500, str(event), code="model_error") from event
        if isinstance(event, BaseException):
            raise event
        self.whole = event is None
        return event


class Line:
    """Requests in the order in which they came, and the one thread that runs the model."""

    def __init__(self, waiting: int) -> None:
        self._most = 1 + waiting
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bitzones-model")
        self._last_s = 1.0
        self._jobs: set[Job] = set()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return sum(not job.begun for job in self._jobs)

    def require_room(self) -> None:
        """Refuse a request that there is no room for; a place is free when the model is done with the one before it.

        Raises:
            ApiError: the line is full; retry after about the time that the last request took.
        """
        if len(self._jobs) >= self._most:
            retry_s = min(max(1, math.ceil(self._last_s)), LONGEST_RETRY_S)
            raise ApiError(429, f"{self.waiting} requests wait for the model already", code="queue_full", retry_after_s=retry_s)

    def join(self, work: Callable[[Job], None], deadline: float) -> Job:
        """Put work in line.

        Args:
            work: runs in the model's thread, and gives its events to the job.
            deadline: when it has to be done, in the event loop's time.

        Raises:
            ApiError: the line is full.
        """
        self.require_room()
        job = Job(deadline)
        self._jobs.add(job)
        job.task = asyncio.create_task(self._take_turn(job, work))
        job.task.add_done_callback(lambda _: self._jobs.discard(job))
        return job

    async def _take_turn(self, job: Job, work: Callable[[Job], None]) -> None:
        async with self._turn:
            if job.is_cancelled():
                return
            job.begun, start = True, time.perf_counter()
            await asyncio.get_running_loop().run_in_executor(self._thread, self._run, job, work)
            self._last_s = time.perf_counter() - start

    @staticmethod
    def _run(job: Job, work: Callable[[Job], None]) -> None:
        try:
            work(job)
            job.put(None)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the client gets an answer, and the log its place
            job.put(error)

    def close(self) -> None:
        """Let the model's thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)
