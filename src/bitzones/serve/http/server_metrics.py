"""What the server counts, in Prometheus's text format. No label holds anything that a client wrote."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from bitzones import __version__
from bitzones.serve.served_model import ServedModel

__all__ = ["Metrics"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Bounds of histograms: from one token of a tiny model to the default timeout."""


class Metrics:
    """The metrics of one server, in a registry of its own: two servers in a process count apart."""

    def __init__(self, served: ServedModel, waiting: Callable[[], float]) -> None:
        self._registry = registry = CollectorRegistry()
        info = Info("bitzones_model", "The model that is served", registry=registry)
        info.info({"name": served.name, "sha256": served.sha256, "version": __version__})
        self.requests = Counter("bitzones_requests", "Requests by endpoint and status", ["endpoint", "status"], registry=registry)
        self.seconds = Histogram(
            "bitzones_request_seconds", "Time from arrival to the end of the answer", ["endpoint"], buckets=SECONDS, registry=registry
        )
        self.waited = Histogram("bitzones_wait_seconds", "Time in line before the model", buckets=SECONDS, registry=registry)
        self.tokens = Counter("bitzones_tokens", "Tokens read (prompt) and written (new) by task", ["task", "kind"], registry=registry)
        self.routed = Counter("bitzones_routed", "Requests by task and by what chose it", ["task", "by"], registry=registry)
        self.cancelled = Counter("bitzones_cancelled", "Answers that nobody waited for to the end", registry=registry)
        self.in_flight = Gauge("bitzones_in_flight_requests", "Requests in memory", registry=registry)
        Gauge("bitzones_waiting_requests", "Requests that wait for the model", registry=registry).set_function(waiting)
        resident = Gauge("bitzones_resident_bytes", "Bytes of the model's weights, all plans together", registry=registry)
        resident.set_function(lambda: float(served.resident_bytes))

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self._registry)
