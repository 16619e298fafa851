"""`bitzones monitor` as cron, a terminal and a crash meet it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import make_canary
import make_run
import other_server
import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("httpx")
pytest.importorskip("prometheus_client")

from bitzones.cli.main import app
from bitzones.monitor.overview import Overview, overview
from bitzones.monitor.state import opened
from bitzones.schema.errors import BitzonesError, ServerError

MAIN = (
    f"import signal, sys; sys.path[:0] = {sys.path!r}; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from bitzones.cli.main import main; main()"
)
"""The command in a process of its own, which Ctrl-C ends also where the tests run in the background."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run file with its record beside it."""
    data = make_run.run_dict(make_run.small())
    record = make_canary.record().model_copy(update={"model_sha256": data["bitzones"]["model"]["sha256"]})
    (tmp_path / "canary.json").write_text(record.model_dump_json(by_alias=True), encoding="utf-8")
    return make_run.write(tmp_path, data)


def manners(**changes: object) -> other_server.Manners:
    given = {"predict": make_canary.predict, "encode": make_canary.encode, "name": make_canary.TEXTS.__getitem__, **changes}
    return other_server.Manners(**given)  # type: ignore[arg-type]


@pytest.fixture
def served() -> Iterator[tuple[other_server.Manners, str]]:
    made = manners()
    with other_server.running(made) as url:
        yield made, url


def monitor(run: Path, url: str, *more: str) -> Result:
    return CliRunner().invoke(app, ["monitor", str(run), "--server", url, "--once", "--prompts", "10", *more])


def seen(run: Path) -> Overview:
    with opened(run.parent / "monitor.sqlite", alone=False) as state:
        return overview(state)


def test_exit_codes_of_a_server_that_is_good_breaks_is_mended_and_goes_away(run: Path, served: tuple[other_server.Manners, str]) -> None:
    made, url = served
    assert [monitor(run, url).exit_code for _ in range(2)] == [0, 0]
    made.predict = partial(make_canary.predict, scale=1.1)
    broken = monitor(run, url)
    assert broken.exit_code == 1
    assert broken.output.startswith("ALARM canary: the served model does not answer what the plan predicts")
    made.predict = make_canary.predict
    assert monitor(run, url).exit_code == 1, "an alarm stays"
    assert monitor(run, url, "--enroll").exit_code == 0
    gone = monitor(run, "http://127.0.0.1:9", "--state", str(run.parent / "other"))
    assert gone.exit_code == 3
    assert gone.stderr.startswith("bitzones: http://127.0.0.1:9: unreachable")
    assert gone.stderr.count("\n") == 1


def test_it_writes_the_page_markdown_and_metrics(run: Path, served: tuple[other_server.Manners, str], tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"prompt": "x" * 9, "task": "code"}) + "\n" for _ in range(60)), encoding="utf-8")
    activations = tmp_path / "activations.json"
    activations.write_text('{"at": "2026-11-30T12:00:00+00:00", "rate": 0.1, "passes": 9, "sampled": 1}', encoding="utf-8")
    done = monitor(
        run,
        served[1],
        "--requests",
        str(log),
        "--activations",
        str(activations),
        "--metrics-file",
        str(tmp_path / "m.prom"),
        "-o",
        str(tmp_path / "out"),
    )
    assert done.exit_code == 1
    assert "ALARM drift: characters of 60 requests differ" in done.output
    assert 'bitzones_drift_alarm{feature="tasks",source="log"} 1.0' in (tmp_path / "m.prom").read_text(encoding="utf-8")
    assert "| characters |" in (tmp_path / "out" / "monitor.md").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "monitor.html").stat().st_size > 10_000


