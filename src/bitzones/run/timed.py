"""The seam to pytest-benchmark: the one module that knows how it keeps what it timed.

pytest-benchmark drops a benchmark that raised, and can only hold what it timed itself. A run file has to hold more: a cell that failed,
with its reason, and a cell that an earlier run measured. Both go through this module, which relies on these attributes of
``BenchmarkFixture`` and nothing else of pytest-benchmark's inside:

    disabled        true under --benchmark-disable and beside xdist: functions run, nothing is timed
    stats           None until something was timed; ``stats.stats.data`` is the list of rounds in seconds
    has_error       true where the function raised; such a benchmark is left out of the JSON
    extra_info      goes into the JSON as it is
    group           the heading under which the table shows it
    _mode           set once the fixture is used; the only private one: clearing it lets a placeholder be timed after a failure

``tests/test_timed.py`` holds the installed release to this list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

__all__ = ["Timed", "named_params", "without_reruns"]

T = TypeVar("T")

NO_VALUE = "-"
"""Stands for a parameter that a cell does not have, where pytest-benchmark groups by it."""


class Timed:
    """One benchmark: times a cell, or stands in for one that was not timed now."""

    def __init__(self, benchmark: BenchmarkFixture, group: str) -> None:
        self._benchmark = benchmark
        benchmark.group = group

    @property
    def disabled(self) -> bool:
        """Whether nothing is timed and nothing will be written."""
        return bool(self._benchmark.disabled)

    @property
    def node(self) -> str:
        """The test's node id."""
        return str(self._benchmark.fullname)

    @property
    def rounds_s(self) -> tuple[float, ...]:
        """Seconds of every round; empty where nothing was timed."""
        stats = self._benchmark.stats
        return () if stats is None else tuple(stats.stats.data)

    def once(self, work: Callable[..., T], *arguments: object) -> T:
        """Time one call and return its result."""
        result: T = self._benchmark.pedantic(work, args=arguments, rounds=1, iterations=1)
        return result

    def repeatedly(self, run: Callable[..., Any], setup: Callable[[], tuple[Any, ...]], rounds: int) -> None:
        """Time ``rounds`` calls, each on a setup of its own that is not timed."""
        self._benchmark.pedantic(run, setup=lambda: (setup(), {}), rounds=rounds, iterations=1)

    def record(self, cell: Mapping[str, Any], key: str) -> None:
        """Put a cell into the JSON."""
        self._benchmark.extra_info[key] = cell

    def stand_in(self, rounds_s: Iterable[float]) -> None:
        """Take rounds that were timed earlier as this benchmark's own."""
        self._benchmark.pedantic(_nothing)
        if self._benchmark.stats is not None:
            self._benchmark.stats.stats.data[:] = rounds_s

    def keep_failed(self) -> None:
        """Have the benchmark written although its function raised: without a round it gets one placeholder, whose time means nothing."""
        if self._benchmark.stats is None:
            self._benchmark._mode = None
            self._benchmark.pedantic(_nothing)
        elif not self.rounds_s:
            self._benchmark.stats.update(0.0)
        self._benchmark.has_error = False


def _nothing() -> None:
    """Take no time."""


def without_reruns(benchmarks: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Benchmarks of a JSON, each once: of one that was run again (pytest-rerunfailures) the last.

    >>> without_reruns([{"fullname": "a", "n": 1}, {"fullname": "b", "n": 1}, {"fullname": "a", "n": 2}])
    [{'fullname': 'b', 'n': 1}, {'fullname': 'a', 'n': 2}]
    """
    last: dict[str, dict[str, Any]] = {}
    for benchmark in benchmarks:
        last.pop(str(benchmark["fullname"]), None)
        last[str(benchmark["fullname"])] = benchmark
    return list(last.values())


def named_params(params: Mapping[str, Any] | None, known: Mapping[str, Any], group_by: str) -> dict[str, Any]:
    """Parameters of a benchmark that have every name by which it is grouped (``--benchmark-group-by=param:NAME``).

    pytest-benchmark raises ``KeyError`` for a benchmark without that parameter; here what is known of the cell stands in, else a dash.

    >>> named_params({"answering": "w4"}, {"variant": "w4"}, "param:variant,param:task")
    {'variant': 'w4', 'task': '-', 'answering': 'w4'}
    """
    names = [item.removeprefix("param:") for item in group_by.split(",") if item.startswith("param:")]
    return {**{name: known.get(name, NO_VALUE) for name in names}, **(params or {})}
