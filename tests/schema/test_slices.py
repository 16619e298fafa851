"""Slices of a profile: their names, what is refused, and that a profile without them is as it was."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from bitzones.schema import slices
from bitzones.schema.errors import ProfileError
from bitzones.schema.profile import Profile


def profile(**sections: Any) -> Profile:
    given = {
        "schema": 2,
        "formats": ("qint8", "qint4"),
        "model": {"source": "embedded:tiny"},
        "tasks": ({"name": "science_mini"}, {"name": "word_problems_mini"}),
        "budget": {"average_bits": 6.0},
    }
    return Profile.model_validate({**given, **sections})


MIXTURE = (
    {"source": "tasks", "share": 0.4},
    {"source": "c4.txt", "share": 0.2},
    {"source": "embedded:docs", "share": 0.2},
    {"source": "owner/pile:github", "share": 0.1},
    {"source": "owner/wiki", "config": "de", "share": 0.1},
)


def test_a_profile_without_slices_is_written_and_hashed_as_before() -> None:
    assert "by" not in profile().model_dump()["plans"]
    assert profile().sha256 == profile(plans={}).sha256 != profile(plans={"by": "task"}).sha256
    assert slices.names(profile()) == ()


def test_slices_are_the_tasks() -> None:
    found = profile().resolved(by="task")
    assert slices.names(found) == ("science_mini", "word_problems_mini")
    assert slices.variants(found) == {"plan:science_mini": "science_mini", "plan:word_problems_mini": "word_problems_mini"}
    assert profile(plans={"by": "task"}).resolved().plans.by == "task", "None leaves it as it is"


def test_slices_are_the_sources_under_the_names_of_domains() -> None:
    domains = ({"name": "web", "source": "c4.txt", "tokens": 512},)
    found = profile(sensitivity={"text": MIXTURE}, domains=domains, plans={"by": "domain"})
    assert slices.names(found) == ("tasks", "web", "docs", "pile-github", "wiki-de")


@pytest.mark.parametrize(
    ("sections", "by", "said"),
    [
        ({"tasks": ({"name": "science_mini"},)}, "task", "at least two .*has 'science_mini' only"),
        ({"tasks": (), "text": {"sensitivity": "a.txt"}}, "task", "at least two .*has none"),
        ({}, "domain", r"at least two sources in \[\[sensitivity.text\]\].*has 'tasks' only"),
        (
            {"sensitivity": {"text": MIXTURE}, "held_out": {"text": ({"source": "tasks"}, {"source": "c4.txt"})}},
            "domain",
            "no source 'docs'",
        ),
        ({"sensitivity": {"text": ({"source": "a/x.txt"}, {"source": "b/x.txt"})}}, "domain", r"two of them are called x: name them in"),
        ({"sensitivity": {"text": ({"source": "a.txt"},)}}, "task", "sensitivity.text does not name the source 'tasks'"),
        ({"held_out": {"text": ({"source": "a.txt"},)}}, "task", "held_out.text does not name the source 'tasks'"),
        ({"tasks": ({"name": "a b", "path": "x"}, {"name": "a/b", "path": "y"})}, "task", "two of them are called a-b"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(sections: dict[str, Any], by: Any, said: str) -> None:
    with pytest.raises(ProfileError, match=said) as error:
        profile(**sections).resolved(by=by)
    assert "\n" not in str(error.value)
    with pytest.raises(ValidationError, match=said):
        profile(**sections, plans={"by": by})


def test_there_are_two_kinds_of_slices() -> None:
    with pytest.raises(ValidationError, match="'task' or 'domain'"):
        profile(plans={"by": "layer"})


def test_names_that_are_no_names_of_files() -> None:
    assert [slices.file_name(name) for name in ("../../etc/passwd", "", ".hidden", "a" * 300)] == [
        "etc-passwd.json",
        "slice.json",
        "hidden.json",
        "a" * 100 + ".json",
    ]
