"""Chooses the task of a request by the rules and the classifier of a bundle's record."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from bitzones.schema.errors import PlanError
from bitzones.schema.record import Record, Share
from bitzones.schema.validation_errors import first_error
from bitzones.serve.patterns import Searched, compiled
from bitzones.serve.router_record import CONFIDENCE, Classifier, Router, Rule
from bitzones.serve.served_model import Routed
from bitzones.serve.switching import BASE

__all__ = ["ByRecord", "Routes", "read_router", "read_routes", "terms"]

_WORD = re.compile(r"(?u)\b\w\w+\b")
"""What scikit-learn's vectorizers take for a word."""


class _ClassifierSettings(Record):
    confidence: Share = CONFIDENCE


class Routes(Record):
    """routes.toml: ``[[rules]]``, the first that holds decides, and ``[classifier]``, with the least ``confidence`` that it needs."""

    rules: tuple[Rule, ...] = ()
    classifier: _ClassifierSettings = _ClassifierSettings()


def read_routes(path: Path) -> Routes:
    """Read and check a routes.toml.

    Raises:
        PlanError: it is missing, no TOML, or holds a key or value that is not allowed.
    """
    try:
        return Routes.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise PlanError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = first_error(error)
        raise PlanError(f"{path}: key {first.path!r}: {first.message}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PlanError(f"{path}: not TOML: {error}") from error


def read_router(data: bytes, where: Path) -> Router:
    """The record in the bytes of a router.json.

    Raises:
        PlanError: they hold something else.
    """
    try:
        return Router.model_validate(json.loads(data))
    except ValidationError as error:
        first = first_error(error)
        raise PlanError(f"{where}: key {first.path!r}: {first.message}") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{where}: not JSON, or truncated") from error


class ByRecord:
    """A `served_model.Router` of a record."""

    def __init__(self, record: Router) -> None:
        self.record = record
        self._rules = [(rule, _compiled(rule.prompt), _compiled(rule.system)) for rule in record.rules]

    def route(self, prompt: str, *, system: str | None, role: str | None) -> Routed:
        """The first rule whose conditions all hold; else the classifier's task where it is sure enough; else the base."""
        for rule, in_prompt, in_system in self._rules:
            if _found(in_prompt, prompt) and _found(in_system, system) and rule.role in {None, role}:
                return Routed(rule.task, "rule")
        if self.record.classifier is None:
            return Routed(BASE, "base")
        shares = self.probabilities(prompt)
        best = int(shares.argmax())
        confidence = float(shares[best])
        if confidence < self.record.classifier.confidence:
            return Routed(BASE, "base", confidence)
        return Routed(self.record.classifier.tasks[best], "classifier", confidence)

    def probabilities(self, prompt: str) -> NDArray[np.float64]:
        """The classifier's probability of each of its tasks; the sum is 1."""
        return self._weights.probabilities(prompt)

    @cached_property
    def _weights(self) -> _Weights:
        assert self.record.classifier is not None
        return _Weights(self.record.classifier)


def _compiled(pattern: str | None) -> Searched | None:
    return None if pattern is None else compiled(pattern)


def _found(pattern: Searched | None, text: str | None) -> bool:
    return pattern is None or (text is not None and pattern.search(text) is not None)


def terms(text: str) -> list[str]:
    """Words and pairs of neighbors, as scikit-learn's vectorizers with ``ngram_range=(1, 2)`` take them.

    >>> terms("How many, how many?")
    ['how', 'many', 'how', 'many', 'how many', 'many how', 'how many']
    """
    words = _WORD.findall(text.lower())
    return words + [" ".join(pair) for pair in pairwise(words)]


class _Weights:
    """A classifier's numbers as arrays."""

    def __init__(self, classifier: Classifier) -> None:
        self._places = {term: place for place, term in enumerate(classifier.vocabulary)}
        self._idf = np.array(classifier.idf)
        self._coefficients = np.array(classifier.coefficients)
        self._intercepts = np.array(classifier.intercepts)

    def probabilities(self, text: str) -> NDArray[np.float64]:
        """Softmax of the logits of one text."""
        counts = Counter(self._places[term] for term in terms(text) if term in self._places)
        logits: Any = self._intercepts
        if counts:
            places = np.fromiter(counts, dtype=np.int64)
            weights = (1 + np.log(np.fromiter(counts.values(), dtype=np.float64))) * self._idf[places]
            logits = logits + self._coefficients[:, places] @ (weights / np.linalg.norm(weights))
        odds = np.exp(logits - logits.max())
        shares: NDArray[np.float64] = odds / odds.sum()
        return shares
