"""Documents of any source, read as they are needed: files, folders, hub data sets, the embedded texts, what a caller holds in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from bitzones import embedded
from bitzones.data import chats, licenses, plain_text, readers
from bitzones.data.chats import Chat
from bitzones.schema.errors import TaskError
from bitzones.schema.profile_sections import HUB_ID

__all__ = ["EMBEDDED", "Document", "Documents", "Texts", "opened", "origin_of"]

EMBEDDED = "embedded:"
"""Opens the name of a text that ships with bitzones."""

LINE_FILES = (".jsonl", ".csv")
"""Endings of the files, besides plain text, that are read line by line."""

Texts: TypeAlias = "str | Path | Iterable[str] | Any"
"""A path, a hub id, strings, or a ``datasets.Dataset``."""

Document: TypeAlias = str | Chat
"""Plain text, or a conversation."""


@dataclass
class Documents:
    """Documents in a fixed order, read once and only as far as they are needed; ``origin`` and ``license`` are for the run file."""

    origin: str
    unread: Iterator[Document] = field(repr=False)
    license: str | None = None


def origin_of(given: Texts) -> str:
    """What a profile and a run file call texts.

    >>> origin_of(["one", "two"]), origin_of("wiki.txt")
    ('memory:list', 'wiki.txt')
    """
    return str(given) if isinstance(given, str | Path) else f"memory:{type(given).__name__}"


def opened(given: Texts, column: str = "text", split: str = "train", config: str | None = None, origin: str | None = None) -> Documents:
    """Documents of any source.

    Args:
        given: a path, a hub id (``owner/name`` or ``owner/name:config``), ``embedded:NAME``, strings, or a ``datasets.Dataset``.
        column: of a data set, which holds the documents, or the messages of conversations.
        split: of a data set in a folder or on the hub.
        config: of a data set.
        origin: what a run file calls texts in memory.

    Raises:
        TaskError: there is no such file, folder or data set, or it cannot be read.
    """
    if isinstance(given, str | Path):
        return _stored(str(given), column, split, config)
    rows_of: Any = given
    name = origin or origin_of(given)
    found = _column(rows_of, column, name) if hasattr(given, "column_names") else _strings(rows_of, name)
    return Documents(name, found, getattr(getattr(given, "info", None), "license", None) or None)


def _stored(name: str, column: str, split: str, config: str | None) -> Documents:
    if name.startswith(EMBEDDED):
        return _embedded(name)
    path = Path(name).expanduser()
    if path.suffix.lower() == ".txt" and path.is_file():
        return Documents(name, plain_text.documents(path))
    repository, _, named = name.partition(":")
    if not path.exists() and not HUB_ID.fullmatch(repository):
        raise TaskError(
            f"{name}: no such file or folder, and no hub id (owner/name) either; a text is a .txt file, or {', '.join(readers.READERS)}"
        )
    if path.is_file():
        plain_text.require_text(path, lines=path.suffix.lower() in LINE_FILES, binary=path.suffix.lower() == ".parquet")
    source = readers.local(path, config) if path.exists() else readers.hub(repository, config or named or None)
    return Documents(source.origin, _column(source.rows(split), column, source.where), licenses.of_folder(source.path))


def _embedded(name: str) -> Documents:
    kind = name.removeprefix(EMBEDDED)
    if kind not in embedded.TEXT_LICENSES:
        known = ", ".join(EMBEDDED + known for known in embedded.TEXT_LICENSES)
        raise TaskError(f"{name}: no such text; these ship with bitzones: {known}")
    source = readers.local(embedded.TEXT / f"{kind}.jsonl", origin=name)
    return Documents(name, _column(source.rows("train"), "text", name), embedded.TEXT_LICENSES[kind])


def _column(found: Iterable[Mapping[str, Any]], column: str, where: str) -> Iterator[Document]:
    """One column of rows; a row that holds no text is an error, since a wrong column would otherwise read as an empty source."""
    for row in found:
        if column not in row:
            raise TaskError(f"{where}: no column {column}; it has {', '.join(row)} (column names the one that holds the documents)")
        value = row[column]
        document = chats.chat_of(value) if isinstance(value, list) else value
        if not isinstance(document, str | tuple):
            raise TaskError(f"{where}: column {column} holds {type(value).__name__}, not text")
        yield document


def _strings(found: Iterable[Any], where: str) -> Iterator[Document]:
    for number, text in enumerate(found):
        if not isinstance(text, str):
            raise TaskError(
                f"{where}: item {number} is {type(text).__name__}, not text; give strings, a datasets.Dataset, a path or a hub id"
            )
        yield text
