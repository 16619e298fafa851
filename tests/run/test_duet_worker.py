"""One side of a duet on the embedded model: what it answers, that its times are those of a call, and that both ways measure one thing."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pydantic import TypeAdapter

from bitzones.run import call_clock
from bitzones.run.call_clock import timed_call
from bitzones.run.duet_worker import Worker, ways
from bitzones.schema import profile_files
from bitzones.schema.cells import Cell
from bitzones.schema.quality_cells import AccuracyCell, DivergenceCell
from bitzones.schema.run_record import Run

CELLS: TypeAdapter[list[Cell]] = TypeAdapter(list[Cell])


@pytest.fixture(scope="module", params=["session", "basic"])
def loaded(request: pytest.FixtureRequest) -> tuple[Worker, dict[str, Any]]:
    chosen = profile_files.load("duet").resolved(limit=8)
    small = chosen.model_copy(update={"formats": ("qint8", "qint2"), "sensitivity": chosen.sensitivity.model_copy(update={"tokens": 200})})
    worker = Worker("given")
    return worker, worker.answer({"do": "load", "profile": small.model_dump_json(by_alias=True), "way": request.param})


def test_it_greets_with_its_protocol_and_ways() -> None:
    found = Worker("own").answer({"do": "hello"})
    assert (found["protocol"], found["source"], found["ways"]) == (1, "own", ["session", "basic"])
    assert ways() == ["session", "basic"]


def test_it_says_what_it_loaded_and_can_time(loaded: tuple[Worker, dict[str, Any]]) -> None:
    _, answer = loaded
    run = Run.model_validate(answer["run"])
    assert run.model is not None
    assert {cell["variant"] for cell in answer["cells"]} == {"bf16", "w8", "w2"}
    assert {"prefill-b1-p32", "decode-b1-p32-n4"} < {cell["detail"] for cell in answer["cells"]}
    assert {cell["kind"] for cell in answer["cells"]} == {"latency", "unit_latency"}


def test_every_cell_of_a_variant_is_timed(loaded: tuple[Worker, dict[str, Any]]) -> None:
    worker, answer = loaded
    for cell in [cell for cell in answer["cells"] if cell["variant"] == "w8"]:
        prepared = worker.answer({"do": "prepare", "cell": cell})
        assert prepared["shape"] == cell["detail"]
        calls = worker.answer({"do": "round", "cell": cell, "calls": 2})["calls"]
        assert len(calls) == 2
        assert all(0 <= queued <= wall for wall, queued in calls)
        assert min(wall for wall, _ in calls) > 0.3 * prepared["seconds"]


def test_what_is_no_time_is_measured_too(loaded: tuple[Worker, dict[str, Any]]) -> None:
    worker, _ = loaded
    cells = CELLS.validate_python(worker.answer({"do": "checks"})["cells"])
    assert {cell.variant for cell in cells if isinstance(cell, DivergenceCell)} == {"w8", "w2"}
    assert len([cell for cell in cells if isinstance(cell, AccuracyCell)]) == 6
    assert {cell.kind for cell in cells} >= {"memory", "accuracy", "divergence"}
    assert "failed" not in {cell.kind for cell in cells}


def test_a_model_that_was_unloaded_comes_back(loaded: tuple[Worker, dict[str, Any]]) -> None:
    worker, answer = loaded
    question = {"do": "prepare", "cell": answer["cells"][0]}
    kept = worker._bench
    assert worker.answer({"do": "unload"}) == {}
    assert worker.answer(question) == {"error": "'prepare' was asked before a profile was loaded", "status": "failed"}
    worker._bench = kept
    assert "seconds" in worker.answer(question)


def test_what_it_does_not_understand_is_an_answer() -> None:
    worker = Worker("given")
    assert worker.answer({"do": "load", "profile": "{", "way": "session"})["status"] == "failed"
    assert worker.answer({})["status"] == "failed"


def test_sleeping_is_time_and_not_a_wait_for_a_core() -> None:
    found = timed_call(lambda: time.sleep(0.05))
    assert found.wall_s >= 0.05
    assert found.wall_s - found.queued_s >= 0.045


def test_waiting_for_a_core_is_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready at 5 ms of waits, at 25 ms after the call: a wait between the readings of both clocks is read again."""
    readings = iter([5_000_000, 5_000_000, 20_000_000, 25_000_000, 25_000_000])
    monkeypatch.setattr(call_clock, "queued_ns", lambda: next(readings))
    found = timed_call(lambda: time.sleep(0.03))
    assert found.queued_s == pytest.approx(0.02)
    assert found.wall_s >= 0.03
