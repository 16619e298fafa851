"""What a profile may say of its text, and what it is told where it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bitzones.schema import profile_files, text_sources
from bitzones.schema.profile import Profile
from bitzones.schema.text_settings import Domain, TextSource, shares

BASE: dict[str, Any] = {
    "schema": 2,
    "formats": ("qint8",),
    "model": {"source": "embedded:tiny"},
    "tasks": ({"name": "science_mini"},),
    "budget": {"average_bits": 9.0},
}


def made(**sections: Any) -> Profile:
    return Profile.model_validate({**BASE, **sections})


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"sensitivity": {"text": ({"source": "a", "share": 0.5}, {"source": "b", "share": 0.3})}}, "sensitivity.text"),
        ({"sensitivity": {"text": ({"source": "a", "share": 0.5}, {"source": "b", "share": 0.3})}}, "shares add up to 0.8, not to 1"),
        ({"held_out": {"text": ({"source": "a", "share": 1.0}, {"source": "b"})}}, "leaves nothing for 1 without one"),
        ({"calibration": {"text": ({"source": "a"}, {"source": "a"})}}, "occurs twice"),
        ({"calibration": {"text": ({"source": "a", "shares": 1.0},)}}, "unknown key calibration.text.0.shares; did you mean share?"),
        ({"domains": ({"name": "a", "source": "x", "windows": 8},)}, "unknown key domains.0.windows; did you mean window?"),
        ({"domains": ({"name": "a", "source": "x"}, {"name": "a", "source": "y"})}, "domains: a occurs twice"),
        ({"domains": ({"name": "a", "source": "x", "window": 64, "stride": 65},)}, "stride = 65 skips text"),
        ({"domains": ({"name": "a", "source": "x", "window": 64, "context": 63},)}, "context = 63 leaves nothing to score"),
        ({"domains": ({"name": "a", "source": "x", "window": 64, "stride": 32, "context": 0},)}, "score tokens twice"),
        ({"domains": ({"name": "a", "source": "x", "tokens": 100},)}, "tokens = 100 are less than one window of 512"),
        ({"tasks": ()}, "give at least one of [[tasks]]"),
        ({"tasks": (), "sensitivity": {"text": ({"source": "tasks"},)}}, "give at least one of [[tasks]]"),
        ({"text": {"sensitivity": "a"}, "sensitivity": {"text": ({"source": "b"},)}}, "both name the sensitivity set"),
    ],
)
def test_a_mistake_is_one_line(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        made(**sections)
    line = profile_files.explain(caught.value)
    assert said in line
    assert "\n" not in line


def test_thirds_add_up() -> None:
    assert sum(shares([TextSource(source=name, share=0.333333) for name in "abc"])) == pytest.approx(1, abs=2e-6)


def test_which_sources_a_set_has() -> None:
    several = ({"source": "a", "share": 0.5}, {"source": "b"})

    def names(**sections: Any) -> list[list[str]]:
        chosen = made(**sections)
        return [[source.source for source in text_sources.sources(chosen, name)] for name in text_sources.SETS]

    assert names() == [["tasks"]] * 3
    assert names(text={"sequence_tokens": 64}) == [["tasks"]] * 3
    assert names(text={"sensitivity": "s", "calibration": "c"}) == [["s"], ["s"], ["c"]]
    assert names(sensitivity={"text": several}) == [["a", "b"]] * 3
    assert names(calibration={"text": several}) == [["tasks"], ["tasks"], ["a", "b"]]
    assert names(text={"sensitivity": "s"}, held_out={"text": several}) == [["s"], ["a", "b"], ["s"]]


def test_a_profile_without_text_is_written_as_before_there_was_any() -> None:
    written = made().model_dump(mode="json")
    assert "domains" not in written
    assert "text" not in written["sensitivity"]
    again = made(sensitivity={"text": ({"source": "a"},)}, domains=({"name": "d", "source": "b"},))
    assert Profile.model_validate_json(again.model_dump_json()) == again


def test_a_domain_is_unseen_where_no_set_takes_from_its_source() -> None:
    chosen = made(calibration={"text": ({"source": "a"},)}, domains=({"name": "a", "source": "a"}, {"name": "b", "source": "b"}))
    assert [text_sources.is_unseen(chosen, domain) for domain in chosen.domains] == [False, True]


def test_a_data_folder_has_the_text_it_has(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text/wiki.txt").write_text("a", encoding="utf-8")
    (tmp_path / "c4").mkdir()
    sources = (
        {"source": "wiki.txt", "otherwise": "embedded:docs"},
        {"source": "web.txt", "otherwise": "embedded:code"},
        {"source": "allenai/c4"},
    )
    chosen = made(sensitivity={"text": sources})

    def found(data: Path | None) -> list[str]:
        return [source.source for source in chosen.resolved(data).sensitivity.text]

    assert found(tmp_path) == [str(tmp_path / "text/wiki.txt"), "embedded:code", str(tmp_path / "c4")]
    assert found(None) == ["embedded:docs", "embedded:code", "allenai/c4"]


def test_what_is_scored_by_default_is_what_llama_perplexity_scores() -> None:
    assert [(d.first, d.step) for d in (Domain(name="a", source="s"), Domain(name="a", source="s", window=2048, context=0))] == [
        (256, 512),
        (0, 2048),
    ]
    assert Domain(name="a", source="s", joined=False).first == 0
