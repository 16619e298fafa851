"""docs/schema.md is about the records as they are."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_schema_reference_is_current() -> None:
    text = runpy.run_path(str(ROOT / "scripts" / "make_schema.py"))["text"]()
    assert (ROOT / "docs" / "schema.md").read_text(encoding="utf-8") == text, "records changed: run python scripts/make_schema.py"


def test_every_kind_of_cell_and_its_units_are_there() -> None:
    text = (ROOT / "docs" / "schema.md").read_text(encoding="utf-8")
    for name in ("AccuracyCell", "LatencyCell", "SensitivityCell", "Analysis", "Plan"):
        assert f"### {name}\n" in text
    assert "| `kl_nats` | list of number" in text
    assert "Stored bits per weight of the units, scales and shifts counted." in text
