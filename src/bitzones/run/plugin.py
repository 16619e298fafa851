"""The pytest side of a run: options, parameters, fixtures, and cells that stay in the JSON even when they fail.

pytest-benchmark writes its JSON at the end and drops what raised; so a failing cell is kept here as a `FailedCell` with its reason, the run
goes on, and pytest still ends non-zero. This module does not measure.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bitzones.run import journal
from bitzones.schema import profile
from bitzones.schema.errors import BitzonesError, MeasureError, NotMeasuredError, OutOfMemoryError, OutputError
from bitzones.schema.progress import Progress, silent
from bitzones.schema.records import KEY, FailedCell, Measured, Shortage

if TYPE_CHECKING:
    from bitzones.profiling.latency import Ready
    from bitzones.run.session import Session

__all__ = ["HELD", "JOURNAL", "NOTIFY", "PROFILE", "PROGRESS", "SESSION", "Recorder", "reason"]

T = TypeVar("T")
Kind = Literal["accuracy", "latency", "unit_latency", "memory", "layers", "sensitivity", "fisher", "search", "plans", "divergence"]

PROFILE = pytest.StashKey[profile.Profile]()
SESSION = pytest.StashKey["Session"]()
PROGRESS = pytest.StashKey[Progress]()
"""Told how far the present cell is."""
NOTIFY = pytest.StashKey[Callable[[str], None]]()
"""Told, in a line, of anything that takes long and is not a cell."""

JOURNAL = pytest.StashKey[journal.Journal]()
HELD = pytest.StashKey[bool]()
"""Set where whoever started pytest holds the journal for it already."""

REASON_LENGTH = 300
"""Characters of an exception's message that a run file keeps."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bitzones")
    group.addoption(
        "--bitzones-profile",
        metavar="NAME|PATH",
        default=None,
        help=f"what to run: {', '.join(profile.available())}, or a TOML file (default: $BITZONES_PROFILE, else {profile.DEFAULT})",
    )
    group.addoption(
        "--bitzones-data",
        metavar="FOLDER",
        default=None,
        help=f"published data sets in the hub's layouts: {', '.join(sorted(set(profile.DATA_FOLDERS.values())))} (default: $BITZONES_DATA)",
    )
    group.addoption(
        "--bitzones-limit",
        metavar="N",
        type=_items,
        default=None,
        help="items of every task, instead of the profile's own limits",
    )
    group.addoption("--bitzones-journal", metavar="FILE", type=Path, default=None, help="keep every cell here as soon as it is finished")
    group.addoption("--bitzones-resume", action="store_true", help="take the cells that an earlier run finished from --bitzones-journal")


def _items(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of items; give 1 or more")
    return int(text)


def pytest_configure(config: pytest.Config) -> None:
    name = config.getoption("--bitzones-profile") or os.environ.get("BITZONES_PROFILE") or profile.DEFAULT
    data = config.getoption("--bitzones-data") or os.environ.get("BITZONES_DATA")
    try:
        config.stash[PROFILE] = profile.load(name).resolved(Path(data) if data else None, config.getoption("--bitzones-limit"))
        _hold_journal(config)
    except BitzonesError as error:
        raise pytest.UsageError(str(error)) from None


def _hold_journal(config: pytest.Config) -> None:
    """Of two runs with one journal the second ends here, before it loads anything."""
    place = config.getoption("--bitzones-journal")
    if place is None and config.getoption("--bitzones-resume"):
        raise MeasureError("--bitzones-resume needs --bitzones-journal=FILE, from which finished cells are taken")
    if place is not None and not config.stash.get(HELD, False):
        hold = ExitStack()
        hold.enter_context(journal.sole(place))
        config.add_cleanup(hold.close)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = metafunc.config.stash[PROFILE]
    values = {
        "variant": [*profile.variant_formats(chosen), profile.PLAN],
        "answering": [*profile.variant_formats(chosen), profile.PLAN, *chosen.plans.accuracy],
        "quantized": [*list(profile.variant_formats(chosen))[1:], profile.PLAN],
        "task": [task.name for task in chosen.tasks],
        "timing": list(chosen.latency.timings()),
    }
    for name, options in values.items():  # in this order, so that the variant leads the id: w4-science_mini
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, options)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Variant by variant, so that each is quantized once; then what needs all of them, then plans, and the cells of single plans last."""
    chosen = config.stash[PROFILE]
    order = {name: number for number, name in enumerate(profile.variant_formats(chosen))}
    single = {name: len(order) + 2 + number for number, name in enumerate((profile.PLAN, *chosen.plans.accuracy))}

    def place(item: pytest.Item) -> int:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        variant = next((str(params[name]) for name in ("variant", "answering", "quantized") if name in params), "")
        if variant in single:
            return single[variant]
        return len(order) + 1 if item.path.stem == "test_plan" else order.get(variant, len(order))

    items.sort(key=place)


def _write_line(config: pytest.Config, message: str) -> None:
    """Say something between the dots that pytest prints."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None:
        reporter.ensure_newline()
        reporter.write_line(f"bitzones: {message}")


