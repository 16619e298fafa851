"""The sections of summary.md as HTML.

Raw HTML is escaped except what `tables.details` writes. Names were escaped before (`tables.markdown`); this is a second barrier.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

__all__ = ["html"]

_DETAILS = re.compile(r"<details><summary>[\w ,.:()]*</summary>\s*|</details>\s*")
"""What `tables.details` writes around a long table; no string of a run file is in its title."""


def html(section: str) -> Markup:
    r"""A section's HTML, headings one level down, below the page's own.

    >>> html("## Zones\n\na &#60;b&#62; <i>c</i>")
    Markup('<h3>Zones</h3>\n<p>a &lt;b&gt; &lt;i&gt;c&lt;/i&gt;</p>\n')
    """
    return Markup(_parser().render(section))  # noqa: S704  # markdown-it escapes all but what _DETAILS lets through


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    parser.add_render_rule("html_block", _raw)
    parser.add_render_rule("html_inline", _raw)
    parser.core.ruler.push("lower_headings", _lower)
    return parser


def _raw(_self: Any, tokens: Sequence[Token], index: int, _options: Any, _env: Any) -> str:
    content = tokens[index].content
    return content if _DETAILS.fullmatch(content) else str(escape(content))


def _lower(state: Any) -> None:
    for token in state.tokens:
        if token.type in {"heading_open", "heading_close"}:
            token.tag = f"h{min(6, int(token.tag[1:]) + 1)}"
