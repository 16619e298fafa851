"""Many architectures in processes of their own: a crash in one is a result too."""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import tempfile
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
import transformers
from scripts.zoo.specimen import Found, examine

from bitzones.api import analyzing, planning  # noqa: F401  (loaded before gc.freeze, which makes the many collections of a run cheap)
from bitzones.run import session  # noqa: F401

__all__ = ["examined"]


def examined(names: Collection[str], processes: int) -> Iterator[Found]:
    """What becomes of each architecture, as it is known; the models are made in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
        waiting = set(names)
        while waiting:  # once more than once only where a process crashes, which takes the others of its pool with it
            for found in _in_pool(waiting, processes, Path(folder)):
                waiting.discard(found.name)
                yield found
            if waiting and processes > 1:
                processes = 1


def _in_pool(names: Collection[str], processes: int, folder: Path) -> Iterator[Found]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_begin) as pool:
        jobs: dict[Future[Found], str] = {pool.submit(_one, name, folder): name for name in sorted(names)}
        for job in as_completed(jobs):
            try:
                yield job.result()
            except BrokenProcessPool:
                if processes == 1:
                    yield Found(jobs[job], "fault", line="the process that measures it ends")
                return


def _begin() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    gc.collect()
    gc.freeze()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # progress of each run
        os.dup2(nowhere, stream)


def _end_with_parent() -> None:
    """Of a pool whose parent is killed, the workers would go on for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _one(name: str, folder: Path) -> Found:
    place = folder / name.replace(":", "_")
    place.mkdir()
    try:
        return examine(name, place)
    finally:
        shutil.rmtree(place)
