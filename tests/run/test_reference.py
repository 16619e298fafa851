"""Runs of a real GPU that are kept: they can be read by every later release, and their reports say what a reader must not overlook."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitzones.analysis.analyze import analyse, read_run
from bitzones.analysis.results import Analysis
from bitzones.report.markdown import measurements

REFERENCE = Path(__file__).parents[2] / "profiles" / "reference"

pytestmark = pytest.mark.skipif(not REFERENCE.is_dir(), reason="an installed copy has no reference runs")


@pytest.fixture(scope="module")
def mistral() -> Analysis:
    return analyse(read_run(REFERENCE / "h200-mistral-7b.json"))


def test_every_run_is_read_and_is_of_the_gpu_that_its_name_says() -> None:
    runs = [path for path in REFERENCE.glob("*.json") if not path.stem.endswith("verdicts")]
    assert runs
    for path in runs:
        assert read_run(path).run.environment.device_name.lower().endswith(path.name.partition("-")[0])


def test_the_share_of_the_floor_is_the_one_that_was_judged_there(mistral: Analysis) -> None:
    (compiled,) = [item for item in mistral.latency if item.compiled]
    verdicts = json.loads((REFERENCE / "h200-mistral-7b-verdicts.json").read_text(encoding="utf-8"))
    (judged,) = [
        item["measured"] for item in verdicts if item["promise"] == "at least 70% of the bandwidth floor"
    ]  # as it was written then
    assert compiled.times_roofline is not None
    assert f"{1 / compiled.times_roofline:.1%} of the floor" in judged
    weights, bandwidth, steps = 14.3e9, 4.21e12, 4  # by hand: 7.1 billion weights without the table of embeddings, 2 bytes each
    assert compiled.roofline_s == pytest.approx(steps * weights / bandwidth, rel=0.01)


def test_the_report_says_that_the_gpu_waits_and_what_held_the_clocks(mistral: Analysis) -> None:
    text = measurements.latency(mistral)
    assert "**decoding is CPU-bound** where it is not compiled (bf16 at batch 1 8.3 times as long as compiled)" in text
    assert (
        "**contended**: bf16, prefill, batch 8, prompt 512: power cap in 100% of 48 samples; the middle 80% of 20 rounds spread by 9%"
        in text
    )


def test_energy_and_the_process_s_memory_came_from_the_driver(mistral: Analysis) -> None:
    joules = [item.joules_per_token for item in mistral.latency if item.phase == "decode"]
    assert all(figure is not None and figure.status == "ok" for figure in joules)
    assert {name: item.process[name].status for item in mistral.memory for name in ("device_used", "device_used_by_this_process")} == {
        "device_used": "ok",
        "device_used_by_this_process": "ok",
    }
