"""The pytest plugin: cells are tests, and a test suite of one's own can ask for a measured run.

Installing bitzones puts this module into every pytest of the environment, so it does nothing until ``--bitzones``, one of its other
options, or a ``bitzones_*`` fixture asks for it, and imports what it needs only then. Like the command line it stands above every room.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bitzones.run import activation, collection, options
from bitzones.run.stash import CELLS, GIVEN, JOURNAL, NOTIFY, PROFILE, PROGRESS, RAY, SESSION
from bitzones.schema.errors import BitzonesError, MeasureError

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from bitzones.duets.driver import Playing
    from bitzones.run.answer import AnalyzedRun
    from bitzones.run.journal import Entry, Journal
    from bitzones.run.ray_options import RayOptions
    from bitzones.run.recorder import Recorder
    from bitzones.run.session import Session

__all__ = ["ask"]

MARKERS = (
    "bitzones: added to every test that uses a bitzones_* fixture, so that -m 'not bitzones' leaves them out",
    "bitzones_plans: the cell needs every uniform variant first, and comes before the cells of single plans",
)

PLACES = pytest.StashKey[int]()
"""How many cells are to be run."""
STARTED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add(parser)


def pytest_configure(config: pytest.Config) -> None:
    for line in MARKERS:
        config.addinivalue_line("markers", line)
    if any(config.getoption(name, None) for name in options.ACTIVATING):
        ask(config)


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[STARTED] = True


def ask(config: pytest.Config) -> None:
    """Activate the plugin, as its options do: for the ``pytest_configure`` of a ``conftest.py`` whose tests are cells.

    A ``conftest.py`` that pytest finds while it collects comes too late for that; its cells then activate the plugin themselves.

    Raises:
        pytest.UsageError: the profile cannot be used, the plugin is not loaded, or cells would run in several processes.
    """
    try:
        if not config.pluginmanager.is_registered(sys.modules[__name__]):
            raise MeasureError("the pytest plugin of bitzones is not loaded: install bitzones, or give -p bitzones.plugin")
        if STARTED in config.stash:
            return
        if config.getoption("bitzones_run") is None:
            activation.require_one_process(config)
        activation.activate(config)
    except BitzonesError as error:
        raise pytest.UsageError(str(error)) from None


# --- collection


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if not collection.is_cell(metafunc):
        return
    try:
        chosen = activation.measuring(metafunc.config)
    except BitzonesError as error:
        raise pytest.Collector.CollectError(f"bitzones: {error}") from None
    collection.parametrize(metafunc, chosen)


def pytest_itemcollected(item: pytest.Item) -> None:
    collection.mark(item)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if any(map(collection.is_cell, items)):
        items[:] = collection.in_order(items, config.stash[PROFILE])
    config.stash[PLACES] = sum(map(collection.is_cell, items))


# --- fixtures


@pytest.fixture(scope="session")
def bitzones_session(pytestconfig: pytest.Config) -> Iterator[Session]:
    """What the run has loaded (`bitzones.run.session.Session`): the model, its variants, the tasks and the sequences."""
    from bitzones.run import garbage

    loaded = ExitStack()
    try:
        with garbage.suspended():
            made = _loaded(pytestconfig)
            loaded.enter_context(garbage.set_aside())
        made.check_invariants()
        made.check_sequences()
        if place := pytestconfig.getoption("bitzones_journal"):  # before a budget is checked, which may take times that are in it
            pytestconfig.stash[JOURNAL] = _opened(made, place, pytestconfig)
        made.check_budget()
        made.check_cluster()
    except BitzonesError as error:
        pytest.exit(f"bitzones: {error}", returncode=2)
    pytestconfig.stash[SESSION] = made
    with loaded:
        yield made


def _loaded(config: pytest.Config) -> Session:
    """A session whose tasks and model are there: one line says that one is missing, instead of every cell failing."""
    from bitzones.run.session import Session

    made = Session(activation.measuring(config), _notify(config), config.stash.get(GIVEN, None), _folder(config), _cluster(config))
    _ = made.scored, made.variants
    return made


def _cluster(config: pytest.Config) -> RayOptions | None:
    """The Ray cluster that measures the sweep, if one was asked for."""
    from bitzones.run.ray_options import RayOptions

    address = config.getoption("bitzones_ray")
    found = config.stash.get(RAY, None if address is None else RayOptions(address, resume=config.getoption("bitzones_resume")))
    if found is not None:
        found.require_package()
    return found


def _folder(config: pytest.Config) -> Path | None:
    """Where the run file will be, as far as that is known."""
    kept, run_file = config.getoption("bitzones_journal"), config.getoption("benchmark_json", None)
    place = kept or (run_file and getattr(run_file, "name", run_file))
    return Path(place).parent if place else None


def _opened(made: Session, place: Path, config: pytest.Config) -> Journal[Entry]:
    from bitzones.run import journal, session_record

    opening = journal.resume if config.getoption("bitzones_resume") else journal.start
    opened = opening(place, session_record.fingerprint(made), _notify(config), journal.Entry)
    if (sweep := config.getoption("bitzones_sweep")) is not None:
        _adopt_sweep(opened, sweep, made)
    made.adopt(opened.entries.values())
    return opened


def _adopt_sweep(opened: Journal[Entry], sweep: Path, made: Session) -> None:
    """Note the sensitivities of a merged file in the journal, as if they had been measured."""
    from bitzones.analysis.merging import SWEEP_BENCH, read_sweep
    from bitzones.run import journal, session_record

    cell, seconds = read_sweep(sweep, session_record.sweep_fingerprint(made))
    if SWEEP_BENCH not in opened.entries:
        opened.add(journal.Entry(bench=SWEEP_BENCH, rounds_s=(seconds,), cell=cell))


def _notify(config: pytest.Config) -> Callable[[str], None]:
    return config.stash.get(NOTIFY, partial(_write_line, config))


def _write_line(config: pytest.Config, message: str) -> None:
    """Say something between the dots that pytest prints."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None:
        reporter.ensure_newline()
        reporter.write_line(f"bitzones: {message}")


