"""Where rows come from: every kind of file, folders, a download of the hub's, and one line for what cannot be read."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from bitzones.data import readers, tasks
from bitzones.schema.errors import TaskError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROWS: list[dict[str, Any]] = [
    {"id": "001", "question": "None?", "choices": {"text": ["None", "a, b"], "label": ["A", "B"]}, "answerKey": "A"},
    {"id": "two", "question": "What\nis it?", "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "answerKey": "3"},
]


def as_file(folder: Path, kind: str) -> Path:
    path = folder / f"own{kind}"
    match kind:
        case ".jsonl":
            path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
        case ".json":
            path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(ROWS), path)
        case ".csv":
            pa.csv.write_csv(pa.Table.from_pylist([{**row, "choices": json.dumps(row["choices"])} for row in ROWS]), path)
    return path


def refused(path: Path, config: str | None = None, split: str = "test") -> str:
    with pytest.raises(TaskError) as caught:
        list(readers.local(path, config).rows(split))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", readers.READERS)
@pytest.mark.parametrize("split", ["test", "train"])
def test_every_kind_of_file_gives_all_its_items_whatever_the_split(tmp_path: Path, kind: str, split: Any) -> None:
    path = as_file(tmp_path, kind)
    found = tasks.load("mine", split, path=path)
    assert [(item.prompt, item.answer, item.choices) for item in found.items] == [
        ("Question: None?\nAnswer:", " None", (" None", " a, b")),
        ("Question: What\nis it?\nAnswer:", " z", (" x", " y", " z")),
    ]
    assert (found.dropped, found.origin) == (0, str(path))


NAMES = ("own[1]", "own*", "own?", "own{1,2}", "own::1", "own[!1]", "own#1%20", " own ")


@pytest.mark.parametrize("kind", readers.READERS)
@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_name_and_no_pattern(tmp_path: Path, kind: str, name: str) -> None:
    """Beside it lie files that the name would match as a pattern."""
    as_file(tmp_path, kind).rename(tmp_path / f"{name}{kind}")
    for other in ("own1", "own2", "own"):
        (tmp_path / f"{other}{kind}").write_bytes(b"another file")
    found = tasks.load("mine", path=tmp_path / f"{name}{kind}")
    assert [item.id for item in found.items] == ["001", "two"]
    assert found.origin == str(tmp_path / f"{name}{kind}")


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_s_name_is_no_pattern_either(tmp_path: Path, name: str) -> None:
    for folder, one in ((name, "right"), ("own1", "wrong"), ("own", "wrong")):
        (tmp_path / folder / "data").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist([{"id": one}]), tmp_path / folder / "data" / "test-00000-of-00001.parquet")
    assert list(readers.local(tmp_path / name).rows("test")) == [{"id": "right"}]


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv"])
def test_a_mark_of_the_byte_order_is_no_content(tmp_path: Path, kind: str) -> None:
    path = as_file(tmp_path, kind)
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert [item.id for item in tasks.load("mine", path=path).items] == ["001", "two"]


def test_a_folder_may_name_its_configurations_in_its_card(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        pq.write_table(pa.Table.from_pylist([{"id": name}]), tmp_path / name / "test-00000.parquet")
    card = "".join(f"- config_name: {name}\n  data_files:\n  - split: test\n    path: {name}/test-*\n" for name in ("one", "two"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{card}---\n", encoding="utf-8")
    source = readers.local(tmp_path, "two")
    assert (list(source.rows("test")), source.origin) == ([{"id": "two"}], f"{tmp_path} two")
    assert "BuilderConfig 'three' not found. Available: ['one', 'two']" in refused(tmp_path, "three")
    assert refused(tmp_path).startswith(f"{tmp_path}: not readable as a data set: Config name is missing")
    assert "Bad split: train. Available splits: ['test']" in refused(tmp_path, "one", "train")


def test_a_file_that_was_changed_is_read_as_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    for n in range(2):
        path.write_text(json.dumps({"n": n}), encoding="utf-8")
        assert list(readers.local(path).rows("test")) == [{"n": n}]


def test_nothing_is_left_behind_and_nothing_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = as_file(tmp_path, ".jsonl")
    level = datasets.logging.get_verbosity()
    given = readers.local(path).rows("test")
    next(given)
    assert datasets.logging.get_verbosity() == level, "others' logging is changed while rows are not read"
    given.close()
    path.write_text("not json", encoding="utf-8")
    refused(path)
    assert [*(tmp_path / "scratch").iterdir()] == []
    assert not (tmp_path / "cache").exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("own.jsonl", b"not json", "not readable as a data set: JSON parse error"),
        ("own.jsonl", b'{"id": "\xff"}', "not readable as a data set: "),
        ("own.parquet", b"PAR1 and then nothing", "not readable as a data set: "),
        ("own.csv", b"", "not readable as a data set: No columns to parse"),
        ("own.txt", b"x", "not a kind of file that holds a task; these are: .jsonl, .json, .parquet, .csv"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert refused(path).startswith(f"{path}: {said}")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "no").startswith(f"{tmp_path / 'no'}: no such file or folder; a task's path is a folder in the hub's layout")
    assert refused(tmp_path).startswith(f"{tmp_path}: not readable as a data set: ")


def test_a_download_of_the_hub_is_used_without_a_network_and_its_commit_is_known(tmp_path: Path) -> None:
    """The cache as the hub's client leaves it: a snapshot of links to blobs."""
    folder = tmp_path / "datasets--owner--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "blobs").mkdir()
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "blobs" / "abc")
    (folder / "snapshots" / COMMIT / "test-00000-of-00001.parquet").symlink_to(folder / "blobs" / "abc")
    source = readers.hub("owner/name", None, tmp_path)
    assert source.origin == f"owner/name@{COMMIT}"
    assert [row["id"] for row in source.rows("test")] == ["001", "two"]


def test_a_hub_that_does_not_answer_is_one_line_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TaskError) as caught:
        readers.hub("owner/name", "config", tmp_path)
    assert str(caught.value).startswith("data set owner/name cannot be had from the hub (")
    assert str(caught.value).endswith("): give a local copy, by --bitzones-data FOLDER or a task's path")
    assert "\n" not in str(caught.value)
