"""Every error that a user can cause, so that the command line prints one line and never a traceback.

    BitzonesError                    exit 2: something the user can mend; the message says what, where and what to do
    ├── ProfileError                 a profile that is missing, unreadable or wrong
    ├── RunFileError                 a run file that is truncated, foreign, inconsistent or lacks what was asked of it
    ├── PlanError                    no plan can meet the budget, or a plan file that is wrong
    ├── OutputError                  a place that cannot be written
    ├── ArgumentError                a function was given something else than it takes
    ├── MissingPackageError          a package of an extra is not installed; the message names the extra
    └── MeasureError                 measuring could not start, or one cell failed
        ├── ModelError               a model that cannot be loaded or quantized
        ├── TaskError                a task that is unknown, empty or malformed
        ├── DeviceError              a device that was asked for and is not there
        ├── DuetError                a side of a duet cannot be started, crashed, hung, or measures something else than the other
        ├── ServerError              a served model cannot be reached or gives no usable answer: bitzones monitor exits with 3
        ├── NonFiniteError           a measurement came out as NaN or infinity
        └── NotMeasuredError         this machine cannot give an honest number: said in the report, and no failure

A `BitzonesWarning` is one line too, and ends nothing. A bug raises anything else, and shows its traceback.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ArgumentError",
    "BitzonesError",
    "BitzonesWarning",
    "DeviceError",
    "DuetError",
    "MeasureError",
    "MissingPackageError",
    "ModelError",
    "NonFiniteError",
    "NotMeasuredError",
    "OutOfMemoryError",
    "OutputError",
    "PlanError",
    "ProfileError",
    "RunFileError",
    "ServerError",
    "TaskError",
]


class BitzonesError(Exception):
    """Base of all errors that a user can mend; ``str(error)`` is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class BitzonesWarning(UserWarning):
    """Something works, and the user should change it all the same: an old name in a profile."""


class ProfileError(BitzonesError):
    """A profile is missing, unreadable or holds a value that is not allowed."""


class RunFileError(BitzonesError):
    """A run file is not what it should be."""


class PlanError(BitzonesError):
    """No plan exists within the budget, or a plan cannot be used."""


class OutputError(BitzonesError):
    """A result cannot be written where it was asked for."""


class ArgumentError(BitzonesError):
    """A function was given something else than it takes."""


class MissingPackageError(BitzonesError):
    """A package of an extra is not installed; the message names the extra."""


class MeasureError(BitzonesError):
    """A measurement could not be made."""


class ModelError(MeasureError):
    """A model cannot be loaded or quantized."""


class TaskError(MeasureError):
    """A task is unknown, empty or malformed."""


class DeviceError(MeasureError):
    """A device that was asked for is not there."""


class DuetError(MeasureError):
    """A side of a duet cannot be started, crashed, hung, or measures something else than the other side."""


class ServerError(MeasureError):
    """A served model cannot be reached, or gives no usable answer: nothing is known of the model itself."""


class NonFiniteError(MeasureError):
    """A measured quantity is NaN or infinite."""


class NotMeasuredError(MeasureError):
    """This machine cannot give an honest number for a cell."""


class OutOfMemoryError(MeasureError):
    """Memory ran out at the smallest batch too; ``shortages`` are the records of every try."""

    def __init__(self, message: str, shortages: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.shortages = shortages
