"""What the server needs of a model in memory."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Routed:
    task: str
    by: str
    confidence: float | None


class ServedModel(Protocol):
    @property
    def model(self) -> PreTrainedModel: ...
    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...
    @property
    def name(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def tasks(self) -> tuple[str, ...]: ...
    def precision(self, task: str) -> AbstractContextManager[None]: ...
    def route(self, prompt: str, *, task: str | None = None, system: str | None = None) -> Routed: ...
    @property
    def resident_bytes(self) -> int: ...
