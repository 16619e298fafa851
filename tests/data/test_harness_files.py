"""Task files of lm-evaluation-harness: what is read of them, and what they may not have run."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitzones.data import harness_files
from bitzones.schema.errors import TaskError

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

PLAIN = """
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: items.jsonl}}
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "items.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    (tmp_path / "code.py").write_text(
        "from pathlib import Path\nPath(__file__).with_name('ran').touch()\ndef made(doc):\n    return 'it ran'\n"
    )
    return tmp_path


def written(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def refusal(path: Path, *, trusted: bool = False) -> str:
    with pytest.raises(TaskError) as error:
        harness_files.read(path, trusted=trusted)
    return str(error.value)


def test_data_files_start_at_the_folder_of_the_task_file(folder: Path) -> None:
    found = harness_files.read(written(folder, PLAIN))
    assert found["dataset_kwargs"]["data_files"] == {"test": str((folder / "items.jsonl").resolve())}
    assert "items.txt: no such file" in refusal(written(folder, PLAIN.replace("jsonl", "txt")))
    address = PLAIN.replace("items.jsonl", '"hf://datasets/a/b/*.parquet"')
    assert harness_files.read(written(folder, address))["dataset_kwargs"]["data_files"] == {"test": "hf://datasets/a/b/*.parquet"}


def test_a_file_says_what_the_files_it_includes_do_not(folder: Path) -> None:
    written(folder, PLAIN, "base.yaml")
    found = harness_files.read(written(folder, "include: base.yaml\ntask: other\n"))
    assert (found["task"], found["doc_to_text"]) == ("other", "{{question}}")
    written(folder, "include: mine.yaml\n", "base.yaml")
    assert "includes itself" in refusal(written(folder, "include: base.yaml\ntask: other\n"))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("process_docs: !function code.made", "line 8"),
        ("class: !function code.made", "line 8"),
        ("class: code.Made", "class"),
        ("metric_list: [{metric: evil/code}]", "evil/code"),
        ("metric_list: [{metric: exact_match, hf_evaluate: true}]", "exact_match"),
        ("dataset_path: pandas", "pandas"),
        ("dataset_kwargs: {trust_remote_code: true}", "trust_remote_code"),
    ],
)
def test_code_that_nobody_asked_for_is_refused(folder: Path, more: str, reason: str) -> None:
    key = more.partition(":")[0]
    kept = "\n".join(line for line in PLAIN.splitlines() if not line.startswith(f"{key}:"))
    said = refusal(written(folder, f"{kept}\n{more}\n"))
    assert reason in said
    assert "trust_remote_code = true" in said
    assert not (folder / "ran").exists()


def test_an_included_file_is_no_way_around_that(folder: Path) -> None:
    written(folder, f"{PLAIN}process_docs: !function code.made\n", "base.yaml")
    assert "base.yaml: !function 'code.made'" in refusal(written(folder, "include: base.yaml\ntask: other\n"))
    assert not (folder / "ran").exists()


def test_a_trusted_file_gets_its_functions(folder: Path) -> None:
    path = written(folder, f"{PLAIN}process_results: !function code.made\n")
    assert harness_files.read(path, trusted=True)["process_results"]({}) == "it ran"
    assert (folder / "ran").exists()
    gone = written(folder, f"{PLAIN}process_results: !function nothing.made\n")
    assert "!function 'nothing.made' cannot be imported" in refusal(gone, trusted=True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("task: [unclosed", "not valid YAML"),
        ("task: !unknown x", "not valid YAML"),
        ("- a list", "no keys"),
        ("", "no keys"),
        ("dataset_path: json", "needs the key task"),
        ("group: mine\ntask: [a, b]", "group of tasks"),
        ("task: [a, b]", "group of tasks"),
    ],
)
def test_a_malformed_file_is_one_line(folder: Path, text: str, reason: str) -> None:
    said = refusal(written(folder, text))
    assert reason in said
    assert "\n" not in said
    assert str(folder / "mine.yaml") in said


def test_a_file_that_is_not_there(folder: Path) -> None:
    assert "no such task file" in refusal(folder / "none.yaml")
    assert "no such task file" in refusal(written(folder, "include: none.yaml\ntask: x\n"))
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00task")
    assert "cannot be read" in refusal(folder / "binary.yaml")
