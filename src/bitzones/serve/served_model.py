"""A model in memory with its tokenizer and its plans: what the server and a program ask."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bitzones.backends.weights import resident_bytes
from bitzones.serve.switching import BASE, Switch

__all__ = ["Routed", "Router", "ServedModel"]


@dataclass(frozen=True)
class Routed:
    """The task that a request goes to, what decided so, and the classifier's probability of it where that was asked."""

    task: str
    by: Literal["name", "rule", "classifier", "base"]
    confidence: float | None = None


class Router(Protocol):
    """Chooses a task for a request that names none."""

    def route(self, prompt: str, *, system: str | None, role: str | None) -> Routed:
        """The task, the base where nothing speaks for another."""


class ServedModel:
    """A model of one or several plans. Tasks are named; the first is always ``base``.

    Compute inside ``with served.precision(task):``, under ``torch.no_grad`` (`generate` does that itself). The block holds the model's
    lock, so what is computed in it is computed by one plan from beginning to end.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        sha256: str,
        switch: Switch | None = None,
        router: Router | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.sha256 = sha256
        """Of bundle.json, which holds those of all files; else of the weights' files."""
        self._switch = Switch(model, {}) if switch is None else switch
        self._router = router

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the plans, ``base`` first."""
        return self._switch.tasks

    @property
    def task(self) -> str:
        """The plan that the model computes now."""
        return self._switch.current

    def use(self, task: str) -> None:
        """Change the plan in place and stay there; waits for generation in flight.

        Raises:
            ArgumentError: there is no such task, or the calling thread is inside `precision`, which would undo it.
        """
        self._switch.use(task)

    def precision(self, task: str) -> AbstractContextManager[None]:
        """A block in which the model computes by a task's plan; the plan before it is restored at its end, also after an exception.

        Blocks of different threads wait for each other; those of one thread may be nested.

        Raises:
            ArgumentError: there is no such task.
        """
        return self._switch.precision(task)

    def route(self, prompt: str, *, task: str | None = None, system: str | None = None, role: str | None = None) -> Routed:
        """The task for a request: the one that it names, else by a rule, else by the classifier, else the base.

        Args:
            prompt: what is to be answered; in a chat the last message.
            task: asked for by name.
            system: the system prompt of a chat.
            role: of the last message of a chat, such as ``user`` or ``tool``.

        Raises:
            ArgumentError: there is no task of that name.
        """
        if task is not None:
            self._switch.check(task)
            return Routed(task, "name")
        return Routed(BASE, "base") if self._router is None else self._router.route(prompt, system=system, role=role)

    @property
    def resident_bytes(self) -> int:
        """Bytes of memory behind all weights and buffers of all plans; what plans share counts once."""
        return resident_bytes([self.model, *self._switch.modules])
