"""The embedded model as the server sees it, loaded once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import cache

import torch

from bitzones.models import loading
from bitzones.schema.profile_sections import Model
from bitzones.serve.http.served import Routed

CHAT = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}Answer:"
"""A chat template, which the embedded model has none of."""


class Tiny:
    def __init__(self, source="embedded:tiny"):
        l = loading.load(Model(source=source), torch.device("cpu"))
        self.model, self.tokenizer, self.name, self.sha256, self.tasks = l.model.float(), l.tokenizer, "tiny", l.sha256, ("base",)
        self.resident_bytes = sum(p.nbytes for p in l.model.parameters())
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def precision(self, task) -> Iterator[None]:
        with self._lock:
            yield

    def route(self, prompt, *, task=None, system=None):
        return Routed(task or "base", "base", None)


@cache
def tiny():
    return Tiny()
