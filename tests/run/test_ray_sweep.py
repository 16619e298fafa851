"""A sweep on a real Ray cluster of two workers on this machine, one of them killed in the middle: the cell is that of one process."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import tiny_models

from bitzones.run import journal
from bitzones.run.ray_options import RayOptions
from bitzones.run.session import Session
from bitzones.schema import profile_files
from bitzones.schema.errors import MeasureError
from bitzones.schema.profile import Profile
from bitzones.schema.shard_record import MeasuredBlock

ray = pytest.importorskip("ray", reason="needs the extra ray")

DOMAIN = '[[domains]]\nname = "tasks"\nsource = "tasks"\ntokens = 200'
"""Read for other cells: whether it was must not matter to a worker."""

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray leaves the pipes of its own processes to the collector
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    tmp_path = tmp_path_factory.mktemp("ray")
    tiny_models.save(tmp_path / "model")
    changes = {"formats": 'formats = ["qint4", "qint2:gptq"]', "sensitivity": "[sensitivity]\ntokens = 1200\nbatch = 4"}
    text = tiny_models.profile_text(str(tmp_path / "model"), **changes, calibration="[calibration]\ntokens = 500", domains=DOMAIN)
    (tmp_path / "profile.toml").write_text(text, encoding="utf-8")
    return profile_files.load(str(tmp_path / "profile.toml")).resolved()


def test_a_killed_worker_costs_its_block_and_the_cell_is_that_of_one_process(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(journal.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    said: list[str] = []
    shares: list[float] = []
    killed: list[int] = []

    def kill_one(share: float) -> None:
        shares.append(share)
        workers = [int(found[1]) for line in said if (found := re.search(r"process (\d+) on .* is ready", line))]
        if share > 0.3 and len(workers) == 2 and not killed:
            killed.append(workers[0])
            os.kill(workers[0], signal.SIGKILL)

    options = RayOptions("local", workers=2, cpus=1)
    divided = Session(profile, said.append, folder=tmp_path / "run", ray=options).sweep(kill_one)
    assert sum("died" in line for line in said) == 1
    assert sum("is ready" in line for line in said) >= 2
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert divided == Session(profile).sweep()
    (place,) = journal.sweep_journals(tmp_path / "run")
    lines = [MeasuredBlock.model_validate_json(line) for line in place.read_text(encoding="utf-8").splitlines()[1:]]
    assert len({line.key for line in lines}) == len(lines) == len(shares)  # nothing was measured twice

    again = Session(profile, said.append, folder=tmp_path / "run", ray=RayOptions("local", cpus=1, resume=True))
    assert again.sweep() == divided  # from the journal: no worker is started
    assert sum("is ready" in line for line in said[said.index(next(line for line in said if line.startswith("resuming"))) :]) == 0


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port"])
def test_an_address_without_a_cluster_is_one_line(address: str, profile: Profile) -> None:
    with pytest.raises(MeasureError, match=rf"^--ray {re.escape(address)}: nothing answers there"):
        Session(profile, ray=RayOptions(address)).sweep()
