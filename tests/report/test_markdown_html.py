"""Markdown of ours becomes HTML; markup that is not ours becomes text."""

from __future__ import annotations

import pytest
from make_run import NASTY

from bitzones.report.html.markdown_html import html
from bitzones.report.markdown.tables import details, markdown, table


def test_a_table_and_a_fold() -> None:
    found = html(details("Every layer (2 rows)", table(("layer", "KL"), [("1", "2.0")])))
    assert found.startswith("<details><summary>Every layer (2 rows)</summary>")
    assert '<td style="text-align:right">2.0</td>' in found
    assert found.rstrip().endswith("</details>")


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "<details><summary><img src=x></summary>", "a <b>c</b>", "<!-- x -->"])
def test_markup_that_is_not_ours_is_text(text: str) -> None:
    found = html(text)
    assert "&lt;" in found
    for start in ("<script", "<img", "<b>", "<!--"):
        assert start not in found


def test_a_hostile_name_is_text() -> None:
    found = html(table(("name",), [(markdown(NASTY, 500),)]))
    assert "<script" not in found
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in found
    assert "<a " not in found


def test_headings_are_one_level_lower() -> None:
    assert html("## Zones") == "<h3>Zones</h3>\n"
