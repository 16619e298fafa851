"""What an export made, and its last lines on the screen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Exported"]


@dataclass(frozen=True)
class Exported:
    """What was made. Bytes are of all weights: before in the model's own dtype, after as the target's files (0 for a recipe).

    ``modules`` counts by the plan's format; ``unnamed`` counts quantizable modules that the plan does not mention, which stay as they are.
    ``carried`` says what each of the plan's formats is called and takes in the target, ``checked`` how it was verified, ``how`` how to load
    it.
    """

    folder: Path
    bytes_before: int
    bytes_after: int
    modules: dict[str, int]
    unnamed: int
    checked: str
    how: str
    carried: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The last lines on the screen."""
        counts = ", ".join(f"{count} {format_name}" for format_name, count in self.modules.items())
        unnamed = f"; {self.unnamed} that the plan does not name stay as they are" if self.unnamed else ""
        return [
            *([self._weights()] if self.bytes_after else []),
            f"Modules: {counts}{unnamed}",
            *(f"Stored as: {line}" for line in self.carried),
            f"Folder: {self.folder} ({self.checked})",
            self.how,
        ]

    def _weights(self) -> str:
        less = 1 - self.bytes_after / self.bytes_before
        size = f"{self.bytes_after / 1e6:,.3f} MB in this folder ({abs(less):.0%} {'less' if less >= 0 else 'more'})"
        return f"Weights: {self.bytes_before / 1e6:,.3f} MB before, {size}"
