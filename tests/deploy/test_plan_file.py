"""A plan file is checked before a model is loaded, and whatever is wrong with it is one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import make_plan
import pytest

from bitzones.analysis.plan import PLAN_SCHEMA
from bitzones.deploy.plan_file import read_plan
from bitzones.schema.errors import PlanError

ASSIGNMENT = {"a": "qint4", "b": "bf16", "c": "qint2:hqq", "d": "qint8"}
SIZES = {"a": 96, "c": 128, "d": None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_plan.write(tmp_path / "plan.json", make_plan.plan(ASSIGNMENT, SIZES))


def refused(path: Path) -> str:
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    assert "\x1b" not in said
    return said


def test_what_stays_is_told_from_what_is_quantized(path: Path) -> None:
    plan_file = read_plan(path)
    assert plan_file.formats == {"a": "qint4", "c": "qint2:hqq", "d": "qint8"}
    assert plan_file.group_sizes == SIZES
    assert plan_file.text == path.read_text(encoding="utf-8")


def test_a_file_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refused(tmp_path / "nowhere.json")
    assert "cannot be read: Is a directory" in refused(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON, or truncated: Expecting value at line 1"),
        ("[1, 2", "not JSON, or truncated"),
        ("[" * 100_000, "not JSON that can be read"),
        ("[]", "no plan of bitzones"),
        ('{"benchmarks": []}', "no plan of bitzones"),
    ],
)
def test_what_is_no_plan(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text, encoding="utf-8")
    assert said in refused(path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(b"\xff\xfe\x00")
    assert "not JSON that can be read" in refused(path)


def test_a_truncated_plan_at_every_length_is_one_line(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for length in range(0, len(text), 97):
        path.write_text(text[:length], encoding="utf-8")
        assert "truncated" in refused(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": 99}, f"its schema number is 99, this bitzones reads 3 and {PLAN_SCHEMA}"),
        ({"schema": None}, "its schema number is None"),
        ({"colour\x1b[2J": 1}, "unknown key 'colour\\x1b[2J'"),
        ({"achieved": None}, "key 'achieved'"),
        ({"reference_bytes": "many"}, "key 'reference_bytes'"),
        ({"model": None}, "names no model"),
        ({"reference": "qint4"}, "reference = 'qint4'"),
        ({"assignment": {"a": "qint5"}}, "assignment of module 'a' is 'qint5': not a format; allowed: "),
        ({"assignment": {"a": "qint8:hqq"}}, "assignment of module 'a' is 'qint8:hqq'"),
        ({"assignment": dict.fromkeys(ASSIGNMENT, "bf16"), "group_sizes": {}}, "nothing to apply"),
        ({"assignment": {k: v for k, v in ASSIGNMENT.items() if k != "c"}}, "module 'c' has a group size and no format"),
        ({"group_sizes": {k: v for k, v in SIZES.items() if k != "a"}}, "module 'a' has no group size"),
    ],
)
def test_a_plan_that_is_wrong(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    assert said in refused(make_plan.write(tmp_path / "plan.json", make_plan.plan(ASSIGNMENT, SIZES), **changes))


def test_a_dtype_that_is_none(tmp_path: Path) -> None:
    path = make_plan.write(tmp_path / "plan.json", make_plan.plan(ASSIGNMENT, SIZES, dtype="int8"))
    assert "model.dtype = 'int8': not one of bfloat16, float16, float32" in refused(path)


def test_nan_is_refused(path: Path) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    data["achieved"]["average_bits"] = float("nan")
    path.write_text(json.dumps(data), encoding="utf-8")
    assert "key 'achieved.average_bits'" in refused(path)


def test_reading_imports_no_torch() -> None:
    code = f"import sys; sys.path[:0] = {sys.path!r}; import bitzones.deploy.plan_file; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
