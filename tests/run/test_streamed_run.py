"""A run whose model stays in its files finds the plan of a run whose model is in memory, and refuses the rest in a line each."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models

from bitzones.run.session import Session
from bitzones.schema import profile_files
from bitzones.schema.errors import NotMeasuredError
from bitzones.schema.profile import PLAN


def session(place: Path, source: Path, placement: str) -> Session:
    changes = {
        "formats": 'formats = ["qint4", "qint2"]',
        "model": f'[model]\nsource = "{source}"\nplacement = "{placement}"',
        "tasks": '[[tasks]]\nname = "science_mini"\nlimit = 4',
        "sensitivity": "[sensitivity]\ntokens = 120\nbatch = 4",
        "held_out": "[held_out]\ntokens = 120",
        "plans": "[plans]\nrounds = 1\nrandom = 1",
    }
    place.write_text(tiny_models.profile_text("", **changes))
    return Session(profile_files.load(str(place)))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, Session]:
    folder = tmp_path_factory.mktemp("run")
    source = tiny_models.save(folder / "model")
    memory, streamed = (session(folder / f"{placement}.toml", source, placement) for placement in ("memory", "stream"))
    return memory, streamed


def test_sweep_search_and_comparison_are_those_of_a_run_in_memory(both: tuple[Session, Session]) -> None:
    memory, streamed = both
    streamed.check_invariants()
    assert streamed.sweep() == memory.sweep()
    assert streamed.search() == memory.search()
    assert streamed.compare() == memory.compare()
    streamed.ready(PLAN)
    assert streamed.divergence(PLAN).kl_nats == pytest.approx(streamed.search().found.kl_nats, rel=1e-6)


def test_what_is_not_measured_is_refused(both: tuple[Session, Session]) -> None:
    _, streamed = both
    for refused in (lambda: streamed.model("bf16"), streamed.unit_times, lambda: streamed.hardware.ready("w4", "prefill-b1-p8")):
        with pytest.raises(NotMeasuredError, match="needs the whole model in memory"):
            refused()
