"""One model, several plans: the modules in which a plan differs are put in the places of the base's, one plan at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock

import torch

from bitzones.schema.errors import ArgumentError

__all__ = ["BASE", "Switch"]

BASE = "base"


@dataclass(frozen=True)
class _Place:
    """Where a module hangs: ``children`` are the submodules of its parent, by name."""

    children: dict[str, torch.nn.Module | None]
    name: str
    base: torch.nn.Module


class Switch:
    """Changes the plan of a model in place. No weight is copied: a switch sets one reference a module that differs.

    A lock belongs to each switch. It is held inside `precision`, by one thread at a time; blocks of one thread may be nested, and each
    restores the plan that it found, also when an exception leaves it.
    """

    def __init__(self, model: torch.nn.Module, tasks: Mapping[str, Mapping[str, torch.nn.Module]]) -> None:
        self._tasks = {BASE: {}, **tasks}
        names = {name for modules in self._tasks.values() for name in modules}
        self._places = {name: _place(model, name) for name in names}
        self._current, self._depth, self._lock = BASE, 0, RLock()

    @property
    def tasks(self) -> tuple[str, ...]:
        """All plans, the base first."""
        return tuple(self._tasks)

    @property
    def current(self) -> str:
        """The plan that the model computes now."""
        return self._current

    @property
    def modules(self) -> list[torch.nn.Module]:
        """Every module that some plan puts in the base's place, and those of the base that it replaces."""
        others = [module for modules in self._tasks.values() for module in modules.values()]
        return [*others, *(place.base for place in self._places.values())]

    def check(self, task: str) -> None:
        """Refuse a task that there is not.

        Raises:
            ArgumentError: the message lists those that there are.
        """
        if task not in self._tasks:
            raise ArgumentError(f"there is no task {task!r}; tasks: {', '.join(self._tasks)}")

    def use(self, task: str) -> None:
        """Change to a plan and stay there; waits for the `precision` blocks of other threads.

        Raises:
            ArgumentError: there is no such task, or the calling thread is inside `precision`, which would undo it.
        """
        self.check(task)
        with self._lock:
            if self._depth:
                raise ArgumentError("use() inside a precision() block, which restores the plan that it found: leave the block first")
            self._set(task)

    @contextmanager
    def precision(self, task: str) -> Iterator[None]:
        """Within the block the model computes by a plan, and no other thread can change that.

        Raises:
            ArgumentError: there is no such task.
        """
        self.check(task)
        with self._lock:
            found = self._current or BASE
            self._depth += 1
            try:
                self._set(task)
                yield
            finally:
                self._set(found)
                self._depth -= 1

    def _set(self, task: str) -> None:
        """Touch what differs between two plans; after an interruption (Ctrl-C) within it, the next call puts everything right."""
        if task == self._current:
            return
        before, after = self._tasks.get(self._current, self._places), self._tasks[task]
        self._current = ""  # neither, while modules change
        for name in before.keys() | after.keys():
            place = self._places[name]
            place.children[place.name] = after.get(name, place.base)
        self._current = task


def _place(model: torch.nn.Module, name: str) -> _Place:
    parent, _, own = name.rpartition(".")
    return _Place(model.get_submodule(parent)._modules, own, model.get_submodule(name))
