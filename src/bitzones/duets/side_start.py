"""Starts a side in another environment's Python, which may have another bitzones, or none. Passed to ``python -c``, so it stands alone.

Arguments: ``own`` (the bitzones in ``source`` or in the environment is what is measured), ``given`` (use the source that is given) or
``either`` (its own where that knows the protocol); the folder of the source; cores, separated by commas; threads.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys

__all__: list[str] = []


def _knows_protocol() -> bool:
    try:
        return importlib.util.find_spec("bitzones.run.duet_worker") is not None
    except ImportError:
        return False


def _forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "bitzones"]:
        del sys.modules[name]


def _start(whose: str, source: str, cores: str, threads: str) -> None:
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    os.environ["OMP_NUM_THREADS"] = threads
    if whose != "either":
        sys.path.insert(0, source)
    elif not _knows_protocol():
        _forget()
        sys.path.insert(0, source)
        whose = "given"
    if not _knows_protocol():
        version = getattr(sys.modules.get("bitzones"), "__version__", "")
        said = f"its bitzones {version} is too old for duets" if version else "it has no bitzones"
        sys.stdout.write(json.dumps({"error": said, "status": "unusable"}) + "\n")
        return
    try:
        worker = importlib.import_module("bitzones.run.duet_worker")
    except ImportError as error:
        sys.stdout.write(json.dumps({"error": f"its Python cannot measure: {error}", "status": "unusable"}) + "\n")
        return
    worker.main("given" if whose == "given" else "own")


if __name__ == "__main__":
    _start(*sys.argv[1:5])
