"""What a profile writes as a model becomes files on this machine, and every way in which it does not is one line."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import tiny_hub
from huggingface_hub import constants

from bitzones import embedded
from bitzones.models import sources
from bitzones.schema import profile_sections
from bitzones.schema.errors import ModelError

WEIGHTS = b"what a safetensors file holds is not looked at here"
CONFIG = b'{"model_type": "llama", "hidden_size": 8}'
MODEL = {
    "config.json": CONFIG,
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": WEIGHTS,
    "modeling_own.py": b"raise SystemExit",
    "pytorch_model.bin": b"x",
    "consolidated.safetensors": b"x",
    "onnx/config.json": b"{}",
}


def settings(source: str | Path, **more: str | bool | None) -> profile_sections.Model:
    return profile_sections.Model.model_validate({"source": str(source), **more})


def refused(source: str | Path, **more: str | bool | None) -> str:
    with pytest.raises(ModelError) as caught:
        sources.locate(settings(source, **more))
    said = str(caught.value)
    assert "\n" not in said
    return said


def fill(folder: Path, **contents: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


def index(*shards: str) -> bytes:
    return json.dumps({"weight_map": {f"w{number}": shard for number, shard in enumerate(shards)}}).encode()


# --- on this machine


def test_the_embedded_model_has_a_name() -> None:
    assert sources.locate(settings("embedded:tiny")).path == embedded.TINY


@pytest.mark.parametrize("source", ["embedded:other", "/nowhere/at/all", "gpt2", "a/b/c", "~/x", "https://host/a", "random", "-e/x"])
def test_a_source_that_is_not_understood_is_said_with_what_is_allowed(source: str) -> None:
    assert refused(source).startswith(f"model source '{source}' is not understood: give embedded:tiny, a folder with config.json and ")


def test_a_folder_is_hashed_by_its_weights_alone(tmp_path: Path) -> None:
    folder = fill(tmp_path / "m", model__safetensors=WEIGHTS, config__json=CONFIG, consolidated__safetensors=b"another layout")
    found = sources.locate(settings(folder))
    assert found == sources.Files("safetensors", folder, hashlib.sha256(WEIGHTS).hexdigest())


def test_shards_are_those_of_the_index_in_order(tmp_path: Path) -> None:
    fill(tmp_path, b__safetensors=b"B", a__safetensors=b"A", other__safetensors=b"not named")
    (tmp_path / "model.safetensors.index.json").write_bytes(index("b.safetensors", "a.safetensors", "b.safetensors"))
    assert sources.locate(settings(tmp_path)).sha256 == hashlib.sha256(b"AB").hexdigest()


def test_shards_that_are_not_there_yet_are_said(tmp_path: Path) -> None:
    fill(tmp_path, a__safetensors=b"A")
    (tmp_path / "model.safetensors.index.json").write_bytes(index("a.safetensors", "b.safetensors", "c.safetensors"))
    said = refused(tmp_path)
    assert "half downloaded: " in said
    assert said.endswith("model.safetensors.index.json names b.safetensors, which is not there (2 of 3 files are missing)")


@pytest.mark.parametrize("text", [b"{", b"[]", b"{}", b'{"weight_map": 3}', b'{"weight_map": {"w": 1}}', b"\xff"])
def test_an_index_that_is_none_is_said(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(text)
    assert "model.safetensors.index.json is no index of safetensors" in refused(tmp_path)


def test_pickled_weights_are_not_weights(tmp_path: Path) -> None:
    assert "no *.safetensors in" in refused(fill(tmp_path / "m", pytorch_model__bin=b"x", config__json=CONFIG))


def test_a_pointer_of_git_lfs_is_not_weights(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    assert "is a Git LFS pointer" in refused(fill(tmp_path / "m", model__safetensors=pointer))
    (tmp_path / "m.gguf").write_bytes(pointer)
    assert "is a Git LFS pointer" in refused(tmp_path / "m.gguf")


def test_a_gguf_file_is_known_by_how_it_begins(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.gguf", tmp_path / "bad.gguf"
    good.write_bytes(b"GGUF and more")
    bad.write_bytes(b"PK")
    assert sources.locate(settings(good)) == sources.Files("gguf", good, hashlib.sha256(b"GGUF and more").hexdigest())
    assert refused(bad) == f"model '{bad}': {bad} is not a GGUF file: it does not begin with GGUF"
    assert refused(tmp_path / "none.gguf") == f"model '{tmp_path}/none.gguf': no such file"


def test_another_hash_than_the_profile_says_is_said(tmp_path: Path) -> None:
    folder, right = fill(tmp_path / "m", model__safetensors=WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest()
    assert sources.locate(settings(folder, sha256=right)).sha256 == right
    said = refused(folder, sha256="0" * 64)
    assert said == f"model '{folder}' has the sha256 {right} ({folder}), and model.sha256 says {'0' * 64}"


def test_a_drawn_model_is_named_by_its_configuration(tmp_path: Path) -> None:
    one = fill(tmp_path / "one", config__json=b'{"a": 1, "b": 2}')
    other = fill(tmp_path / "other", config__json=b'{ "b":2,\n"a":1 }', changed__json=b'{"a": 1, "b": 3}')
    found = [sources.locate(settings(f"random:{path}")) for path in (one, one / "config.json", other, other / "changed.json")]
    assert {files.kind for files in found} == {"config"}
    assert [files.path.name for files in found] == ["config.json", "config.json", "config.json", "changed.json"]
    assert found[0].sha256 == found[1].sha256 == found[2].sha256 != found[3].sha256


def test_a_configuration_that_is_none_is_said(tmp_path: Path) -> None:
    assert "config.json; random: stands before a hub id or a config.json" in refused(f"random:{tmp_path}")
    assert "no.json; random: stands before" in refused(f"random:{tmp_path}/no.json")
    assert "is no config.json: " in refused(f"random:{fill(tmp_path / 'm', config__json=b'{')}")


# --- the hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tiny_hub.Hub]:
    """A real server, an empty cache, and huggingface_hub set as its environment variables would set it at its import."""
    shard = {"config.json": CONFIG, "model.safetensors.index.json": index("a.safetensors", "b.safetensors"), "a.safetensors": b"A"}
    repositories = {"tiny/model": MODEL, "tiny/gated": MODEL, "tiny/pickled": {"pytorch_model.bin": b"x"}, "tiny/half": shard}
    with tiny_hub.serve(tiny_hub.Hub(repositories, gated=frozenset({"tiny/gated"}))) as made:
        monkeypatch.setattr(constants, "ENDPOINT", made.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", made.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.chdir(tmp_path)
        yield made
        huggingface_hub.close_session()


@pytest.mark.parametrize("revision", [None, "v1", tiny_hub.COMMIT])
def test_a_model_of_the_hub_is_fetched_once_and_its_commit_is_known(hub: tiny_hub.Hub, revision: str | None) -> None:
    told: list[str] = []
    found = sources.locate(settings("tiny/model", revision=revision), told.append)
    assert (found.kind, found.revision, found.sha256) == ("safetensors", tiny_hub.COMMIT, hashlib.sha256(WEIGHTS).hexdigest())
    assert (found.path / "model.safetensors").read_bytes() == WEIGHTS
    assert sources.locate(settings("tiny/model", revision=revision), told.append) == found
    assert told == ["fetching tiny/model from the hub (once)"]
    assert sorted(hub.downloads) == ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]


def test_code_is_fetched_only_when_it_is_trusted(hub: tiny_hub.Hub) -> None:
    sources.locate(settings("tiny/model", trust_remote_code=True))
    assert "modeling_own.py" in hub.downloads


def test_a_drawn_model_needs_the_configuration_alone(hub: tiny_hub.Hub) -> None:
    found = sources.locate(settings("random:tiny/model", revision="v1"))
    assert (found.kind, found.path.name, found.revision, hub.downloads) == ("config", "config.json", tiny_hub.COMMIT, ["config.json"])


@pytest.mark.parametrize(
    ("source", "revision", "said"),
    [
        ("tiny/gated", None, "the repository is gated: accept its terms on its page on the hub, then hf auth login, or set HF_TOKEN"),
        ("random:tiny/gated", None, "the repository is gated"),
        ("tiny/modell", None, "the hub has no such model, or it is private (then hf auth login); there is no folder of this name either"),
        ("tiny/unknown", None, "the hub has no such model"),
        ("tiny/model", "v2", "the hub has this model, but no revision 'v2' of it"),
        ("tiny/pickled", None, "no *.safetensors in "),
        ("tiny/half", None, "half downloaded: "),
        ("tiny/model--x", None, "not a hub id: "),
    ],
)
@pytest.mark.usefixtures("hub")
def test_what_the_hub_refuses_is_said(source: str, revision: str | None, said: str) -> None:
    assert refused(source, revision=revision).startswith(f"model '{source}': {said}")


def test_what_was_fetched_is_found_without_the_hub(hub: tiny_hub.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    found = sources.locate(settings("tiny/model"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert sources.locate(settings("tiny/model")) == found
    (found.path / "model.safetensors").unlink()
    assert "HF_HUB_OFFLINE is set, and the model is not completely in the hub's cache" in refused("tiny/model")
    assert refused("tiny/gated").startswith("model 'tiny/gated': HF_HUB_OFFLINE is set")
    assert hub.downloads.count("model.safetensors") == 1


def test_a_hub_that_is_not_there_is_said(hub: tiny_hub.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert refused("tiny/model").startswith("model 'tiny/model': the hub cannot be reached (")
    assert hub.downloads == []


def test_a_folder_goes_before_the_hub(hub: tiny_hub.Hub, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    fill(tmp_path / "tiny" / "model", model__safetensors=b"mine")
    assert sources.locate(settings("tiny/model")).sha256 == hashlib.sha256(b"mine").hexdigest()
    assert "a folder has no revision 'v1'; give one or the other" in refused("tiny/model", revision="v1")
    assert hub.downloads == []


def test_offline_by_the_environment(tmp_path: Path) -> None:
    """The variable itself, as a user sets it: read when huggingface_hub is imported, so in a process of its own."""
    program = (
        "from bitzones.schema.profile_sections import Model; from bitzones.models import sources; "
        "sources.locate(Model(source='tiny/model'))"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert "ModelError: model 'tiny/model': HF_HUB_OFFLINE is set" in done.stderr.splitlines()[-1]
