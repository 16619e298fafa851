"""Reads run files and checks them once, so that no other module has to handle truncated, foreign, duplicate or NaN data."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError, model_validator
from pydantic_core import from_json

from bitzones.analysis.validation import faults
from bitzones.schema import migrations
from bitzones.schema.cells import Cell, FailedCell
from bitzones.schema.errors import OutputError, RunFileError
from bitzones.schema.files import beside
from bitzones.schema.latency_grid import Timing
from bitzones.schema.plan_cells import NamedTrial
from bitzones.schema.quality_cells import AccuracyCell, PerplexityCell
from bitzones.schema.record import Measured, Record
from bitzones.schema.run_record import KEY, Run
from bitzones.schema.validation_errors import first_error

__all__ = ["RunFile", "add_plan", "benchmark_of", "one_line", "read_run"]

_CELL: TypeAdapter[Cell] = TypeAdapter(Cell)

MOST_SECONDS = 1e9
"""Thirty years: a longer duration in a file is ignored."""

CellT = TypeVar("CellT")


class RunFile(Record):
    """A run file that passed the door: cells in the order of the file, ``foreign`` benchmarks counted and left out. ``took`` holds the
    seconds that pytest-benchmark timed of each cell, null where the file does not say; empty for a run that was made in memory."""

    path: str
    measured_at: str | None
    run: Run
    cells: tuple[Cell, ...]
    foreign: int = 0
    took: tuple[float | None, ...] = ()

    @model_validator(mode="after")
    def _a_time_each(self) -> RunFile:
        if self.took and len(self.took) != len(self.cells):
            raise ValueError("took and cells differ in length")
        return self

    @property
    def times(self) -> tuple[float | None, ...]:
        """``took``, a null for every cell of a run that no file holds."""
        return self.took or (None,) * len(self.cells)

    @property
    def settings_sha256(self) -> str:
        """Hash of the profile without gate and description: equal for two runs of the same measurement."""
        return self.run.profile.model_copy(update={"description": ""}).sha256

    def of(self, kind: type[CellT]) -> tuple[CellT, ...]:
        """All cells of one kind, by task in the profile's order, then by variant in the run's."""
        tasks, variants = [task.name for task in self.run.profile.tasks], list(self.run.variants)

        def place(cell: Any) -> tuple[int, int]:
            task = getattr(cell, "task", None)
            return _index(tasks, task), _index(variants, cell.variant)

        return tuple(sorted((cell for cell in self.cells if isinstance(cell, kind)), key=place))

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        model = self.run.model.source if self.run.model else "model not recorded"
        return f"<RunFile {self.path!r}: {len(self.cells)} cells of {model!r}, measured {self.measured_at or 'at a time not recorded'}>"


def _index(names: list[str], name: str | None) -> int:
    return names.index(name) if name in names else len(names)


def read_run(path: Path | str) -> RunFile:
    """Read and check a run file.

    Raises:
        RunFileError: the file is missing, unreadable, truncated, not pytest-benchmark JSON, not from bitzones, of an unknown schema, or
            empty; or a cell is invalid, a duplicate, or contradicts another.
    """
    data = _load(path)
    run = _run(path, data)
    timings = run.profile.latency.timings()
    found = [_cell(path, benchmark, timings) for benchmark in data["benchmarks"]]
    cells = tuple(cell for cell in found if cell is not None)
    took = tuple(_took(benchmark) for benchmark, cell in zip(data["benchmarks"], found, strict=True) if cell is not None)
    if not cells:
        raise _error(path, "the run is empty: no benchmark holds a bitzones cell, so there is nothing to report")
    moment = data.get("datetime")
    measured_at = one_line(moment) if isinstance(moment, str) else None
    if (fault := next(faults(run, cells), None)) is not None:
        raise _error(path, fault)
    return RunFile(path=one_line(str(path)), measured_at=measured_at, run=run, cells=cells, foreign=len(found) - len(cells), took=took)


def add_plan(path: Path | str, place: Path, trial: NamedTrial, answers: Iterable[AccuracyCell | PerplexityCell]) -> RunFile:
    """Write a copy of a run file with an external plan that was measured later; the copy is checked before it is moved into place.

    Raises:
        RunFileError: as `read_run`, or the run has no plans cell.
        OutputError: the copy cannot be written.
    """
    data = _load(path)
    cells = [benchmark["extra_info"][KEY] for benchmark in data["benchmarks"] if KEY in benchmark.get("extra_info", {})]
    whole = next((cell for cell in cells if cell.get("kind") == "plans"), None)
    if whole is None:
        raise _error(path, "no plans cell to add a plan to (was bench/test_plan.py deselected?)")
    whole["plans"].append(trial.model_dump(mode="json"))
    data[KEY]["variants"][trial.name] = trial.name
    for cell in answers:
        params = {"variant": cell.variant, "task": cell.task}
        data["benchmarks"].append(
            benchmark_of(cell, f"test_accuracy.py::test_accuracy[{cell.variant}-{cell.task}]", params, cell.seconds_s)
        )
    try:
        with beside(place) as copy:
            copy.write_text(json.dumps(data, indent=4), encoding="utf-8")
            read_run(copy)
    except OSError as error:
        raise OutputError(one_line(f"{place}: cannot be written: {error.strerror or error}")) from error
    return read_run(place)


def benchmark_of(cell: Measured, bench: str, params: Mapping[str, str], took: float) -> dict[str, Any]:
    """A cell as pytest-benchmark writes it, with one round of so many seconds; ``bench`` is the file and name of its benchmark."""
    once = dict.fromkeys(("min", "max", "mean", "median", "q1", "q3", "ld15iqr", "hd15iqr", "total"), took)
    spread = {"stddev": 0, "iqr": 0, "iqr_outliers": 0, "stddev_outliers": 0, "outliers": "0;0", "rounds": 1, "iterations": 1}
    key = cell.key
    return {
        "group": f"{key.kind} {key.detail}".strip(),
        "name": bench.rpartition("::")[2],
        "fullname": f"bench/{bench}",
        "params": dict(params) or None,
        "param": "-".join(params.values()) or None,
        "extra_info": {KEY: cell.model_dump(mode="json")},
        "options": {},
        "stats": {**once, **spread, "ops": 1 / took if took else 0},
    }


def one_line(text: str) -> str:
    """Text for one terminal line, without control characters or surrogates."""
    return "".join("\ufffd" if unicodedata.category(letter) in {"Cc", "Cf", "Cs"} else letter for letter in " ".join(text.split()))


def _error(path: Path | str, message: str) -> RunFileError:
    return RunFileError(one_line(f"{path}: {message}"))


def _load(path: Path | str) -> dict[str, Any]:
    try:
        data = _parsed(Path(path).read_bytes())
    except OSError as error:
        raise _error(path, f"cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise _error(path, f"not JSON, or truncated: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise _error(path, f"not JSON that can be read: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("benchmarks"), list):
        raise _error(path, "JSON, but not written by pytest-benchmark: it has no list 'benchmarks'")
    if KEY not in data:
        raise _error(path, "written by pytest-benchmark, but not by a bitzones run: it has no key 'bitzones'")
    return data


def _parsed(text: bytes) -> Any:
    """JSON by pydantic's parser, which takes a fifth of the time; what it rejects goes to Python's, for its grammar and its errors."""
    try:
        return from_json(text)
    except ValueError:
        return json.loads(text.decode("utf-8-sig"))


def _run(path: Path | str, data: dict[str, Any]) -> Run:
    schema = data[KEY].get("schema") if isinstance(data[KEY], dict) else None
    if isinstance(schema, int) and schema not in migrations.RUNS:
        advice = "measure again, or use the version that wrote it"
        raise _error(path, f"its schema number is {schema}, this bitzones reads {_numbers()}: {advice}")
    try:
        return Run.model_validate(migrations.run(data[KEY]))
    except ValidationError as error:
        raise _error(path, f"key 'bitzones': {_first(error, ())}") from error


def _numbers() -> str:
    return " and ".join(str(number) for number in migrations.RUNS)


def _took(benchmark: Mapping[str, Any]) -> float | None:
    """Seconds of all rounds together, as pytest-benchmark recorded them; None where the file lacks them."""
    stats = benchmark.get("stats")
    total = stats.get("total") if isinstance(stats, dict) else None
    return float(total) if isinstance(total, int | float) and not isinstance(total, bool) and 0 <= total <= MOST_SECONDS else None


def _cell(path: Path | str, benchmark: Any, timings: Mapping[str, Timing]) -> Cell | None:
    """The cell of one benchmark; None for a foreign benchmark."""
    extra = benchmark.get("extra_info") if isinstance(benchmark, dict) else None
    if not isinstance(extra, dict) or KEY not in extra:
        return None
    cell, name = extra[KEY], str(benchmark.get("fullname", "without a name"))
    schema = cell.get("schema") if isinstance(cell, dict) else None
    if isinstance(schema, int) and schema not in migrations.RUNS:
        raise _error(path, f"benchmark {name}: its schema number is {schema}, this bitzones reads {_numbers()}")
    try:
        return _named(_CELL.validate_python(migrations.cell(cell)), timings)
    except ValidationError as error:
        kind = cell.get("kind") if isinstance(cell, dict) else None
        raise _error(path, f"benchmark {name}: {_first(error, (kind,))}") from error


def _named(cell: Cell, timings: Mapping[str, Timing]) -> Cell:
    """A failed latency cell with its timing named as in a result."""
    if isinstance(cell, FailedCell) and cell.of == "latency" and cell.detail in timings:
        return cell.model_copy(update={"detail": timings[cell.detail].name})
    return cell


def _first(error: ValidationError, tags: tuple[Any, ...]) -> str:
    """The first mistake: its path in the cell, and what is wrong."""
    first = first_error(error, tags)
    where = first.path or "the cell"
    if first.kind == "finite_number":
        return f"{where} is {first.value}, not a finite number{first.more}"
    return f"{where}: {first.message}{first.more}"
