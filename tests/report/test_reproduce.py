"""The profile that a page shows is the profile of the run: read back, it is the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_run import profile

from bitzones.report.markdown.reproduce import command, profile_toml
from bitzones.schema import profile as profiles
from bitzones.schema import profile_files
from bitzones.schema.profile_sections import Model
from bitzones.schema.task_settings import Task


@pytest.mark.parametrize("name", profile_files.available())
def test_every_profile_reads_back(name: str, tmp_path: Path) -> None:
    known = profile_files.load(name)
    path = tmp_path / "profile.toml"
    path.write_text(profile_toml(known), encoding="utf-8")
    assert profile_files.load(str(path)) == known


@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1))
def test_any_text_reads_back(text: str) -> None:
    import tomllib

    known = profile(description=text, tasks=(Task(name=text, path=text),), model=Model(source="embedded:tiny"))
    assert profiles.Profile.model_validate(tomllib.loads(profile_toml(known))) == known


def test_the_command_names_the_file() -> None:
    assert "profile.toml" in command()
