"""Every error that a user can cause is one line, and all of them are one kind."""

from __future__ import annotations

import pytest

from bitzones.schema import errors
from bitzones.schema.errors import BitzonesError, MeasureError


@pytest.mark.parametrize("name", errors.__all__)
def test_an_error_is_one_line(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, BitzonesError)
    assert str(kind("what\n  where\tand   why\n")) == "what where and why"


@pytest.mark.parametrize("name", ["ModelError", "TaskError", "DeviceError", "NonFiniteError", "NotMeasuredError"])
def test_what_fails_a_cell_is_a_measure_error(name: str) -> None:
    assert issubclass(getattr(errors, name), MeasureError)


@pytest.mark.parametrize("name", ["ProfileError", "RunFileError", "PlanError", "OutputError"])
def test_what_stops_before_measuring_is_none(name: str) -> None:
    assert not issubclass(getattr(errors, name), MeasureError)
