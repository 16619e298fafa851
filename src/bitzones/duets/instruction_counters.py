"""What counts the instructions of a process here: ``perf stat``, where the system lets it, else valgrind's callgrind.

Both count only while the process asks them to: perf is switched through a named pipe, callgrind by a library of two functions that is
compiled with valgrind's header. Under callgrind a process is 5 times as slow while nothing is counted, and 50 to 100 times while it is.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from bitzones.schema.errors import MeasureError, NotMeasuredError
from bitzones.schema.instructions_cell import Counter, Work

__all__ = ["Callgrind", "InstructionCounter", "Perf", "instruction_counter"]

TRIAL_S = 60
"""For finding out what there is: compiling two functions, counting ``true``."""

SWITCHES = """#include <valgrind/callgrind.h>
void counting_begins(void) { CALLGRIND_START_INSTRUMENTATION; CALLGRIND_ZERO_STATS; }
void counting_ends(const char *work) { CALLGRIND_DUMP_STATS_AT(work); CALLGRIND_STOP_INSTRUMENTATION; }
"""


class InstructionCounter(Protocol):
    """A way of counting."""

    @property
    def name(self) -> Counter:
        """As a cell has it."""
        ...

    def groups(self, works: Sequence[Work]) -> list[tuple[Work, ...]]:
        """The works that one process can do."""
        ...

    def prepared(self, folder: Path) -> tuple[list[str], str]:
        """What a command begins with, and what its process is told to switch."""
        ...

    def counts(self, folder: Path, works: Sequence[Work]) -> dict[Work, int]:
        """What was counted, when the process has ended.

        Raises:
            MeasureError: nothing was counted.
        """
        ...


class Perf:
    """The processor's own counter, of what runs outside the kernel. It costs no time, and has one sum a process.

    Args:
        event: another one, where instructions are not to be had and the mechanism is to be seen.
    """

    name: Counter = "perf"

    def __init__(self, event: str = "instructions:u") -> None:
        self.event = event

    def groups(self, works: Sequence[Work]) -> list[tuple[Work, ...]]:
        return [(work,) for work in works]

    def prepared(self, folder: Path) -> tuple[list[str], str]:
        place = folder / "perf"
        for end in ("control", "answers"):
            os.mkfifo(f"{place}.{end}")
        control = f"--control=fifo:{place}.control,{place}.answers"
        return ["perf", "stat", "-x,", "-e", self.event, "--delay=-1", control, "-o", f"{place}.csv", "--"], str(place)

    def counts(self, folder: Path, works: Sequence[Work]) -> dict[Work, int]:
        lines = (folder / "perf.csv").read_text(encoding="ascii").splitlines()
        found = [line.split(",")[0] for line in lines if f",{self.event}," in line]
        if len(found) != 1 or not re.fullmatch(r"[\d.]+", found[0]):
            raise MeasureError(f"perf counted nothing: {' '.join(lines)[:200]}")
        return {works[0]: round(float(found[0]))}


class Callgrind:
    """valgrind's simulation of a processor. It counts what the process does and nothing of the machine.

    Args:
        library: with the two switches.
    """

    name: Counter = "callgrind"

    def __init__(self, library: Path) -> None:
        self.library = library

    def groups(self, works: Sequence[Work]) -> list[tuple[Work, ...]]:
        return [tuple(works)]

    def prepared(self, folder: Path) -> tuple[list[str], str]:
        options = ["--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder / 'callgrind.out'}"]
        return ["valgrind", "-q", *options], str(self.library)

    def counts(self, folder: Path, works: Sequence[Work]) -> dict[Work, int]:
        found = {}
        for part in folder.glob("callgrind.out.*"):
            text = part.read_text(encoding="utf-8", errors="replace")
            name = re.search(r"^desc: Trigger: Client Request: (\w+)$", text, re.MULTILINE)
            total = re.search(r"^totals: (\d+)$", text, re.MULTILINE)
            if name and total:
                found[name[1]] = int(total[1])
        if missed := [work for work in works if not found.get(work)]:
            raise MeasureError(f"callgrind counted nothing of {', '.join(missed)}")
        return {work: found[work] for work in works}


def instruction_counter(folder: Path) -> InstructionCounter:
    """What counts here.

    Args:
        folder: for what has to be compiled.

    Raises:
        NotMeasuredError: nothing does; one line says why.
    """
    if (no_perf := _no_perf()) is None:
        return Perf()
    library = folder / "switches.so"
    if (no_callgrind := _no_callgrind(library)) is None:
        return Callgrind(library)
    raise NotMeasuredError(f"instructions cannot be counted here: {no_perf}; {no_callgrind}")


def _no_perf() -> str | None:
    if shutil.which("perf") is None:
        return "there is no perf"
    said = _tried(["perf", "stat", "-x,", "-e", "instructions:u", "true"])
    return None if re.match(r"\d+,", said) else "perf has no instructions:u (a virtual machine, or kernel.perf_event_paranoid above 2)"


def _no_callgrind(library: Path) -> str | None:
    compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if shutil.which("valgrind") is None:
        return "there is no valgrind"
    if compiler is None:
        return "there is no C compiler to switch valgrind with"
    source = library.with_suffix(".c")
    source.write_text(SWITCHES, encoding="ascii")
    said = _tried([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source)])
    return None if library.is_file() else f"valgrind's switches do not compile ({(said.splitlines() or ['no reason given'])[0][:120]})"


def _tried(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """What a command says on standard error; perf writes its counts there."""
    try:
        return subprocess.run(  # noqa: S603 (perf, or the system's compiler)
            list(command), capture_output=True, text=True, check=False, timeout=TRIAL_S, env=environment
        ).stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
