"""The short form of ``scripts/fuzz_run_files.py``: hostile run files give one clear error or a report, and the search can find a fault."""

from __future__ import annotations

import json
import random
import runpy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from make_run import cell_of

from bitzones.analysis.analyze import read_run
from bitzones.analysis.reader import RunFile
from bitzones.schema.errors import RunFileError

SCRIPT = Path(__file__).parents[1] / "scripts" / "fuzz_run_files.py"


@pytest.fixture(scope="module")
def fuzz() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def good(fuzz: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    path = tmp_path_factory.mktemp("good") / "good.json"
    path.write_text(fuzz["good_text"](), encoding="utf-8")
    return read_run(path)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_hostile_files_are_refused_or_reported(fuzz: dict[str, Any], good: RunFile, tmp_path: Path, seed: int) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(fuzz["hostile"](random.Random(seed), fuzz["good_text"]()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fuzz["tried"](path, good) in {"refused", "reported"}


@pytest.mark.parametrize("number", [1e308, 1e155, 10**400, -1e308])
@pytest.mark.parametrize("column", ["kl_nats", "rounds_s", "gold_nll_nats", "nats", "stored_bytes"])
def test_finite_and_absurd(fuzz: dict[str, Any], tmp_path: Path, column: str, number: float) -> None:
    def absurd(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: ([number] * len(item) if isinstance(item, list) else number) if key == column else absurd(item)
                for key, item in value.items()
            }
        return [absurd(item) for item in value] if isinstance(value, list) else value

    path = tmp_path / "run.json"
    path.write_text(json.dumps(absurd(json.loads(fuzz["good_text"]()))), encoding="utf-8")
    with pytest.raises(RunFileError, match=rf"{column}|valid|less than|greater than"):
        read_run(path)


def _a_model_of(layers: int, data: Any) -> None:
    data["bitzones"]["model"]["layers"] = layers


def _a_unit_at(layer: int, data: Any) -> None:
    cell_of(data, "sensitivity")["units"][0]["layer"] = layer


@pytest.mark.parametrize("number", [2**31, 2**60])
@pytest.mark.parametrize("change", [_a_model_of, _a_unit_at])
def test_more_layers_than_memory_can_list_are_refused(
    fuzz: dict[str, Any], tmp_path: Path, change: Callable[[int, Any], None], number: int
) -> None:
    data = json.loads(fuzz["good_text"]())
    change(number, data)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(RunFileError, match=r"layer.* less than or equal to 10000"):
        read_run(path)


def _no_layers(data: Any, _bad: str) -> None:
    data["bitzones"]["model"]["layers"] = 0


def _reference_untimed(data: Any, _bad: str) -> None:
    for item in cell_of(data, "unit_latency")["times"]:
        item["format"] = "qint9" if item["format"] == "bf16" else item["format"]


def _format_of_markup(data: Any, bad: str) -> None:
    for item in cell_of(data, "unit_latency")["times"]:
        item["format"] = bad if item["format"] == "qint8" else item["format"]


def _no_time_at_all(data: Any, _bad: str) -> None:
    cell_of(data, "accuracy")["seconds_s"] = 5e-324


def _nearly_no_kl(data: Any, _bad: str) -> None:
    rival = cell_of(data, "plans")["plans"][1]
    rival["kl_nats"] = [1e-310] * len(rival["kl_nats"])


@pytest.mark.parametrize("change", [_no_layers, _reference_untimed, _format_of_markup, _no_time_at_all, _nearly_no_kl])
def test_what_a_search_has_found_is_reported(
    fuzz: dict[str, Any], good: RunFile, tmp_path: Path, change: Callable[[Any, str], None]
) -> None:
    data = json.loads(fuzz["good_text"]())
    change(data, fuzz["BAD_TEXT"])
    path = tmp_path / "run.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fuzz["tried"](path, good) == "reported"


def test_a_report_that_forgets_to_escape_would_be_found(fuzz: dict[str, Any], good: RunFile, tmp_path: Path) -> None:
    data = json.loads(fuzz["good_text"]())
    data["bitzones"]["model"]["source"] = fuzz["BAD_TEXT"]
    path = tmp_path / "run.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    assert fuzz["tried"](path, good) == "reported"
    fuzz["tried"].__globals__["delta"] = lambda comparison, code: comparison.old.model
    with pytest.raises(AssertionError, match="unescaped"):
        fuzz["tried"](path, good)
