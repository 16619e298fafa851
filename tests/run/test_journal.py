"""The journal of finished cells: what is in it comes back, what is damaged or of another run does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bitzones.run import journal
from bitzones.run.journal import Entry
from bitzones.schema.errors import MeasureError, OutputError
from bitzones.schema.performance_cells import MemoryCell
from bitzones.schema.record import Figure

FINGERPRINT = {"profile": {"seed": 0, "formats": ["qint8"]}, "environment": {"versions": {"torch": "2.13.0"}}}
NONE = Figure(value=None, unit="bytes", status="unsupported")


def entry(number: int) -> Entry:
    cell = MemoryCell(
        variant=f"w{number}",
        stored_bytes=number,
        stored_bytes_by_format={"qint8": number},
        process_rss=NONE,
        process_peak_rss=NONE,
        device_allocated=NONE,
        device_used=NONE,
    )
    return Entry(bench=f"test_memory.py::test_memory[w{number}]", rounds_s=(0.1 * number, 1e-9), cell=cell)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A journal of three cells."""
    opened = journal.start(tmp_path / "journal.jsonl", FINGERPRINT, pytest.fail, Entry)
    for number in (1, 2, 3):
        opened.add(entry(number))
    return tmp_path / "journal.jsonl"


def resumed(place: Path, fingerprint: Any = FINGERPRINT) -> tuple[list[Entry], list[str]]:
    said: list[str] = []
    return list(journal.resume(place, fingerprint, said.append, Entry).entries.values()), said


def test_what_was_added_comes_back(place: Path) -> None:
    entries, said = resumed(place)
    assert entries == [entry(1), entry(2), entry(3)]
    assert said == [f"resuming: 3 finished cells are taken from {place}"]


def test_a_cell_whose_line_is_written_counts_even_where_an_interrupt_comes_at_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    opened = journal.resume(place, FINGERPRINT, lambda line: None, Entry)
    assert opened.finished() == 3
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened.add(entry(4))
    assert opened.finished() == 4
    assert resumed(place)[0][3:] == [entry(4)]


def test_wherever_the_last_line_is_cut_off_the_others_come_back(place: Path) -> None:
    whole = place.read_bytes()
    two = whole[: whole.rindex(b"\n", 0, -1) + 1]
    for length in range(len(two) + 1, len(whole)):
        place.write_bytes(whole[:length])
        entries, said = resumed(place)
        assert entries == [entry(1), entry(2)]
        assert "its last line is truncated" in said[0]
        assert place.read_bytes() == two
    opened = journal.resume(place, FINGERPRINT, lambda line: None, Entry)
    opened.add(entry(3))
    assert place.read_bytes() == whole


def test_a_damaged_line_is_named(place: Path) -> None:
    lines = place.read_bytes().splitlines()
    for wrong in (b"{", lines[1].replace(b'"memory"', b'"memry"'), lines[1].replace(b'"stored_bytes":1', b'"stored_bytes":-1')):
        place.write_bytes(b"\n".join([lines[0], wrong, *lines[2:]]) + b"\n")
        with pytest.raises(MeasureError, match=r"journal.jsonl: line 2 is damaged \(.*\): run without --resume to start over"):
            resumed(place)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"profile": {"seed": 1, "formats": ["qint8"]}}, "profile.seed is 0 there and 1 here;"),
        ({"profile": {"seed": 0, "formats": ["qint4"]}}, 'profile.formats.0 is "qint8" there and "qint4" here;'),
        ({"profile": {"seed": 1, "formats": []}}, r"profile.seed is 0 there and 1 here \(and 1 more\);"),
        ({"environment": {"versions": {"torch": "2.14.0"}}}, 'environment.versions.torch is "2.13.0" there and "2.14.0" here;'),
        ({"environment": {"versions": {}}}, 'environment.versions.torch is "2.13.0" there and null here;'),
        ({"code": "x" * 100}, 'code is null there and "x{76}... here;'),
    ],
)
def test_another_fingerprint_is_refused_and_what_differs_is_said(place: Path, changed: dict[str, Any], said: str) -> None:
    before = place.read_bytes()
    with pytest.raises(MeasureError, match=f"of another run, whose cells are not mixed in: {said} run without --resume"):
        resumed(place, {**FINGERPRINT, **changed})
    assert place.read_bytes() == before


