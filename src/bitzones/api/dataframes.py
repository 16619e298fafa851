"""Records as the rows of a pandas DataFrame: one column per field, nested records flattened into columns of their own."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from bitzones.schema.errors import ArgumentError
from bitzones.schema.record import Figure
from bitzones.schema.requirements import needs
from bitzones.stats.intervals import Estimate
from bitzones.stats.verdicts import Verdict

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["chosen", "columns", "frame", "row"]


def columns(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Column names of a record, from its type, so that every run's table has the same.

    An estimate is three columns, ``kl``, ``kl_low`` and ``kl_high``; a figure two, ``process_rss`` and ``process_rss_status``; a verdict
    its words; any other record one for each of its fields, with the field's name in front.

    >>> list(columns(Estimate, "kl"))
    ['kl', 'kl_low', 'kl_high']
    """
    if issubclass(kind, Estimate):
        yield from (prefix, f"{prefix}_low", f"{prefix}_high")
    elif issubclass(kind, Figure):
        yield from (prefix, f"{prefix}_status")
    elif issubclass(kind, Verdict):
        yield prefix
    else:
        for name, field in kind.model_fields.items():
            column, nested = f"{prefix}_{name}" if prefix else name, _nested(field.annotation)
            yield from (column,) if nested is None else columns(nested, column)


def _nested(annotation: Any) -> type[BaseModel] | None:
    """The record that a field holds, or may hold."""
    kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return kinds[0] if kinds and (kinds[0] is annotation or type(None) in get_args(annotation)) else None


def row(record: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Column names and values of one record; a nested record that is null leaves one null under its own name.

    >>> dict(row(Estimate(value=0.02, low=0.01, high=0.03), "kl"))
    {'kl': 0.02, 'kl_low': 0.01, 'kl_high': 0.03}
    """
    match record:
        case Estimate():
            yield from ((prefix, record.value), (f"{prefix}_low", record.low), (f"{prefix}_high", record.high))
        case Figure():
            yield from ((prefix, record.value), (f"{prefix}_status", record.status))
        case Verdict():
            yield prefix, str(record)
        case _:
            for name, value in record:
                column = f"{prefix}_{name}" if prefix else name
                yield from row(value, column) if isinstance(value, BaseModel) else ((column, value),)


def frame(kind: type[BaseModel], records: Iterable[BaseModel]) -> pd.DataFrame:
    """A DataFrame with a row for each record of one kind; columns of a nested record that is null hold missing values.

    Raises:
        MissingPackageError: pandas is not installed.
    """
    with needs("pandas"):
        import pandas as pd  # noqa: PLC0415  # optional
    return pd.DataFrame([dict(row(record)) for record in records], columns=list(columns(kind)))


def chosen(name: str, tables: Iterable[str]) -> str:
    """The name, if it is one of the tables.

    Raises:
        ArgumentError: it is not; the message suggests the nearest and lists all.
    """
    known = tuple(tables)
    if name in known:
        return name
    near = difflib.get_close_matches(str(name), known, n=1)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    raise ArgumentError(f"there is no table {name!r}.{meant} Tables: {', '.join(known)}")
