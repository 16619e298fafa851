"""Cells of a kind of one's own: registered, read back typed, or read as they stand where nobody has imported their class."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import make_run
import pytest
from pydantic import TypeAdapter, ValidationError

from bitzones.analysis.analyze import analyse
from bitzones.analysis.reader import read_run
from bitzones.run.journal import Entry
from bitzones.schema import kinds
from bitzones.schema.cells import Cell, FailedCell, OwnCell, UnknownCell
from bitzones.schema.errors import RunFileError

CELL: TypeAdapter[Any] = TypeAdapter(Cell)
ENERGY = {"schema": 4, "variant": "w4", "kind": "acme.energy", "joules": 2.5, "rounds": [1.0, 1.5]}


class EnergyCell(OwnCell):
    kind: Literal["acme.energy"] = "acme.energy"
    joules: float
    rounds: tuple[float, ...]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(kinds, "_REGISTERED", {})
    kinds.register(EnergyCell)
    return


def test_a_registered_kind_comes_back_as_its_class(registered: None) -> None:
    found = CELL.validate_python(ENERGY)
    assert found == EnergyCell(variant="w4", joules=2.5, rounds=(1.0, 1.5))
    assert CELL.validate_json(CELL.dump_json(found)) == found
    entry = Entry(bench="b", rounds_s=(1.0,), cell=found)
    assert Entry.model_validate_json(entry.model_dump_json()) == entry


def test_a_mistake_in_a_registered_kind_is_found(registered: None) -> None:
    for wrong in ({"joules": "many"}, {"joles": 1.0}, {"joules": math.nan}):
        with pytest.raises(ValidationError):
            CELL.validate_python({**ENERGY, **wrong})


def test_an_unknown_kind_is_kept_as_it_stands() -> None:
    found = CELL.validate_python(ENERGY)
    assert isinstance(found, UnknownCell)
    assert (found.kind, found.variant, found.joules) == ("acme.energy", "w4", 2.5)  # type: ignore[attr-defined]
    assert CELL.dump_python(found, mode="json") == {**ENERGY, "shortages": [], "detail": ""}


@pytest.mark.parametrize("value", [math.nan, math.inf, [1.0, {"deep": -math.inf}]])
def test_an_unknown_kind_holds_finite_numbers(value: Any) -> None:
    with pytest.raises(ValidationError, match="not a finite number"):
        CELL.validate_python({**ENERGY, "joules": value})


@pytest.mark.parametrize("kind", ["memry", "Acme.Energy", "acme.", ".energy", "acme energy", ""])
def test_a_kind_that_is_neither_built_in_nor_of_an_owner_is_refused(kind: str) -> None:
    with pytest.raises(ValidationError):
        CELL.validate_python({**ENERGY, "kind": kind})


def test_a_failed_cell_stands_for_any_kind_that_there_can_be() -> None:
    assert FailedCell(variant="w4", of="acme.energy", reason="no meter").of == "acme.energy"
    with pytest.raises(ValidationError, match="'memry' is no kind of cell: accuracy, perplexity, latency"):
        FailedCell(variant="w4", of="memry", reason="none")


def test_what_cannot_be_registered_says_why(registered: None) -> None:
    class Nameless(OwnCell):
        joules: float

    class Bare(OwnCell):
        kind: Literal["energy"] = "energy"

    class Second(OwnCell):
        kind: Literal["acme.energy"] = "acme.energy"

    for wrong, said in (
        (Nameless, "needs a default of the form"),
        (Bare, "needs a default of the form"),
        (Second, "is registered by EnergyCell"),
    ):
        with pytest.raises(TypeError, match=said):
            kinds.register(wrong)
    assert kinds.register(EnergyCell) is EnergyCell


def run_with(folder: Path, *cells: dict[str, Any]) -> Path:
    data = make_run.run_dict()
    data["benchmarks"] += [{"name": str(n), "fullname": str(n), "extra_info": {"bitzones": cell}} for n, cell in enumerate(cells)]
    return make_run.write(folder, data)


def test_a_run_with_cells_of_unknown_kinds_is_analyzed_and_counts_them(tmp_path: Path) -> None:
    found = read_run(run_with(tmp_path, ENERGY, {**ENERGY, "detail": "idle"}))
    assert len(found.of(UnknownCell)) == 2
    assert {item.of: item.cells for item in analyse(found).took}["acme.energy"] == 2


def test_the_same_cell_twice_is_found_whatever_its_kind(tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match=r"duplicate cells: acme.energy w4 +occurs twice"):
        read_run(run_with(tmp_path, ENERGY, ENERGY))
