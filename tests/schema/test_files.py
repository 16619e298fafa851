"""A file is whole or not there, and an earlier one stays until the new one is whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitzones.schema.errors import OutputError
from bitzones.schema.files import beside, write_text


def test_the_place_is_taken_at_the_end_and_its_folder_made(tmp_path: Path) -> None:
    place = tmp_path / "new" / "a.json"
    with beside(place) as copy:
        copy.write_text("whole", encoding="utf-8")
        assert copy.parent == place.parent  # else moving it could be copying it
        assert not place.exists()
    assert place.read_text(encoding="utf-8") == "whole"
    assert list(place.parent.iterdir()) == [place]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_raises_leaves_the_earlier_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    place = tmp_path / "a.json"
    place.write_text("earlier", encoding="utf-8")

    def fail() -> None:
        with beside(place) as copy:
            copy.write_text("half", encoding="utf-8")
            raise error

    with pytest.raises(error):
        fail()
    assert place.read_text(encoding="utf-8") == "earlier"
    assert list(tmp_path.iterdir()) == [place]


def test_a_text_replaces_the_earlier_one_as_it_is(tmp_path: Path) -> None:
    place = tmp_path / "a.md"
    for text in ("earlier\n", "größer\n"):
        write_text(place, text)
    assert place.read_bytes() == "größer\n".encode()
    assert list(tmp_path.iterdir()) == [place]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match=r"file/a\.md: cannot be written: ") as caught:
        write_text(tmp_path / "file" / "a.md", "text")
    assert "\n" not in str(caught.value)
