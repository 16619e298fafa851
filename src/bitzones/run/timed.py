"""The interface to pytest-benchmark's internals, in one module.

pytest-benchmark drops a benchmark that raised, and holds only rounds that it timed itself. A run file also needs failed cells with their
reason, and cells that an earlier run measured. Both go through this module, which relies on these attributes of ``BenchmarkFixture``:

    disabled        true under --benchmark-disable and with xdist: functions run, nothing is timed
    stats           None until something is timed; ``stats.stats.data`` is the list of rounds in seconds
    has_error       true if the function raised; the JSON leaves out such a benchmark
    extra_info      is written to the JSON unchanged
    group           the heading in the table
    _mode           set when the fixture is used; the only private attribute: clearing it allows timing a placeholder after a failure

``tests/run/test_timed.py`` checks the installed release against this list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

__all__ = ["Timed", "named_params", "without_reruns"]

T = TypeVar("T")

NO_VALUE = "-"
"""Placeholder for a parameter that a cell does not have, if pytest-benchmark groups by it."""


class Timed:
    """One benchmark: times a cell, or takes over the rounds of a cell that was timed earlier."""

    def __init__(self, benchmark: BenchmarkFixture, group: str) -> None:
        self._benchmark = benchmark
        benchmark.group = group

    @property
    def disabled(self) -> bool:
        """Whether timing is disabled, so that nothing is written."""
        return bool(self._benchmark.disabled)

    @property
    def node(self) -> str:
        """The test's node ID."""
        return str(self._benchmark.fullname)

    @property
    def rounds_s(self) -> tuple[float, ...]:
        """Seconds of every round; empty if nothing was timed."""
        stats = self._benchmark.stats
        return () if stats is None else tuple(stats.stats.data)

    def once(self, work: Callable[..., T], *arguments: object) -> T:
        """Time one call and return its result."""
        result: T = self._benchmark.pedantic(work, args=arguments, rounds=1, iterations=1)
        return result

    def repeatedly(self, run: Callable[..., Any], setup: Callable[[], tuple[Any, ...]], rounds: int) -> None:
        """Time ``rounds`` calls, each after its own setup, which is not timed."""
        self._benchmark.pedantic(run, setup=lambda: (setup(), {}), rounds=rounds, iterations=1)

    def record(self, cell: Mapping[str, Any], key: str) -> None:
        """Put a cell into the JSON."""
        self._benchmark.extra_info[key] = cell

    def stand_in(self, rounds_s: Iterable[float]) -> None:
        """Use rounds that were timed earlier as this benchmark's own."""
        self._benchmark.pedantic(_nothing)
        if self._benchmark.stats is not None:
            self._benchmark.stats.stats.data[:] = rounds_s

    def keep_failed(self) -> None:
        """Keep the benchmark although its function raised. Without a round it gets one placeholder with a meaningless time."""
        if self._benchmark.stats is None:
            self._benchmark._mode = None
            self._benchmark.pedantic(_nothing)
        elif not self.rounds_s:
            self._benchmark.stats.update(0.0)
        self._benchmark.has_error = False


def _nothing() -> None:
    """Take no time."""


def without_reruns(benchmarks: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The benchmarks of a JSON without duplicates: of a test that was rerun (pytest-rerunfailures), the last.

    >>> without_reruns([{"fullname": "a", "n": 1}, {"fullname": "b", "n": 1}, {"fullname": "a", "n": 2}])
    [{'fullname': 'b', 'n': 1}, {'fullname': 'a', 'n': 2}]
    """
    last: dict[str, dict[str, Any]] = {}
    for benchmark in benchmarks:
        last.pop(str(benchmark["fullname"]), None)
        last[str(benchmark["fullname"])] = benchmark
    return list(last.values())


def named_params(params: Mapping[str, Any] | None, known: Mapping[str, Any], group_by: str) -> dict[str, Any]:
    """Parameters of a benchmark, completed with every name that it is grouped by (``--benchmark-group-by=param:NAME``).

    pytest-benchmark raises ``KeyError`` for a benchmark without such a parameter; the cell's own value or a dash fills it in.

    >>> named_params({"answering": "w4"}, {"variant": "w4"}, "param:variant,param:task")
    {'variant': 'w4', 'task': '-', 'answering': 'w4'}
    """
    names = [item.removeprefix("param:") for item in group_by.split(",") if item.startswith("param:")]
    return {**{name: known.get(name, NO_VALUE) for name in names}, **(params or {})}
