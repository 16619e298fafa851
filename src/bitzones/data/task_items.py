"""Turns rows of a data set into items: a prompt, its answer and, for multiple choice, the choices.

Two schemas: multiple choice as in ARC (prompt ``Question: ...``, newline, ``Answer:``, the text of lm-evaluation-harness's ``arc_easy``),
and word problems as in SVAMP (same prompt, free generation, the first number counts).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

__all__ = ["CHOICE", "NUMBER_RULE", "PROBLEM", "Item", "Schema", "choice_item", "first_number", "item_of", "last_number", "number_item"]

Kind = Literal["choice", "number"]

NUMBER_RULE = 1
"""Version of the rule of `first_number`. It is part of the hash of every task with numbers: raise it when the rule changes."""

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")

_GROUPED = re.compile(r"-?\d{1,3}(?:,\d{2,3})*(?:,\d{3})(?:\.\d+)?")
"""Numbers with thousands separators, also in the Indian style. "1,5" is 1.5 in most of Europe, and rule 1 would read it as 15."""


@dataclass(frozen=True)
class Item:
    """One question. ``choices`` is empty if the answer is generated. ``content`` has the (start, end) characters of ``prompt`` that carry
    the question's content: its numbers, and its options if the prompt shows them. Answer and choices include their leading space."""

    id: str
    prompt: str
    answer: str
    choices: tuple[str, ...] = ()
    content: tuple[tuple[int, int], ...] = ()

    @property
    def gold(self) -> int:
        """Index of the correct choice."""
        return self.choices.index(self.answer)


def first_number(text: str) -> float | None:
    """The first number in digits, or None (rule 1).

    The number starts at the first digit, or at a point followed by a digit; any text after it is ignored. Commas after a digit are
    thousands separators. A point belongs to the number if a digit follows, so a point that ends a sentence does not. A minus sign counts
    only directly before the number. Currency and percent signs, units, exponents and number words are ignored.

    >>> [first_number(text) for text in ("7.0", "$1,200", "-3", "seven", "12 apples, not 5")]
    [7.0, 1200.0, -3.0, None, 12.0]
    """
    match = _NUMBER.search(text)
    return float(match.group().replace(",", "")) if match else None


def last_number(text: str) -> float | None:
    """The last number in digits, or None: what a model ends on that was free to reason first. Numbers are read as by `first_number`.

    >>> [last_number(text) for text in ("39 - 17 = 22 inches.", "so it is **1,200**.", "none")]
    [22.0, 1200.0, None]
    """
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def _text(row: Mapping[str, Any], column: str) -> str:
    if row[column] is None or not (text := str(row[column])).strip():
        raise ValueError(f"{column} is empty")
    return text


def _choices(row: Mapping[str, Any]) -> dict[str, str]:
    """Label -> text of the non-empty choices; tables pad short rows with empty ones."""
    choices = json.loads(row["choices"]) if isinstance(row["choices"], str) else row["choices"]  # a CSV holds it as JSON
    labels, texts = list(choices["label"]), list(choices["text"])
    if len(labels) != len(texts):
        raise ValueError(f"choices has {len(labels)} labels and {len(texts)} texts")
    pairs = [(str(label), str(text)) for label, text in zip(labels, texts, strict=True) if text is not None and str(text).strip()]
    if len({label for label, _ in pairs}) < len(pairs) or len({text for _, text in pairs}) < len(pairs):
        raise ValueError("two of the choices have the same label or text")
    if len(pairs) < 2:
        raise ValueError("fewer than two choices that are not empty")
    return dict(pairs)


def choice_item(row: Mapping[str, Any]) -> Item:
    """A multiple-choice item from a row with the columns of ARC.

    Raises:
        KeyError: a column is missing.
        TypeError: a column holds another type.
        ValueError: the row is not usable; the message says why.
    """
    texts, key = _choices(row), str(row["answerKey"])
    if key not in texts:
        raise ValueError(f"answerKey {key!r} is none of the labels {', '.join(texts)}")
    answer = texts[key]
    return Item(
        _text(row, "id"), f"Question: {_text(row, 'question')}\nAnswer:", f" {answer}", tuple(f" {text}" for text in texts.values())
    )


def _number(text: str) -> float:
    """The number in an answer: in Python's notation, or the only one that rule 1 finds, as in "$1,200" and "12 apples".

    >>> [_number(text) for text in ("1e3", "1,200", "$7", "50%")]
    [1000.0, 1200.0, 7.0, 50.0]
    """
    found = _NUMBER.findall(text)
    try:
        number = float(text)
    except ValueError:
        if len(found) != 1 or ("," in found[0] and not _GROUPED.fullmatch(found[0])):
            raise ValueError(f"Answer {text[:40]!r} is not one number") from None
        number = float(found[0].replace(",", ""))
    if not math.isfinite(number):
        raise ValueError(f"Answer {text[:40]!r} is not a finite number")
    return number


def number_item(row: Mapping[str, Any]) -> Item:
    """A word problem from a row with the columns of SVAMP; raises as `choice_item`."""
    prompt = f"Question: {_text(row, 'Body').strip()} {_text(row, 'Question').strip()}\nAnswer:"
    answer = _number(_text(row, "Answer"))
    content = tuple(match.span() for match in _NUMBER.finditer(prompt))
    return Item(_text(row, "ID"), prompt, f" {np.format_float_positional(answer, trim='-')}", content=content)


@dataclass(frozen=True)
class Schema:
    """The columns that a data set must have, and how a row becomes an item."""

    kind: Kind
    item: Callable[[Mapping[str, Any]], Item]
    columns: tuple[str, ...]


CHOICE = Schema("choice", choice_item, ("id", "question", "choices", "answerKey"))

PROBLEM = Schema("number", number_item, ("ID", "Body", "Question", "Answer"))


def item_of(schema: Schema, row: Mapping[str, Any]) -> Item | str:
    """The item of a row, or the reason why the row is dropped."""
    try:
        return schema.item(row)
    except json.JSONDecodeError as error:
        return f"choices is no JSON: {error}"
    except KeyError as error:
        return f"it has no {error}"
    except TypeError:
        return f"a column holds another kind of value than {', '.join(schema.columns)} should"
    except ValueError as error:
        return str(error)
