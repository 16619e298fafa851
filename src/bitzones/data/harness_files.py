"""Task files of lm-evaluation-harness that a user wrote: what they say, and nothing of theirs run that nobody asked for.

A task file is data, but the harness takes Python from it: functions and classes that it names, metrics that are downloaded, data that is
unpickled. All of that is refused unless the profile trusts the file. Its templates are written in a sandbox (`harness_tasks`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from bitzones.schema.errors import TaskError

__all__ = ["read"]

UNPICKLED = frozenset({"pandas", "sql", "spark", "webdataset"})
"""Readers of `datasets` that unpickle a file or open a connection; the others only parse."""

ELSEWHERE = re.compile(r"^\w+://|[*?\[]")
"""A data file that is no path beside the task file: an address or a pattern."""

TRUST = "only with trust_remote_code = true in the profile's task"


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML ships no types
    """Plain YAML; ``!function`` is refused."""


def _refused(loader: yaml.SafeLoader, node: yaml.Node) -> None:
    raise TaskError(f"!function {str(node.value)[:100]!r} in line {node.start_mark.line + 1} is Python code, which runs {TRUST}")


_Loader.add_constructor("!function", _refused)


def read(path: Path, *, trusted: bool = False) -> dict[str, Any]:
    """The settings of a task file and of the files that it includes; relative data files start at its folder.

    Args:
        path: a YAML file.
        trusted: whether Python that it names is imported.

    Raises:
        TaskError: it is not there, is not YAML or no task, or takes Python code and is not trusted.
    """
    settings = _merged(path, trusted, ())
    if "group" in settings or isinstance(settings.get("task"), list):
        raise TaskError(f"{path}: a group of tasks; name the task files of its members, one [[tasks]] each")
    if not isinstance(settings.get("task"), str):
        raise TaskError(f"{path}: no task file of lm-evaluation-harness: it needs the key task, the task's name")
    if not trusted and (reason := next(_runs_code(settings), None)):
        raise TaskError(f"{path}: {reason}, {TRUST}")
    return _placed(settings, path)


def _merged(path: Path, trusted: bool, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The keys of a file over those of the files that it includes, as in the harness."""
    if path in seen:
        raise TaskError(f"{seen[0]}: includes itself by way of {path}")
    settings = _parsed(path, trusted)
    included = settings.pop("include", [])
    merged: dict[str, Any] = {}
    for name in included if isinstance(included, list) else [included]:
        merged |= _merged(path.parent / str(name), trusted, (*seen, path))
    return merged | settings


def _parsed(path: Path, trusted: bool) -> dict[str, Any]:
    try:
        found = yaml.load(path.read_text(encoding="utf-8-sig"), _trusting(path) if trusted else _Loader)  # noqa: S506  # safe loaders
    except FileNotFoundError:
        raise TaskError(f"{path}: no such task file of lm-evaluation-harness") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: cannot be read as a task file: {error}") from error
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or "malformed"
        raise TaskError(f"{path}: not valid YAML: {problem}{f' in line {mark.line + 1}' if mark else ''}") from error
    except TaskError as error:
        raise TaskError(f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise TaskError(f"{path}: no task file of lm-evaluation-harness: it has no keys")
    return found


def _trusting(path: Path) -> type[yaml.SafeLoader]:
    """A loader that imports what ``!function module.name`` names, from beside the file."""
    from lm_eval.utils import import_function  # noqa: PLC0415 (an extra)

    class Trusting(_Loader):
        pass

    def imported(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
        try:
            return import_function(loader, node, path)
        except Exception as error:
            raise TaskError(f"!function {node.value!r} cannot be imported: {type(error).__name__}: {str(error)[:200]}") from error

    Trusting.add_constructor("!function", imported)
    return Trusting


def _runs_code(settings: Mapping[str, Any]) -> Iterator[str]:
    """Why a file would have code run that is neither the harness's nor in a ``!function``."""
    from lm_eval.api import metrics, registry  # noqa: F401, PLC0415 (an extra; metrics are registered by their import)

    if "class" in settings:
        yield "the class that it names is Python code, which runs"
    data = settings.get("dataset_kwargs")
    if isinstance(data, Mapping) and data.get("trust_remote_code"):
        yield "dataset_kwargs.trust_remote_code lets the data set's own code run, which it does"
    if str(settings.get("dataset_path", "")) in UNPICKLED:
        yield f"dataset_path = {settings['dataset_path']} may run code of the data, which it does"
    for entry in settings.get("metric_list") or ():
        name = entry.get("metric") if isinstance(entry, Mapping) else None
        if isinstance(entry, Mapping) and (entry.get("hf_evaluate") or name not in registry.metric_registry):
            yield f"metric {str(name)[:60]!r} is not one of lm_eval and would be downloaded as code, which runs"


def _placed(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """With data files, and a folder of data, where they are: relative to the task file."""
    found = dict(settings)
    data = found.get("dataset_kwargs")
    if isinstance(data, Mapping) and "data_files" in data:
        found["dataset_kwargs"] = {**data, "data_files": _files(data["data_files"], path)}
    if isinstance(name := found.get("dataset_path"), str) and (path.parent / name).is_dir():
        found["dataset_path"] = str((path.parent / name).resolve())
    return found


def _files(named: Any, path: Path) -> Any:
    if isinstance(named, Mapping):
        return {split: _files(files, path) for split, files in named.items()}
    if isinstance(named, list):
        return [_files(file, path) for file in named]
    if not isinstance(named, str):
        raise TaskError(f"{path}: dataset_kwargs.data_files: {str(named)[:60]!r} is no file name")
    if ELSEWHERE.search(named):
        return named
    place = path.parent / Path(named).expanduser()
    if not place.is_file():
        raise TaskError(f"{path}: dataset_kwargs.data_files: {named}: no such file, relative to the task file")
    return str(place.resolve())