@pytest.mark.parametrize("text", ["", "mine\n", "[1]\n", '{"bitzones-journal": 1}\n', "[" * 10000 + "\n"])
def test_a_file_that_is_no_journal_is_not_touched(tmp_path: Path, text: str) -> None:
    place = tmp_path / "other.jsonl"
    place.write_text(text, encoding="utf-8")
    with pytest.raises(MeasureError, match="not a journal of bitzones"):
        resumed(place)
    assert place.read_text(encoding="utf-8") == text


def test_another_file_is_not_replaced_by_a_journal(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="it is no journal: give another place"):
        journal.start(tmp_path / "mine.txt", FINGERPRINT, pytest.fail, Entry)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_journal_of_a_later_format_is_refused(place: Path) -> None:
    place.write_text(json.dumps({journal.HEAD: 2, "fingerprint": {}}) + "\n", encoding="utf-8")
    with pytest.raises(MeasureError, match="its format is 2, this bitzones reads 1"):
        resumed(place)


def test_starting_over_keeps_the_cells_of_an_unfinished_run(place: Path) -> None:
    before, said = place.read_bytes(), list[str]()
    assert journal.start(place, FINGERPRINT, said.append, Entry).entries == {}
    aside = place.with_name("journal.jsonl.previous")
    assert aside.read_bytes() == before
    assert said == [f"starting over: 3 cells of an unfinished run, which --resume would have continued, are kept in {aside}"]
    journal.start(place, FINGERPRINT, pytest.fail, Entry)  # without a cell there is nothing to keep
    assert aside.read_bytes() == before


def test_where_there_is_nothing_to_resume_a_run_starts_at_the_beginning(tmp_path: Path) -> None:
    entries, said = resumed(tmp_path / "journal.jsonl")
    assert entries == []
    assert "nothing to resume" in said[0]
    assert resumed(tmp_path / "journal.jsonl")[1] == [f"resuming: 0 finished cells are taken from {tmp_path / 'journal.jsonl'}"]


HOLD = """
import sys, pathlib
from bitzones.run import journal
with journal.sole(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_runs_do_not_share_a_place_and_a_killed_one_holds_none(tmp_path: Path) -> None:
    place = tmp_path / "report" / "journal.jsonl"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        for _ in range(2):  # who asks in vain does not blot out who holds it
            with (
                pytest.raises(OutputError, match=rf"report: another run is writing here \(process {first.pid}\): wait for it"),
                journal.sole(place),
            ):
                pytest.fail("both hold it")
        first.kill()
        first.wait()
    with journal.sole(place):
        assert (place.parent / ".journal.jsonl.lock").read_text(encoding="utf-8") == str(os.getpid())
    assert list(place.parent.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="file: cannot be written: File exists"), journal.sole(tmp_path / "file" / "journal.jsonl"):
        pytest.fail("it is a file")
    with pytest.raises(OutputError, match="cannot be written"):
        journal.start(tmp_path / "file" / "journal.jsonl", FINGERPRINT, pytest.fail, Entry)


def test_a_line_that_does_not_fit_leaves_those_before_it_whole(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills in the middle of a line; a real one does in test_runner."""
    before, opened = place.read_bytes(), journal.resume(place, FINGERPRINT, lambda line: None, Entry)
    write = os.write

    def half(handle: int, data: bytes) -> int:
        write(handle, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OutputError, match="No space left on device; make room and run again with --resume"):
        opened.add(entry(4))
    monkeypatch.undo()
    assert place.read_bytes() == before


def test_other_source_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "bitzones"
    (package / "run").mkdir(parents=True)
    (package / "run" / "journal.py").write_text("a = 1\n", encoding="utf-8")
    monkeypatch.setattr(journal, "__file__", str(package / "run" / "journal.py"))
    first = journal.code_sha256()
    assert journal.code_sha256() == first
    (package / "run" / "journal.py").write_text("a = 2\n", encoding="utf-8")
    assert journal.code_sha256() != first