def test_too_few_requests_wait_for_more(run: Path, served: tuple[other_server.Manners, str], tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    line = json.dumps({"task": "code"}) + "\n"
    log.write_text(line * 30, encoding="utf-8")
    assert monitor(run, served[1], "--requests", str(log)).exit_code == 0
    with log.open("a", encoding="utf-8") as file:
        file.write(line * 30)
    assert monitor(run, served[1], "--requests", str(log)).exit_code == 1
    (window,) = seen(run).windows
    assert (window.number, window.requests) == (1, 60)


@pytest.mark.parametrize(
    ("break_it", "more", "said"),
    [
        (lambda run: (run.parent / "canary.json").unlink(), (), "bitzones canary RUN.json"),
        (lambda run: (run.parent / "canary.json").write_text("{"), (), "not JSON, or truncated"),
        (lambda run: (run.parent / "canary.json").write_text("[]"), (), "no record of bitzones canary"),
        (lambda run: edit(run, model_sha256="1" * 64), (), "another SHA-256"),
        (lambda run: edit(run, prompts=[]), (), "key 'prompts'"),
        (lambda run: edit(run, surprise=1), (), "key 'surprise'"),
        (lambda run: edit(run, top=-1), (), "key 'top'"),
        (lambda run: run.write_text("{}"), (), "not written by pytest-benchmark"),
        (lambda run: run.unlink(), (), "cannot be read"),
        (lambda run: (run.parent / "monitor.sqlite").write_bytes(b"nothing" * 999), (), "no state of bitzones"),
        (lambda run: (run.parent / "monitor.sqlite").mkdir(), (), "no state of bitzones"),
        (lambda run: None, ("--requests", "none.jsonl"), "cannot be read"),
        (lambda run: (run.parent / "log").write_text("a\nb\n"), ("--requests", "log"), "none of its 2 lines is a request"),
        (lambda run: (run.parent / "act").write_text("{}"), ("--activations", "act"), "no reading of activations"),
        (lambda run: None, ("--server", "localhost"), "give an address"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    break_it: object, more: tuple[str, ...], said: str, run: Path, served: tuple[other_server.Manners, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    break_it(run)  # type: ignore[operator]
    done = monitor(run, served[1], *more)
    assert isinstance(done.exception, BitzonesError)
    assert not isinstance(done.exception, ServerError)
    assert said in str(done.exception)
    assert "\n" not in str(done.exception)
    assert not (run.parent / "monitor.html").exists()


def edit(run: Path, **changes: object) -> None:
    place = run.parent / "canary.json"
    place.write_text(json.dumps({**json.loads(place.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


@pytest.mark.parametrize(
    "more", [("--every", "soon"), ("--every", "0s"), ("--prompts", "0"), ("--tolerance", "-1"), ("--metrics-port", "0")]
)
def test_options_out_of_range(more: tuple[str, ...], run: Path) -> None:
    assert monitor(run, "http://127.0.0.1:9", *more).exit_code == 2


def test_a_key_is_sent_and_asked_for(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with other_server.running(manners(key="secret")) as url:
        assert "BITZONES_API_KEY" in str(monitor(run, url).exception)
        monkeypatch.setenv("BITZONES_API_KEY", "secret")
        assert monitor(run, url).exit_code == 0


def test_a_crash_in_the_middle_of_a_check_loses_nothing(run: Path, served: tuple[other_server.Manners, str]) -> None:
    """Killed without a chance to tidy up, at its 20th prompt; what was answered is asked no second time."""
    made, url = served
    made.trouble = lambda number: 60.0 if number == 20 else None
    victim = subprocess.Popen([sys.executable, "-c", MAIN, "monitor", str(run), "--server", url, "--once"], cwd=run.parent)
    deadline = time.monotonic() + 60
    while len(made.asked) < 21 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    made.trouble = lambda number: None
    done = monitor(run, url)
    assert done.exit_code == 0
    prompts = [tuple(body["prompt"]) for body in made.asked]
    assert len(prompts) == 41
    assert prompts[20] == prompts[21], "only the one that was in flight is asked again"
    (check,) = seen(run).checks
    assert (check.kind, check.answered, check.retries) == ("enroll", 40, 0)


def test_without_once_it_goes_on_until_it_is_interrupted(run: Path, served: tuple[other_server.Manners, str]) -> None:
    watch = subprocess.Popen(
        [sys.executable, "-c", MAIN, "monitor", str(run), "--server", served[1], "--every", "0.1s", "--prompts", "2"],
        cwd=run.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while len(served[0].asked) < 44 and time.monotonic() < deadline:
        time.sleep(0.02)
    watch.send_signal(signal.SIGINT)
    _, err = watch.communicate(timeout=60)
    assert watch.returncode == 130
    assert "Traceback" not in err
    assert len(seen(run).checks) >= 2


def test_dashboards_are_written(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["dashboards", "-o", str(tmp_path / "here")])
    assert done.exit_code == 0
    assert {place.name for place in (tmp_path / "here").iterdir()} == {"grafana.json", "alerts.yml"}
