"""One bundle for all tests of this room, which only read it."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_bundle

from bitzones.deploy import quanto_checkpoint
from bitzones.deploy.export_request import ExportRequest
from bitzones.deploy.plan_file import PlanFile
from bitzones.serve.bundle_writer import Bundled

Plans = tuple[PlanFile, dict[str, PlanFile]]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle.source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="session")
def plans(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Plans:
    """The base plan, and name -> plan of the tasks."""
    return tiny_bundle.files(tmp_path_factory.mktemp("plans"), source)


@pytest.fixture(scope="session")
def bundled(plans: Plans, tmp_path_factory: pytest.TempPathFactory) -> Bundled:
    return tiny_bundle.made(tmp_path_factory.mktemp("made") / "bundle", *plans)


@pytest.fixture(scope="session")
def alone(plans: Plans, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name of a task -> its plan's own checkpoint."""
    folder = tmp_path_factory.mktemp("alone")
    for name, planned in plans[1].items():
        quanto_checkpoint.apply(ExportRequest(planned, folder / name, tiny_bundle.CPU))
    return {name: folder / name for name in plans[1]}
