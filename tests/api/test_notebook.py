"""docs/notebook.ipynb runs from its first cell to its last, and shows what it says it shows."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

import bitzones

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


def read() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_no_output_is_committed() -> None:
    """Outputs hold times and paths of one machine."""
    assert [cell.id for cell in read().cells if cell.cell_type == "code" and (cell.outputs or cell.execution_count)] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:zmq", "ignore::DeprecationWarning:jupyter_client")
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("PYTHONPATH", str(Path(bitzones.__file__).parents[1]))  # the same bitzones as here, wherever the kernel starts
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # runs without a folder of their own are kept
    notebook = read()
    kernel = KernelManager(transport="ipc", connection_file=str(tmp_path / "kernel.json"))
    NotebookClient(notebook, km=kernel, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute(cleanup_kc=True)
    shown = {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    data = [output.data for outputs in shown.values() for output in outputs if output.output_type == "execute_result"]
    maps = [item["text/html"] for item in data if "<svg" in item.get("text/html", "")]
    assert len(maps) == 1
    assert maps[0].startswith('<div class="bitzones"><h4>embedded:tiny</h4>')
    zones = next(eval(item["text/plain"]) for item in data if item["text/plain"].startswith("{0: "))
    assert list(zones) == list(range(12))
    assert any(item["text/plain"].startswith("PlanKL(value=") for item in data)
    assert sum("<table" in item.get("text/html", "") and "dataframe" in item["text/html"] for item in data) == 2
    assert any("bitzones: regression" in item.get("text/html", "") for item in data)
