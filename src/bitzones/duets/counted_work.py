"""Does the deciding side's work in a side's Python, with that side's bitzones, and has one pass of each counted.

Passed to ``python -c``, so it stands alone, and uses public functions only, which older releases have too. Arguments: ``own`` or ``given``
(use the source that is given) or ``either`` (as `side_start`); the folder of the source; the counter and its file (`instruction_counters`);
the run file; a folder to write to; the works, separated by commas.

Each work is done once before it is counted, so that imports and what is cached are not. Garbage is not collected while it is counted: a
collection walks all that the process has imported, and one object more or less moves it into a pass or out of it.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

__all__: list[str] = []


def _works(bitzones: ModuleType, run: str, folder: Path) -> dict[str, Callable[[], object]]:
    twin = str(folder / "twin.json")  # a file is not compared with itself
    shutil.copyfile(run, twin)
    return {
        "collect": lambda: bitzones.analyze(run),
        "report": lambda: bitzones.write_report(run, folder / "report"),
        "compare": lambda: bitzones.compare(run, twin).to_markdown(),
    }


def _switch(counter: str, place: str) -> Callable[[str], None]:
    """Begins to count at "", and stops at the name of the work."""
    if counter == "callgrind":
        library = ctypes.CDLL(place)
        return lambda work: library.counting_ends(work.encode()) if work else library.counting_begins()
    control = Path(f"{place}.control").open("w", encoding="ascii")  # noqa: SIM115 (both are open until the process ends)
    answers = Path(f"{place}.answers").open(encoding="ascii")  # noqa: SIM115

    def tell(work: str) -> None:
        control.write("disable\n" if work else "enable\n")
        control.flush()
        answers.readline()

    return tell


def _start(whose: str, source: str, counter: str, place: str, run: str, folder: str, chosen: str) -> None:
    if whose != "either" or importlib.util.find_spec("bitzones") is None:
        sys.path.insert(0, source)
    switch = _switch(counter, place)
    works = _works(importlib.import_module("bitzones"), run, Path(folder))
    for name in chosen.split(","):
        works[name]()
        gc.collect()
        gc.disable()
        switch("")
        works[name]()
        switch(name)
        gc.enable()


if __name__ == "__main__":
    _start(*sys.argv[1:8])
