"""Tables, numbers and escaping for GitHub Markdown and Mermaid: every string of a run file passes through here and is escaped."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from tabulate import tabulate

from bitzones.schema.record import Figure
from bitzones.stats.intervals import Estimate, Interval

__all__ = [
    "ABSENT",
    "NO_INTERVAL",
    "bits",
    "details",
    "figure",
    "fold",
    "four_digits",
    "markdown",
    "megabytes",
    "mermaid",
    "milliseconds",
    "more_nats",
    "nats",
    "p_value",
    "percent",
    "plain",
    "points",
    "ratio",
    "table",
]

ABSENT = "-"
"""Stands for a missing value; never 0."""

NO_INTERVAL = "(interval: inconclusive)"
"""Follows a value whose sample is too small for a bootstrap interval."""

LONGEST = 120
"""Characters shown of a name: more than a real name has, few enough for a table."""

FOLDED_ROWS = 40
"""Longer tables are folded, so that readers find what follows them."""

_MARKDOWN = re.compile(r"[^\w\s.,:;/()'+=%?±-]|_(?!\w)|(?<!\w)_|:(?=//)|(?<=[wW]{3})\.|^[-+=]|^\d(?=\d*[.)](?:\s|$))")
_MERMAID = re.compile(r"[^A-Za-z0-9 .,:/()+=%?_-]")


def plain(text: str, longest: int = LONGEST) -> str:
    r"""One line of printable characters: for a terminal, and the first step of every other escape.

    >>> plain("two\tlines\nof text")
    'two lines of text'
    """
    line = " ".join(text.split())
    shown = line if line.isprintable() else "".join(letter if letter.isprintable() else "\ufffd" for letter in line)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}\u2026"


def markdown(text: str, longest: int = LONGEST) -> str:
    """Text that Markdown and HTML show literally, in table cells too.

    >>> markdown("science_mini"), markdown("a|<b>")
    ('science_mini', 'a&#124;&#60;b&#62;')
    """
    return _MARKDOWN.sub(lambda match: f"&#{ord(match[0])};", plain(text, longest))


def mermaid(text: str, longest: int = 48) -> str:
    """Text for a quoted Mermaid label, with Mermaid's entity codes.

    >>> mermaid('say "end" | 3')
    'say #34;end#34; #124; 3'
    """
    return _MERMAID.sub(lambda match: f"#{ord(match[0])};", plain(text, longest))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], text: Iterable[int] = (0,)) -> str:
    """A GitHub table with ``text`` columns left-aligned and the others right-aligned. Cells are not escaped here: escape names first."""
    align = ["left" if column in set(text) else "right" for column in range(len(head))]
    return tabulate([list(row) for row in rows], headers=list(head), tablefmt="pipe", colalign=align, disable_numparse=True)


def fold(title: str, rows: int, body: str) -> str:
    """The body, folded if it has more than `FOLDED_ROWS` rows. The title is not escaped."""
    return body if rows <= FOLDED_ROWS else details(f"{title} ({rows} rows)", body)


def details(title: str, body: str) -> str:
    """The body, folded under a title, which is not escaped."""
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


def four_digits(value: float) -> str:
    """Four digits, such as of a perplexity, without an exponent up to a million.

    >>> four_digits(11.5372), four_digits(19413.4), four_digits(2.5e7)
    ('11.54', '19,413', '2.5e+07')
    """
    return f"{value:,.0f}" if 1000 <= value < 1e6 else f"{value:.4g}"


def _three(value: float) -> str:
    """Three significant digits, with an exponent only for very small or large numbers."""
    return f"{value:.3g}" if value == 0 or 1e-4 <= abs(value) < 1e4 else f"{value:.2e}"


def _with_ends(estimate: Estimate | None, write: Callable[[float], str]) -> str:
    if estimate is None:
        return ABSENT
    if estimate.low is None or estimate.high is None:
        return f"{write(estimate.value)} {NO_INTERVAL}"
    return f"{write(estimate.value)} [{write(estimate.low)}, {write(estimate.high)}]"


def nats(estimate: Estimate | None) -> str:
    """A KL with its interval: ``0.0213 [0.019, 0.024]``, nats per token.

    >>> nats(Estimate(value=0.0213, low=None, high=None))
    '0.0213 (interval: inconclusive)'
    """
    return _with_ends(estimate, _three)


def more_nats(estimate: Estimate | None) -> str:
    """A difference in nats per token, signed, with its interval: ``+0.012 [-0.003, +0.027]``."""
    return _with_ends(estimate, lambda value: ("+" if value > 0 else "") + _three(value))


def ratio(estimate: Estimate | None) -> str:
    """A ratio with its interval: ``1.52 [1.49, 1.55]``."""
    return _with_ends(estimate, "{:.2f}".format)


def percent(share: float | None) -> str:
    """A share in percent."""
    return ABSENT if share is None else f"{share:.1%}"


def p_value(value: float) -> str:
    """A p-value: ``p = 0.03`` or ``p < 0.0001``."""
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


def points(interval: Interval) -> str:
    """A difference of shares in percentage points, signed, with its interval."""
    return f"{100 * interval.value:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def megabytes(count: float | None) -> str:
    """Bytes as megabytes of 10^6 bytes."""
    return ABSENT if count is None else f"{count / 1e6:,.3f} MB" if abs(count) < 1e7 else f"{count / 1e6:,.1f} MB"


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds: three significant digits, or whole milliseconds from 1000 up.

    >>> milliseconds(0.001234), milliseconds(1.98993)
    ('1.23 ms', '1,990 ms')
    """
    value = seconds * 1e3
    return f"{value:,.0f} ms" if abs(value) >= 1000 else f"{_three(value)} ms"


def bits(value: float | None) -> str:
    """Stored bits per weight."""
    return ABSENT if value is None else f"{value:.2f}"


def figure(value: Figure) -> str:
    """A figure with its unit, or the status that says why there is none."""
    if value.value is None:
        return markdown(value.status)
    return megabytes(value.value) if value.unit == "bytes" else f"{_three(value.value)} {markdown(value.unit)}"