@pytest.fixture
def bitzones_cell(benchmark: BenchmarkFixture, pytestconfig: pytest.Config) -> Callable[..., Recorder]:
    """``bitzones_cell("accuracy", variant, detail=task)``: the recorder of this test's cell (`bitzones.run.recorder.Recorder`)."""
    from bitzones.run.recorder import Recorder
    from bitzones.run.timed import Timed
    from bitzones.schema.progress import silent

    stash = pytestconfig.stash

    def make(of: str, variant: str, detail: str = "") -> Recorder:
        made = stash.get(SESSION, None)
        return Recorder(
            Timed(benchmark, f"{of} {detail}".strip()),
            of,
            variant,
            detail,
            stash.get(PROGRESS, silent),
            stash[CELLS],
            stash.get(JOURNAL, None),
            made.variants.fallbacks if made else None,
        )

    return make


@pytest.fixture(scope="session")
def bitzones_duet(pytestconfig: pytest.Config) -> Iterator[Playing]:
    """The environment of ``--bitzones-duet`` and this one, alive (`bitzones.duets.driver.Playing`)."""
    from bitzones.duets import driver, sides, watch

    chosen, say = activation.measuring(pytestconfig), _notify(pytestconfig)
    settings = driver.DuetSettings(gate=chosen.gate, seed=chosen.seed, checks=False, select=" latency ")
    with ExitStack() as alive:
        try:
            both = sides.side(pytestconfig.getoption("bitzones_duet"), "OLD", say), sides.side(sides.THIS, "NEW", say)
            played = alive.enter_context(driver.playing(both, chosen, settings, watch.DuetWatch(say=say)))
        except BitzonesError as error:
            pytest.exit(f"bitzones: {error}", returncode=2)
        yield played


