"""bitzones_export.json: what an exported folder is, so that it can be replaced, recognized, and checked for being whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, ValidationError

from bitzones import __version__
from bitzones.deploy import verify
from bitzones.schema.environment import versions
from bitzones.schema.errors import PlanError
from bitzones.schema.record import Record
from bitzones.schema.validation_errors import first_error

__all__ = ["MANIFEST", "Manifest", "damage", "read", "write"]

MANIFEST = "bitzones_export.json"


class Manifest(Record):
    """Which target a folder was exported to, with what, and the SHA-256 of each file in it."""

    format: Literal["bitzones-export"] = "bitzones-export"
    schema_number: Literal[1] = Field(default=1, alias="schema")
    bitzones: str
    versions: dict[str, str]
    target: str
    files: dict[verify.FileName, str]
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)


def write(folder: Path, target: str) -> None:
    """Write down what a finished folder holds."""
    record = Manifest(bitzones=__version__, versions=versions(), target=target, files=verify.file_hashes(folder))
    (folder / MANIFEST).write_text(record.model_dump_json(by_alias=True, indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> Manifest:
    """The manifest of an exported folder.

    Raises:
        PlanError: it cannot be read, or is something else.
    """
    path = folder / MANIFEST
    try:
        return Manifest.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise PlanError(f"{path}: cannot be read: {error.strerror}; bitzones export writes it") from error
    except ValidationError as error:
        raise PlanError(f"{path}: key {first_error(error).path!r}: {first_error(error).message}") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path}: not JSON, or truncated") from error


def damage(folder: Path, record: Manifest) -> str | None:
    """The first file that is missing or changed, in one line; None where the folder is whole."""
    here = verify.file_hashes(folder)
    for name, sha256 in record.files.items():
        if here.get(name) != sha256:
            return f"{folder}: {name!r} {'is not as bitzones wrote it' if name in here else 'is missing'}"
    return None
