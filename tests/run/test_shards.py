"""A shard is measured, interrupted and taken up again; a run adopts the merged sweep; what cannot be divided is refused in a line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models

from bitzones.analysis.merging import merge
from bitzones.analysis.reader import read_run
from bitzones.run import divided_sweep, runner, shards
from bitzones.run.session import Session
from bitzones.schema import profile_files
from bitzones.schema.errors import ArgumentError, MeasureError, OutOfMemoryError, ProfileError
from bitzones.schema.profile import Profile
from bitzones.schema.sensitivity_cells import SensitivityCell
from bitzones.schema.shard_record import Block, MeasuredBlock
from bitzones.sensitivity.block_bench import BlockBench


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    folder = tmp_path_factory.mktemp("shards")
    tiny_models.save(folder / "model")
    changes = {"formats": 'formats = ["qint8", "qint2:hqq"]', "sensitivity": "[sensitivity]\ntokens = 300\nbatch = 2"}
    (folder / "profile.toml").write_text(tiny_models.profile_text(str(folder / "model"), **changes), encoding="utf-8")
    return profile_files.load(str(folder / "profile.toml")).resolved()


@pytest.fixture(scope="module")
def whole(profile: Profile) -> SensitivityCell:
    return Session(profile).sweep()


class Stopped(Exception):  # noqa: N818  (a kill is no error)
    """As a kill: nothing cleans up."""


def stopping_after(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    measure, count = BlockBench.measure, 0

    def until(bench: BlockBench, block: Block) -> MeasuredBlock:
        nonlocal count
        count += 1
        if count > blocks:
            raise Stopped
        return measure(bench, block)

    monkeypatch.setattr(BlockBench, "measure", until)


def test_an_interrupted_shard_goes_on_and_a_run_adopts_the_merged_sweep(
    profile: Profile, whole: SensitivityCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, said = [tmp_path / "1.json", tmp_path / "2.json"], list[str]()
    with monkeypatch.context() as patch:
        stopping_after(1, patch)
        with pytest.raises(Stopped):
            shards.measure_shard(profile, (1, 2), places[0])
    assert [path.name for path in tmp_path.iterdir()] == ["1.json.journal"]
    with pytest.raises(MeasureError, match=r"1.json.journal: of another run, whose blocks are not mixed in: shard.0 is 1 there and 2 here"):
        shards.measure_shard(profile, (2, 2), places[0], resume=True)
    made = shards.measure_shard(profile, (1, 2), places[0], resume=True, notify=said.append)
    assert f"resuming: 1 finished blocks are taken from {places[0]}.journal" in said
    assert len([line for line in said if line[0].isdigit()]) == len(made.blocks) - 1
    shards.measure_shard(profile, (2, 2), places[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.json", "2.json"]  # the journals are gone
    merged = merge(places, tmp_path / "sweep.json")
    assert merged.cells == (whole,)

    with runner.alone(tmp_path / "run"):
        outcome = runner.measure(profile, tmp_path / "run", select="sensitivity_exact or search", sweep=tmp_path / "sweep.json")
    run = read_run(outcome.run_file)
    assert run.cells[0] == whole
    assert run.times[0] == pytest.approx(merged.times[0])
    assert outcome.failed == 0
    assert len(run.cells) == 2  # the search starts from it


def test_the_whole_sweep_alone_is_written_as_merged_shards_are(profile: Profile, whole: SensitivityCell, tmp_path: Path) -> None:
    shards.measure_shard(profile, (1, 1), tmp_path / "sweep.json", whole=True)
    assert read_run(tmp_path / "sweep.json").cells == (whole,)


@pytest.mark.parametrize("shard", [(0, 2), (3, 2)])
def test_a_shard_that_is_none_is_refused(profile: Profile, shard: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=rf"^shard {shard[0]}/2: give 1/2 to 2/2$"):
        shards.measure_shard(profile, shard, tmp_path / "shard.json")


def test_a_sweep_whose_steps_depend_on_each_other_is_refused() -> None:
    adaptive: Any = SimpleNamespace(sensitivity=SimpleNamespace(effort="adaptive"))
    with pytest.raises(ProfileError, match=r'^sensitivity.effort = "adaptive": .* cannot be divided: set effort = "full"$'):
        divided_sweep.require_divisible(adaptive)


def test_memory_that_runs_out_says_what_to_set_for_all_shards(profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(bench: BlockBench, block: Block) -> MeasuredBlock:
        raise MemoryError

    monkeypatch.setattr(BlockBench, "measure", lacking)
    with pytest.raises(OutOfMemoryError, match=r"^memory ran out at batches of 2: set sensitivity.batch = 1 for all shards$") as caught:
        shards.measure_shard(profile, (1, 2), tmp_path / "shard.json")
    assert [shortage.batch for shortage in caught.value.shortages] == [2]
    assert not (tmp_path / "shard.json").exists()
