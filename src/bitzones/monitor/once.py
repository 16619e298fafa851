"""One round of a watch: a canary check, and the window of requests that came in since the last."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from bitzones.monitor import request_drift
from bitzones.monitor.canary_watch import CanaryWatch, now
from bitzones.monitor.monitor_page import page
from bitzones.monitor.overview import Overview, overview
from bitzones.monitor.records import DriftWindow
from bitzones.monitor.request_log import LogPlace, read_requests
from bitzones.monitor.state import State
from bitzones.monitor.words import summary
from bitzones.schema.activation_record import ThresholdReading
from bitzones.schema.canary_record import CanaryRecord
from bitzones.schema.errors import ArgumentError, ServerError
from bitzones.schema.files import write_text
from bitzones.schema.validation_errors import first_error

__all__ = ["MARKDOWN", "PAGE", "read_activations", "read_window", "round_of", "write"]

PAGE, MARKDOWN = "monitor.html", "monitor.md"


def round_of(watch: CanaryWatch, requests: Path | None, activations: Path | None = None) -> tuple[Overview, ServerError | None]:
    """Everything that the state says after a round, and what kept the canary from being checked, if anything did.

    Requests are looked at whether or not the server answers.

    Raises:
        ArgumentError: the server refuses to be asked, or the log of requests cannot be read.
    """
    failed = None
    try:
        watch.check()
    except ServerError as error:
        failed = error
    if requests is not None:
        read_window(watch.record, watch.state, requests, watch.notify)
    if activations is not None:
        watch.state.record(read_activations(activations))
    return overview(watch.state), failed


def read_window(record: CanaryRecord, state: State, path: Path, notify: Callable[[str], None]) -> DriftWindow | None:
    """The window of the requests that the log has had since the last window; None where there are too few, which are then left for later.

    Raises:
        ArgumentError: the log cannot be read.
    """
    key = f"log {path.resolve()}"
    place = LogPlace.of(state.value(key))
    requests, malformed, after = read_requests(path, place)
    if malformed and not requests and not place.offset:
        raise ArgumentError(f"{path}: none of its {malformed} lines is a request: expected JSON objects with 'prompt', 'task' and others")
    if len(requests) < request_drift.FEWEST:
        notify(f"{path}: {len(requests)} new requests; a window takes {request_drift.FEWEST}")
        return None
    number = int(state.value("windows") or 0) + 1
    found = request_drift.window(number, requests, malformed, record.traffic, now())
    with state.together():
        state.record(found)
        state.keep("windows", str(number))
        state.keep(key, after.to_text())
        state.count("requests", "read", len(requests))
        state.count("requests", "malformed", malformed)
    return found


def read_activations(path: Path) -> ThresholdReading:
    """What an `ActivationWatch` wrote.

    Raises:
        ArgumentError: the file cannot be read, or is something else.
    """
    try:
        return ThresholdReading.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ArgumentError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ArgumentError(f"{path}: no reading of activations: {first_error(error).clause}") from error


def write(found: Overview, folder: Path) -> None:
    """Write monitor.html and monitor.md.

    Raises:
        OutputError: they cannot be written.
    """
    write_text(folder / PAGE, page(found))
    write_text(folder / MARKDOWN, summary(found))
