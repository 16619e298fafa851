"""Instructions that a command of the deciding side executes: a figure of code that other processes on the machine do not move."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bitzones.schema.record import Measured, Positive

__all__ = ["Counter", "InstructionsCell", "Work"]

Work = Literal["collect", "report", "compare"]
"""What is counted: a run that is analyzed, its report written, and the run compared with itself."""

Counter = Literal["perf", "callgrind"]
"""What counted: the processor, or valgrind's simulation of one. Their counts do not agree."""


class InstructionsCell(Measured):
    """Instructions of one work on one run file. Each of ``counts`` is of a process of its own, in which the same was done once before.

    ``run_sha256`` is of the run file: counts of other files are not compared.
    """

    kind: Literal["instructions"] = "instructions"
    variant: str = ""
    work: Work
    counter: Counter
    run_sha256: str
    counts: tuple[Positive, ...] = Field(min_length=1)

    @property
    def _detail(self) -> str:
        return self.work
