"""docs/api.md is about the public API as it is."""

from __future__ import annotations

import runpy
from pathlib import Path

import bitzones

ROOT = Path(__file__).parents[1]


def test_the_api_reference_is_current() -> None:
    text = runpy.run_path(str(ROOT / "scripts" / "make_api.py"))["text"]()
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == text, "docstrings changed: run python scripts/make_api.py"


def test_every_public_name_is_there_with_what_it_takes_gives_and_raises() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    sections = {unit.partition("\n")[0]: unit for unit in text.split("\n### ")}
    for name in bitzones.__all__:
        if name[0].islower():
            assert all(f"\n{word}:" in sections[name] for word in ("Arguments", "Returns", "Raises")), name
    assert {name for name in bitzones.__all__ if name[0].isupper() and not name.endswith("Error")} <= sections.keys()
    assert all(f"| `{name}` |" in text for name in bitzones.__all__ if name.endswith("Error"))
    assert ">>> bitzones.compare(" not in text or "'worse'" in text