@pytest.fixture(scope="session")
def bitzones_run(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> AnalyzedRun:
    """A measured run and what was decided from it: ``bitzones_run.plan.kl.high < 0.05``.

    The run of ``--bitzones-run RUN.json``, else the profile, measured once for the session.
    """
    from bitzones.run import answer

    place, why = pytestconfig.getoption("bitzones_run"), ""
    try:
        return answer.analyzed(place or _measured(pytestconfig, tmp_path_factory.mktemp("bitzones")))
    except BitzonesError as error:
        why = str(error)
    pytest.fail(f"bitzones: {why}", pytrace=False)  # outside, so that it is one line and no chain of exceptions


def _measured(config: pytest.Config, folder: Path) -> Path:
    """The run file of the profile, measured into a folder."""
    activation.require_one_process(config)
    chosen = activation.activate(config)
    from bitzones.run import runner

    with runner.alone(folder):
        return runner.measure(chosen, folder).run_file


# --- what pytest-benchmark writes


def _is_active(config: pytest.Config) -> bool:
    return PROFILE in config.stash


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    if made := config.stash.get(SESSION, None):
        from bitzones.schema.run_record import KEY

        machine_info[KEY] = made.environment().model_dump(mode="json")


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    if config.stash.get(CELLS, None):
        from bitzones.run import timed
        from bitzones.schema.run_record import KEY

        output_json["benchmarks"][:] = timed.without_reruns(output_json["benchmarks"])
        output_json[KEY] = _run(config).model_dump(mode="json")


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_benchmark_group_stats(config: pytest.Config, benchmarks: list[dict[str, Any]], group_by: str) -> None:
    """Give cells the parameters that they are grouped by; the grouping itself is pytest-benchmark's."""
    if _is_active(config):
        from bitzones.run import timed
        from bitzones.schema.run_record import KEY

        benchmarks[:] = timed.without_reruns(benchmarks)
        for benchmark in benchmarks:
            if cell := benchmark["extra_info"].get(KEY):
                benchmark["params"] = timed.named_params(benchmark["params"], cell, group_by)


def _run(config: pytest.Config) -> Any:
    """What all cells share; of cells that needed no model, what the profile alone says."""
    if made := config.stash.get(SESSION, None):
        from bitzones.run.session_record import run_record

        return run_record(made)
    import bitzones
    from bitzones.schema import profile
    from bitzones.schema.run_record import Run

    chosen = config.stash[PROFILE]
    return Run(bitzones=bitzones.__version__, profile=chosen, model=None, variants=profile.variant_formats(chosen), environment=None)


# --- the terminal


def pytest_report_header(config: pytest.Config) -> str | None:
    if not _is_active(config):
        return None
    chosen = config.stash[PROFILE]
    return f"bitzones: {chosen.model.source}, {', '.join(chosen.formats)}, {len(chosen.tasks)} tasks"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    lines = list(_summary(config))
    if lines:
        terminalreporter.section("bitzones")
        for line in lines:
            terminalreporter.write_line(line)


def _summary(config: pytest.Config) -> Iterator[str]:
    """The cells that failed, and the answer of the run."""
    cells = config.stash.get(CELLS, {})
    if not cells:
        if config.stash.get(PLACES, 0) and config.getoption("benchmark_disable", False):
            yield "--benchmark-disable: cells ran once each, and nothing was recorded"
        return
    from bitzones.run import answer

    failed = answer.failures(cells)
    yield f"{len(cells) - len(failed)} of {len(cells)} cells measured"
    yield from failed
    yield from answer.lines(_run(config), cells.values())
    if not any(config.getoption(name, None) for name in ("benchmark_json", "benchmark_save", "benchmark_autosave")):
        yield "nothing is kept: --benchmark-json=run.json writes the run file, 'bitzones collect run.json' the report"
