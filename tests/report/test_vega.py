"""The JavaScript of charts is made once and never trusted blindly, and a picture is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitzones.report.charts import vega

CHART: vega.Spec = {"$schema": vega.SCHEMA_URL, "data": {"values": [{"a": 1}]}, "mark": "bar", "encoding": {"x": {"field": "a"}}}


def test_the_script_is_kept_and_a_changed_copy_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITZONES_CACHE", str(tmp_path))
    vega.script.cache_clear()
    made = vega.script()
    assert "window.vegaEmbed=" in made.replace(" ", "")
    assert "</script" not in made.lower()
    (kept,) = tmp_path.glob("*.js")
    name = kept.stem.rsplit("-", 1)[0]
    assert list(vega.cached(tmp_path, name)) == [made]
    kept.write_text(made + "//", encoding="utf-8")
    assert list(vega.cached(tmp_path, name)) == []
    vega.script.cache_clear()


def test_no_cache_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    vega._keep(tmp_path / "file" / "cache", "vega", "script")
    assert list(vega.cached(tmp_path / "file" / "cache", "vega")) == []


def test_a_chart_becomes_svg_and_png() -> None:
    drawn = vega.svg(CHART)
    assert drawn.startswith("<svg")
    assert vega.png(drawn).startswith(b"\x89PNG")
    assert vega.svg(CHART) == drawn


def test_a_chart_fetches_nothing() -> None:
    with pytest.raises(ValueError, match="allowed"):
        vega.svg(CHART | {"data": {"url": "https://example.com/data.json"}})