@pytest.fixture(scope="session")
def session(pytestconfig: pytest.Config) -> Session:
    """What the run has loaded (`bitzones.run.session.Session`)."""
    from bitzones.run.session import Session  # torch only when something is measured

    made = Session(pytestconfig.stash[PROFILE], pytestconfig.stash.get(NOTIFY, partial(_write_line, pytestconfig)))
    try:
        # Loaded now: one line says that there is no task or no model, instead of every cell failing.
        _ = made.scored, made.variants
        if place := pytestconfig.getoption("--bitzones-journal"):  # before a budget is checked, which may take times that are in it
            pytestconfig.stash[JOURNAL] = _opened(made, place, pytestconfig)
        made.check_budget()
        made.check_calibration()
    except BitzonesError as error:
        pytest.exit(f"bitzones: {error}", returncode=2)
    pytestconfig.stash[SESSION] = made
    return made


def _opened(made: Session, place: Path, config: pytest.Config) -> journal.Journal:
    opening = journal.resume if config.getoption("--bitzones-resume") else journal.start
    opened = opening(place, made.fingerprint(), config.stash.get(NOTIFY, partial(_write_line, config)))
    made.adopt(opened.entries.values())
    return opened


class Recorder:
    """Runs one cell under pytest-benchmark and stores what comes out in its ``extra_info``."""

    def __init__(
        self,
        benchmark: BenchmarkFixture,
        of: Kind,
        variant: str,
        detail: str,
        progress: Progress,
        kept: journal.Journal | None = None,
        fallbacks: journal.Fallbacks | None = None,
    ) -> None:
        self.benchmark = benchmark
        self.of = of
        self.variant = variant
        self.detail = detail
        self.progress = progress
        self._kept = kept
        self._fallbacks = {} if fallbacks is None else fallbacks

    def measure(self, prepare: Callable[[], T], work: Callable[[T], Measured]) -> None:
        """Time ``work`` once on what ``prepare`` gives, which is not timed, and store its cell."""
        if self._resumed():
            return
        with self._recording():
            self._store(self.benchmark.pedantic(work, args=(prepare(),), rounds=1, iterations=1))
        self._journal()

    def time(self, prepare: Callable[[], Ready], rounds: int, finish: Callable[[Ready, list[float]], Measured]) -> None:
        """Time ``rounds`` rounds, each on a fresh setup that is not timed, and store the cell that ``finish`` makes of the raw rounds."""
        if self._resumed():
            return
        with self._recording():
            ready = prepare()
            timed = ready.timed
            with ready.watch:
                self.benchmark.pedantic(timed.run, setup=lambda: (timed.setup(), {}), rounds=rounds, iterations=1)
            if self.benchmark.stats is not None:  # None under --benchmark-disable: nothing was timed
                self._store(finish(ready, list(self.benchmark.stats.stats.data)))
        self._journal()

    @property
    def _bench(self) -> str:
        """File and name of this benchmark, wherever pytest was started."""
        return str(self.benchmark.fullname).rpartition("/")[2]

    def _resumed(self) -> bool:
        """Whether an earlier run finished this cell: then its record and its rounds stand here as if they had just been measured."""
        entry = None if self._kept is None else self._kept.entries.get(self._bench)
        if entry is None or self.benchmark.disabled:
            return False
        self.benchmark.pedantic(lambda: None)
        assert self.benchmark.stats is not None
        self.benchmark.stats.stats.data[:] = entry.rounds_s
        self._store(entry.cell)
        return True

    def _journal(self) -> None:
        """Keep what was just finished; a run whose cells cannot be kept ends, for its run file could not be written either."""
        if self._kept is None or self.benchmark.stats is None:
            return
        rounds, cell = tuple(self.benchmark.stats.stats.data), self.benchmark.extra_info[KEY]
        try:
            self._kept.add(journal.Entry(bench=self._bench, rounds_s=rounds, cell=cell, fallbacks=self._fallbacks))
        except OutputError as error:
            pytest.exit(f"bitzones: {error}", returncode=2)

    def _store(self, cell: Measured) -> None:
        self.benchmark.extra_info[KEY] = cell.model_dump(mode="json")

    @contextmanager
    def _recording(self) -> Iterator[None]:
        try:
            yield
        except NotMeasuredError as error:
            self._keep("not measured", str(error))
            pytest.skip(str(error))
        except OutOfMemoryError as error:
            self._keep("failed", str(error), error.shortages)
            pytest.fail(str(error), pytrace=False)
        except BitzonesError as error:
            self._keep("failed", str(error))
            pytest.fail(str(error), pytrace=False)
        except Exception as error:
            self._keep("failed", reason(error))
            raise
        except KeyboardInterrupt:  # pytest-benchmark would fall over a benchmark without a round, and write nothing at all
            self._keep("failed", "interrupted")
            raise

    def _keep(self, status: Literal["failed", "not measured"], why: str, shortages: tuple[Shortage, ...] = ()) -> None:
        """Have pytest-benchmark keep this benchmark although it has no result."""
        if self.benchmark.stats is None:
            self.benchmark._mode = None
            self.benchmark.pedantic(lambda: None)
        elif not self.benchmark.stats.stats.data:
            self.benchmark.stats.update(0.0)
        self.benchmark.has_error = False
        self._store(FailedCell(variant=self.variant, of=self.of, detail=self.detail, status=status, reason=why, shortages=shortages))


def reason(error: BaseException) -> str:
    """An exception in one line for the run file: memory that ran out is called so, whatever raised it."""
    from bitzones.devices.device import is_out_of_memory

    message = " ".join(str(error).split())[:REASON_LENGTH]
    return f"out of memory: {message}" if is_out_of_memory(error) else f"{type(error).__name__}: {message}"


@pytest.fixture
def cell(benchmark: BenchmarkFixture, pytestconfig: pytest.Config) -> Callable[..., Recorder]:
    """``cell("accuracy", variant, detail=task)``: the recorder of this benchmark's cell."""
    progress = pytestconfig.stash.get(PROGRESS, silent)

    def make(of: Kind, variant: str, detail: str = "") -> Recorder:
        benchmark.group = f"{of} {detail}".strip()
        made, kept = pytestconfig.stash.get(SESSION, None), pytestconfig.stash.get(JOURNAL, None)
        return Recorder(benchmark, of, variant, detail, progress, kept, made.variants.fallbacks if made else None)

    return make


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    if made := config.stash.get(SESSION, None):
        machine_info[KEY] = made.environment().model_dump(mode="json")


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]) -> None:
    if made := config.stash.get(SESSION, None):
        output_json[KEY] = made.run().model_dump(mode="json")
