"""Runs the application on uvicorn: in this process until a signal, or in a thread for notebooks and tests."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from bitzones.schema.errors import ArgumentError
from bitzones.serve.http.app import DEFAULTS, create_app
from bitzones.serve.http.protocol import patient
from bitzones.serve.limits import Limits
from bitzones.serve.served_model import ServedModel

__all__ = ["LOOPBACK", "bind", "is_loopback", "run", "running", "url_of"]

LOOPBACK = "127.0.0.1"

STARTUP_S = 30.0
"""Longest wait for a server in a thread to listen; it takes milliseconds."""


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to an address, before a model is loaded that would be loaded for nothing.

    Raises:
        ArgumentError: there is no such address here, or it is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError, OverflowError) as error:
        raise ArgumentError(f"{host} is no address of this machine: {_said(error)}") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ArgumentError(f"cannot listen on {host}, port {port}: {_said(error)}; choose another with --port") from error
    return bound


def _said(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def url_of(bound: socket.socket) -> str:
    """Where a bound socket is reached from this machine."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104  # what is bound to all addresses is at the loopback too
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine reaches a socket."""
    host = str(bound.getsockname()[0])
    return host.startswith("127.") or host == "::1"


def run(served: ServedModel, bound: socket.socket, *, api_key: str | None = None, limits: Limits = DEFAULTS) -> None:
    """Serve until SIGTERM or Ctrl-C; what is in flight then has ``limits.drain_s`` to finish, and a second signal ends it at once.

    Args:
        served: a model in memory.
        bound: from `bind`; it is closed at the end.
        api_key: what clients have to send; None lets everyone in.
        limits: sizes, lengths and waits.
    """
    server = _server(served, bound, api_key, limits)
    with _outlived(signal.SIGTERM, signal.SIGINT), bound:
        server.run(sockets=[bound])


@contextmanager
def running(
    served: ServedModel, *, host: str = LOOPBACK, port: int = 0, api_key: str | None = None, limits: Limits = DEFAULTS
) -> Iterator[str]:
    """Serve in a thread while the block runs; gives the server's URL. Port 0 is any that is free.

    Raises:
        ArgumentError: the address is not there, or taken.
    """
    bound = bind(host, port)
    server = _server(served, bound, api_key, limits)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, name="bitzones-serve", daemon=True)
    with bound:
        bound.listen()  # connections wait from here on, so that nobody has to look whether the thread is there yet
        thread.start()
        try:
            yield url_of(bound)
        finally:
            server.should_exit = True
            thread.join(limits.drain_s + STARTUP_S)


def _server(served: ServedModel, bound: socket.socket, api_key: str | None, limits: Limits) -> uvicorn.Server:
    config = uvicorn.Config(
        create_app(served, api_key=api_key, local=is_loopback(bound), limits=limits),
        http=patient(limits.head_s),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=round(limits.drain_s),
    )
    return uvicorn.Server(config)


@contextmanager
def _outlived(*numbers: signal.Signals) -> Iterator[None]:
    """Uvicorn raises a signal again when it has stopped; that it came is known by then."""
    handled: Callable[..., None] = lambda *_: None  # noqa: E731
    before = {number: signal.signal(number, handled) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
