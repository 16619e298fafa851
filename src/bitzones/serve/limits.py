"""How much the server takes on: sizes, lengths, waits."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Bounds that keep memory and waits finite, whatever is sent.

    At most `in_flight` requests are in memory, each with a body of ``body_bytes`` and an answer of ``tokens``.
    """

    tokens: int = 4096
    """Most tokens of a prompt and its answer; less where the model has fewer positions. The log-probabilities of a prompt need its logits
    in memory, tokens x vocabulary: 1 GB in bfloat16 at 4,096 x 128,000."""
    prompts: int = 64
    """Most prompts of one request."""
    body_bytes: int = 1 << 20
    """Largest body of a request."""
    waiting: int = 32
    """Most requests that wait for the model; one more is refused with 429."""
    arriving: int = 64
    """Most requests beside those whose body is still read, or whose answer is still sent."""
    timeout_s: float = 120.0
    """Longest time from a request's arrival to the end of its answer."""
    head_s: float = 10.0
    """Longest time for the request line and headers."""
    body_s: float = 10.0
    """Longest time for the body."""
    drain_s: float = 30.0
    """Longest time for what is in flight when the server is told to stop."""
    connections: int = 1024
    """Most open connections; further ones get 503."""

    @property
    def in_flight(self) -> int:
        """Most requests at a time, the one that is answered included."""
        return 1 + self.waiting + self.arriving
