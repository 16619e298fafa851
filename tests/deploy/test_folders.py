"""A folder is there as a whole or not at all, and what stood there is lost only when something else does."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bitzones.deploy import folders
from bitzones.schema.errors import OutputError

MARKER = "made.json"


def make(folder: Path, text: str = "new", *, force: bool = False) -> None:
    with folders.replacing(folder, marker=MARKER, force=force) as place:
        (place / MARKER).write_text(text, encoding="utf-8")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read(folder: Path) -> str:
    return (folder / MARKER).read_text(encoding="utf-8")


def test_a_new_folder_with_its_parents(tmp_path: Path) -> None:
    make(tmp_path / "a" / "b")
    assert read(tmp_path / "a" / "b") == "new"
    assert names(tmp_path / "a") == ["b"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    make(tmp_path / "a")
    assert read(tmp_path / "a") == "new"
    assert names(tmp_path) == ["a"]


def test_a_folder_that_is_not_empty_is_replaced_only_with_force(tmp_path: Path) -> None:
    make(tmp_path / "a", "old")
    (tmp_path / "a" / "more").mkdir()
    with pytest.raises(OutputError, match="not empty: give another folder, or --force"):
        make(tmp_path / "a")
    assert read(tmp_path / "a") == "old"
    make(tmp_path / "a", force=True)
    assert names(tmp_path / "a") == [MARKER]
    assert names(tmp_path) == ["a"]


def test_what_was_not_made_here_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(OutputError, match="no export of bitzones"):
        make(tmp_path, force=True)
    with pytest.raises(OutputError, match="a file of that name"):
        make(tmp_path / "letter.txt", force=True)
    assert names(tmp_path) == ["letter.txt"]


def test_a_mount_point_is_said() -> None:
    with pytest.raises(OutputError, match=r"a mount point.*name a folder inside it"):
        make(Path("/proc"), force=True)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existing", [True, False])
def test_when_it_ends_badly_everything_is_as_it_was(tmp_path: Path, error: type[BaseException], existing: bool) -> None:
    def badly() -> None:
        with folders.replacing(target, marker=MARKER, force=True) as place:
            (place / MARKER).write_text("half", encoding="utf-8")
            raise error

    target = tmp_path / "a" / "b"
    if existing:
        make(target, "old")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error):
        badly()
    assert sorted(tmp_path.rglob("*")) == before
    assert not existing or read(target) == "old"


@pytest.mark.parametrize(("error", "seen"), [(OSError, OutputError), (KeyboardInterrupt, KeyboardInterrupt)])
def test_when_the_new_one_cannot_take_the_place_the_old_one_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], seen: type[BaseException]
) -> None:
    """Interrupted between the two renames, or the file system refuses the second."""
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "fresh":
            assert not target.exists()
            raise error
        return rename(self, target)

    make(tmp_path / "a", "old")
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(seen):
        make(tmp_path / "a", force=True)
    assert read(tmp_path / "a") == "old"
    assert names(tmp_path) == ["a"]


def test_when_the_new_one_is_lost_nothing_was_changed(tmp_path: Path) -> None:
    def lost() -> None:
        with folders.replacing(tmp_path / "a", marker=MARKER, force=True) as place:
            place.rename(tmp_path / "gone")

    make(tmp_path / "a", "old")
    with pytest.raises(OutputError, match="nothing was changed"):
        lost()
    assert read(tmp_path / "a") == "old"
    assert names(tmp_path) == ["a", "gone"]


@pytest.mark.parametrize("force", [True, False])
def test_what_came_to_be_there_meanwhile_is_not_replaced(tmp_path: Path, force: bool) -> None:
    def beside_another() -> None:
        with folders.replacing(tmp_path / "a", marker=MARKER, force=force) as place:
            (place / MARKER).write_text("second", encoding="utf-8")
            (tmp_path / "a").mkdir()
            (tmp_path / "a" / "letter.txt").write_text("dear", encoding="utf-8")

    with pytest.raises(OutputError, match="no export of bitzones"):
        beside_another()
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["letter.txt"]


def test_two_at_once_the_first_one_wins_without_force(tmp_path: Path) -> None:
    def both() -> None:
        with folders.replacing(tmp_path / "a", marker=MARKER, force=False) as place:
            (place / MARKER).write_text("second", encoding="utf-8")
            make(tmp_path / "a", "first")

    with pytest.raises(OutputError, match="not empty"):
        both()
    assert read(tmp_path / "a") == "first"
    assert names(tmp_path) == ["a"]


def test_files_have_the_permissions_that_the_umask_gives(tmp_path: Path) -> None:
    with folders.replacing(tmp_path / "a", marker=MARKER, force=False) as place:
        (place / "closed").write_text("", encoding="utf-8")
        (place / "closed").chmod(0o600)
        (place / "plain").write_text("", encoding="utf-8")
        mode = (place / "plain").stat().st_mode
    assert stat.S_IMODE((tmp_path / "a" / "closed").stat().st_mode) == stat.S_IMODE(mode)
    assert names(tmp_path / "a") == ["closed", "plain"]


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    make(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    make(tmp_path / "link", force=True)
    assert (tmp_path / "link").is_symlink()
    assert read(tmp_path / "real") == "new"


KILLED = """
import os, signal, sys
from pathlib import Path
from bitzones.deploy import folders
with folders.replacing(Path(sys.argv[1]), marker="made.json", force=True) as place:
    (place / "made.json").write_text("half", encoding="utf-8")
    if sys.argv[2] == "between":
        Path(sys.argv[1]).rename(place.parent / "aside")
    print("writing", flush=True)
    if sys.argv[2] == "alive":
        sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""
"""A process that is killed while it writes, or between its two renames, or that goes on."""


def started(target: Path, how: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(target), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    kill(started(tmp_path / "a", "writing"))
    kill(started(tmp_path / "a.b", "writing"))
    assert len(names(tmp_path)) == 2
    make(tmp_path / "a")
    left = names(tmp_path)
    assert left[-1] == "a"
    assert [name.startswith(".a.b.") for name in left[:-1]] == [True]  # of another place, whose next process removes it
    assert read(tmp_path / "a") == "new"


def test_a_folder_aside_is_moved_back_where_a_process_was_killed_between_its_renames(tmp_path: Path) -> None:
    make(tmp_path / "a", "old")
    kill(started(tmp_path / "a", "between"))
    assert "a" not in names(tmp_path)
    with pytest.raises(OutputError, match="not empty"):
        make(tmp_path / "a")
    assert read(tmp_path / "a") == "old"
    assert names(tmp_path) == ["a"]


def test_the_folder_of_a_process_that_goes_on_is_left_alone(tmp_path: Path) -> None:
    process = started(tmp_path / "a", "alive")
    make(tmp_path / "a")
    assert len(names(tmp_path)) == 2
    kill(process)
    make(tmp_path / "a", force=True)
    assert names(tmp_path) == ["a"]


def test_a_folder_of_that_name_without_a_lock_is_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / ".a.12345678.unit").mkdir()
    (tmp_path / ".a.12345678.unit" / "letter.txt").write_text("dear", encoding="utf-8")
    make(tmp_path / "a")
    assert names(tmp_path) == [".a.12345678.unit", "a"]
