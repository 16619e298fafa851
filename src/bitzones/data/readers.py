"""Where the rows of a task come from: a folder in the hub's layout, a file of the user's own, or the hub; nothing of what they mean.

All is read through `datasets`, streamed: a piece of a file at a time is in memory, nothing is copied into a cache, and a file that was
changed is read as it is now. A data set of the hub is downloaded once, by the hub's own client: its commit is known, its cache is shared
and written atomically, and what is there is used where there is no network. No data set's code is ever run: `datasets` no longer can.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from shutil import copytree, ignore_patterns, rmtree
from tempfile import mkdtemp
from typing import Any

import datasets
from datasets.exceptions import DatasetsError
from datasets.utils import logging as datasets_logging
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever client the hub's package is built on
from huggingface_hub.utils import logging as hub_logging
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from bitzones.schema.errors import TaskError

__all__ = ["Source", "hub", "local", "quiet"]

PIECE_BYTES = 1 << 20
"""Of a file of JSON lines that is in memory at a time."""

PIECE_ROWS = 64
"""Rows read at a time: the libraries are silenced and given their voice back once for each piece, which costs as much as reading a row."""

READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".jsonl": ("json", {"chunksize": PIECE_BYTES}),
    ".json": ("json", {"chunksize": PIECE_BYTES}),
    ".parquet": ("parquet", {}),
    ".csv": ("csv", {"na_filter": False}),  # else the answer "None" would be read as no answer
}
"""Ending of a file -> the reader of `datasets` and its options."""

HUB_TIMEOUT_S = 10.0
"""For one answer of the hub; its client would wait for as long by itself, but says so nowhere."""

MESSAGE_LENGTH = 200
"""Characters of a library's message that a line keeps."""

_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_UNREACHABLE = (HTTPError, OSError, ValueError)
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, RuntimeError, DatasetsError)


@dataclass(frozen=True)
class Source:
    """One data set. ``origin`` is what a run file says of it, ``where`` what an error says; ``only`` is the one split of a single file.

    ``path`` is a file, read by ``reader`` with ``options``, or a folder in the hub's layout, of which ``config`` is read.
    """

    origin: str
    where: str
    path: Path = field(repr=False)
    reader: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    config: str | None = None
    only: str | None = None

    def rows(self, split: str) -> Iterator[Mapping[str, Any]]:
        """The rows of a split in their order, one at a time; all rows of a single file, whatever the split.

        Raises:
            TaskError: there is no such split or configuration, or a file cannot be read.
        """
        # datasets treats a path as a pattern, in which [, *, ? and :: have a meaning, so it gets links with plain names.
        scratch = mkdtemp(prefix="bitzones-")  # a TemporaryDirectory warns where an iterator that was begun is left behind in a traceback
        try:
            link = Path(scratch, f"data{self.path.suffix.lower()}" if self.reader else "data")
            rows = self._stream(link, self.only or split)
            while piece := self._next(rows, link):
                yield from piece
        finally:
            rmtree(scratch)

    def _stream(self, link: Path, split: str) -> Iterator[Mapping[str, Any]]:
        if self.reader:
            link.symlink_to(self.path.resolve())
            options = {"path": self.reader, "data_files": {self.only: str(link)}, **self.options}
        else:  # a link to the folder itself would be followed
            copytree(self.path.resolve(), link, ignore=ignore_patterns(".*"), copy_function=os.symlink)
            options = {"path": str(link), "name": self.config}
        # It takes a lock in its cache folder, and writes nothing.
        yield from datasets.load_dataset(**options, split=split, streaming=True, cache_dir=str(link.with_name("cache")))

    def _next(self, rows: Iterator[Mapping[str, Any]], link: Path) -> list[Mapping[str, Any]]:
        """The next rows, none at the end."""
        try:
            with quiet():
                return list(islice(rows, PIECE_ROWS))
        except _UNREADABLE as error:
            if isinstance(error.__cause__, StopIteration):  # how datasets meets an empty file of JSON lines
                return []
            said = str(error).replace(str(link), str(self.path))[:MESSAGE_LENGTH]
            raise TaskError(f"{self.where}: not readable as a data set: {said}") from error


def local(path: Path, config: str | None = None, origin: str | None = None) -> Source:
    """A folder in the hub's layout, of which ``config`` is read, or a file.

    Raises:
        TaskError: there is nothing, or a file of another kind.
    """
    if path.is_dir():
        return Source(origin or " ".join(filter(None, (str(path), config))), str(path), path, config=config)
    if not path.exists():
        raise TaskError(f"{path}: no such file or folder; a task's path is a folder in the hub's layout or a file ({', '.join(READERS)})")
    if path.suffix.lower() not in READERS:
        raise TaskError(f"{path}: not a kind of file that holds a task; these are: {', '.join(READERS)}")
    reader, options = READERS[path.suffix.lower()]
    return Source(origin or str(path), str(path), path, reader, options, only="all")


@cache
def hub(repository: str, config: str | None, cache_folder: Path | None = None) -> Source:
    """A data set of the hub at its present commit, the same for the whole run; offline, at the commit that was downloaded last.

    Args:
        repository: as in ``allenai/ai2_arc``.
        config: as in ``ARC-Easy``.
        cache_folder: where downloads are kept; the hub's own cache where it is left out.

    Raises:
        TaskError: it cannot be had: no network, no such repository, or one that asks for permission.
    """
    try:
        with quiet():
            folder = Path(snapshot_download(repository, repo_type="dataset", cache_dir=cache_folder, etag_timeout=HUB_TIMEOUT_S))
    except _UNREACHABLE as error:
        said = str(error).strip().partition("\n")[0][:MESSAGE_LENGTH]
        raise TaskError(
            f"data set {repository} cannot be had from the hub ({said}): give a local copy, by --bitzones-data FOLDER or a task's path"
        ) from error
    commit = f"@{folder.name}" if _COMMIT.match(folder.name) else ""
    name = " ".join(filter(None, (repository, config)))
    return local(folder, config, origin=f"{name}{commit}")


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no log lines of the libraries: what matters of them is raised, and the terminal has a bar of its own."""
    levels = datasets_logging.get_verbosity(), hub_logging.get_verbosity()
    bars = not are_progress_bars_disabled()
    datasets_logging.set_verbosity(logging.CRITICAL)
    hub_logging.set_verbosity(logging.CRITICAL)
    disable_progress_bars()
    try:
        yield
    finally:
        datasets_logging.set_verbosity(levels[0])
        hub_logging.set_verbosity(levels[1])
        if bars:
            enable_progress_bars()
