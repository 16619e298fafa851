"""Figures in the docs are those of the code, and links between files of the repository lead somewhere."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest
from imports import ROOMS

from bitzones.schema.profile import Profile

ROOT = Path(__file__).parents[1]
MAKE = runpy.run_path(str(ROOT / "scripts" / "make_docs.py"))
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/findings/*.md"), *ROOT.glob("profiles/reference/*.md")])


def test_every_generated_figure_is_current() -> None:
    stale = [path.name for path, text in MAKE["pages"]() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "the code changed: run python scripts/make_docs.py"


def test_marked_values_are_replaced_and_nothing_else_is() -> None:
    page = "n < <!-- =stats.intervals.MIN_SEQUENCES -->10<!-- / --> or <!-- =profile.zones.agreement percent -->5%<!-- / --> of 10"
    assert re.sub(r"<!--.*?-->", "", MAKE["filled"](page)) == "n < 20 or 90% of 10"


def test_a_mark_of_an_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError, match="NO_SUCH"):
        MAKE["filled"]("<!-- =stats.intervals.NO_SUCH -->1<!-- / -->")


def test_every_key_of_a_profile_has_a_row_with_its_default() -> None:
    text = (ROOT / "docs" / "profile.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[zones\]\n.*?^\| `agreement` \| number, > 0.5, ≤ 1.0 \| `0.9` \| ", text, re.MULTILINE | re.DOTALL)
    assert re.search(r"^## \[\[tasks\]\]\n.*?^\| `name` \| string \| required \| ", text, re.MULTILINE | re.DOTALL)


def test_no_marked_value_opens_a_line() -> None:
    opening = re.compile(r"^ *<!-- =[\w.]+(?: \w+)? -->\S", re.MULTILINE)
    split = [path.name for path in sorted((ROOT / "docs").glob("*.md")) if opening.search(path.read_text(encoding="utf-8"))]
    assert split == [], "a comment that opens a line ends the paragraph"


def test_the_profile_in_the_readme_is_complete() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert Profile.model_validate(tomllib.loads(text)).budget.average_bits == 3.0


def test_contributing_lists_the_rooms_in_their_order() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (yes|no) \|$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [(room.name, "yes" if room.measures else "no") for room in ROOMS]


def test_the_readme_fits_its_limit() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(page: Path) -> None:
    broken = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]
    assert broken == []
