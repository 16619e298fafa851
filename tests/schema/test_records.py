"""The door between measuring and deciding refuses what is not a number, not known or not consistent."""

from __future__ import annotations

import math
from typing import Any

import make_run
import pytest
from pydantic import TypeAdapter, ValidationError

from bitzones.schema.cells import Cell
from bitzones.schema.record import Figure
from bitzones.schema.run_record import Run

CELL: TypeAdapter[Any] = TypeAdapter(Cell)


def cell(kind: str) -> dict[str, Any]:
    """A right cell of a kind, as it lies in a run file."""
    found: dict[str, Any] = next(
        b["extra_info"]["bitzones"] for b in make_run.run_dict()["benchmarks"] if b["extra_info"]["bitzones"]["kind"] == kind
    )
    return found


def refused(data: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        CELL.validate_python(data)
    return str(caught.value)


KINDS = ["accuracy", "latency", "memory", "layers", "sensitivity", "divergence"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_comes_back_from_json_as_it_was(kind: str) -> None:
    record = CELL.validate_python(cell(kind))
    text = record.model_dump_json()
    assert CELL.validate_json(text) == record
    assert '"schema":4' in text
    assert "schema_number" not in text


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_key_is_refused(kind: str) -> None:
    assert "Extra inputs are not permitted" in refused({**cell(kind), "extra": 1})


@pytest.mark.parametrize("kind", KINDS)
def test_another_schema_is_refused(kind: str) -> None:
    assert "Input should be 4" in refused({**cell(kind), "schema": 1})


def test_a_kind_that_is_not_known_is_refused() -> None:
    assert "does not match any of the expected tags" in refused({**cell("memory"), "kind": "taste"})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_what_is_not_a_number_of_its_kind_is_refused(bad: float) -> None:
    latency, divergence, accuracy = cell("latency"), cell("divergence"), cell("accuracy")
    refused({**latency, "rounds_s": [bad, *latency["rounds_s"][1:]]})
    refused({**divergence, "kl_nats": [bad, *divergence["kl_nats"][1:]]})
    refused({**accuracy, "chance": [bad, *accuracy["chance"][1:]]})


def test_a_record_cannot_be_changed() -> None:
    record = CELL.validate_python(cell("memory"))
    with pytest.raises(ValidationError, match="frozen"):
        record.stored_bytes = 0


@pytest.mark.parametrize(("value", "status"), [(None, "ok"), (0.0, "not measured (no CUDA device)")])
def test_a_figure_is_null_unless_it_is_ok(value: float | None, status: str) -> None:
    with pytest.raises(ValidationError, match="value must be a number when status is 'ok' and null otherwise"):
        Figure(value=value, unit="bytes", status=status)
    assert Figure(value=None, unit="bytes", status="why").value is None
    assert Figure(value=0.0, unit="bytes", status="ok").value == 0.0


COLUMNS = (
    "item_ids",
    "correct",
    "predictions",
    "chance",
    "gold_nll_nats",
    "gold_tokens",
    "correct_normalized",
    "predictions_normalized",
)


@pytest.mark.parametrize("key", COLUMNS)
def test_items_of_different_lengths_are_refused(key: str) -> None:
    accuracy = cell("accuracy")
    assert "differ in length" in refused({**accuracy, key: accuracy[key][1:]})


def test_no_items_and_repeated_items_are_refused() -> None:
    accuracy = cell("accuracy")
    assert "no items" in refused({**accuracy, **{key: [] for key in COLUMNS}})
    assert "no answer has a token" in refused({**accuracy, "gold_tokens": [0] * len(accuracy["item_ids"])})
    ids = accuracy["item_ids"]
    assert "an item id occurs twice" in refused({**accuracy, "item_ids": [ids[1], *ids[1:]]})


def test_sensitivity_that_does_not_fit_its_cell_is_refused() -> None:
    sensitivity = cell("sensitivity")
    first, *others = sensitivity["measurements"]
    assert "is not one of the units" in refused({**sensitivity, "measurements": [{**first, "unit": "model.layers.99"}, *others]})
    assert "occurs twice" in refused({**sensitivity, "measurements": [first, first, *others]})
    shorter = {**first, "kl_nats": first["kl_nats"][1:]}
    assert f"has {len(first['kl_nats']) - 1} sequences" in refused({**sensitivity, "measurements": [shorter, *others]})
    divergence = cell("divergence")
    assert "kl_nats and sequence_tokens differ in length" in refused({**divergence, "kl_nats": divergence["kl_nats"][1:]})


@pytest.mark.parametrize("change", [{"kl_nats": None, "failure": None}, {"failure": "and yet it was measured"}])
def test_a_unit_is_measured_or_failed(change: dict[str, Any]) -> None:
    sensitivity = cell("sensitivity")
    first, *others = sensitivity["measurements"]
    assert "exactly one of kl_nats and failure" in refused({**sensitivity, "measurements": [{**first, **change}, *others]})
    failed = {**first, "kl_nats": None, "failure": "the changed model's logits are NaN or infinite"}
    assert CELL.validate_python({**sensitivity, "measurements": [failed, *others]}).measurements[0].kl_nats is None


def test_a_sampling_variance_goes_with_its_sequences() -> None:
    sensitivity = cell("sensitivity")
    first, *others = sensitivity["measurements"]
    variance = [0.01 * place for place in range(len(first["kl_nats"]))]
    found = CELL.validate_python({**sensitivity, "measurements": [{**first, "sampling_variance": variance}, *others]})
    part = found.of_sequences([2, 0], "0" * 64).measurements
    assert (part[0].sampling_variance, part[1].sampling_variance) == ((0.02, 0.0), None)
    assert part[0].kl_nats == (first["kl_nats"][2], first["kl_nats"][0])
    wrong = {**first, "sampling_variance": variance[1:]}
    assert "sampling_variance must have a value for each of kl_nats" in refused({**sensitivity, "measurements": [wrong, *others]})


def test_a_run_comes_back_from_json_as_it_was() -> None:
    run = Run.model_validate(make_run.run_dict()["bitzones"])
    assert Run.model_validate_json(run.model_dump_json()) == run
    assert (run.model_dump(mode="json")["schema"], run.model_dump(mode="json")["profile"]["schema"]) == (4, 2)
