"""The first mistake that pydantic found in a file, as facts from which each reader words its one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

__all__ = ["FirstError", "first_error"]


@dataclass(frozen=True)
class FirstError:
    """The first of ``count`` mistakes."""

    path: str
    """Keys from the top of the record to the value, joined by dots; empty for the record itself."""
    keys: tuple[int | str, ...]
    message: str
    """What is wrong, in pydantic's words or a validator's."""
    kind: str
    """Pydantic's name for the mistake, such as ``extra_forbidden``."""
    value: Any
    """The value that was refused; never show it unescaped."""
    count: int

    @property
    def more(self) -> str:
        """How many other mistakes there are, in parentheses; empty where there is one only."""
        return f" (and {self.count - 1} more)" if self.count > 1 else ""

    @property
    def clause(self) -> str:
        """The message with a small first letter, as it stands after a colon."""
        return f"{self.message[:1].lower()}{self.message[1:]}"


def first_error(error: ValidationError, tags: tuple[Any, ...] = ()) -> FirstError:
    """The first mistake of a validation.

    Args:
        error: as pydantic raised it.
        tags: leading keys that pydantic adds and no file has, such as the tag of a union.

    >>> from pydantic import BaseModel
    >>> class Shape(BaseModel):
    ...     sizes: list[int]
    >>> try:
    ...     Shape.model_validate({"sizes": [1, "x"]})
    ... except ValidationError as error:
    ...     print(first_error(error).path, first_error(error).count)
    sizes.1 1
    """
    first = error.errors(include_url=False)[0]
    keys = first["loc"][1:] if tags and first["loc"][:1] == tags else first["loc"]
    return FirstError(
        path=".".join(map(str, keys)),
        keys=keys,
        message=first["msg"].removeprefix("Value error, "),
        kind=first["type"],
        value=first["input"],
        count=error.error_count(),
    )
