"""What a duet reports while it runs, and how long it will take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["DuetWatch", "duration"]


def duration(seconds: float) -> str:
    """A duration in the unit that fits.

    >>> duration(12.3), duration(200), duration(7200)
    ('12 s', '3 min', '2.0 h')
    """
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _quiet(line: str) -> None:
    """Show nothing."""


@dataclass
class DuetWatch:
    """``say`` gets a permanent line a step, ``live`` what is going on at the moment."""

    say: Callable[[str], None] = _quiet
    live: Callable[[str], None] = _quiet
    total: int = 0
    done: int = 0
    spent_s: list[float] = field(default_factory=list)

    def finished(self, line: str, took_s: float) -> None:
        """A cell is decided."""
        self.done += 1
        self.spent_s.append(took_s)
        self.say(f"{self.done}/{self.total} {line}{self._left(0.0)}")

    def going_on(self, line: str, left_s: float) -> None:
        """Cells are being measured, and will be for this long."""
        self.live(f"{self.done}/{self.total} {line}{self._left(left_s)}")

    def _left(self, current_s: float) -> str:
        """The time left: of the cells that are measured, and of the others as the finished ones took."""
        others = self.total - self.done
        if not others or not (self.spent_s or current_s):
            return ""
        mean = sum(self.spent_s) / len(self.spent_s) if self.spent_s else current_s
        return f", about {duration(max(current_s, others * mean))} left"
