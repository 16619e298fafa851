"""Shards become a run file; what does not belong together, is missing or is there twice is refused in a line, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import make_run
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitzones.analysis.analyze import analyse
from bitzones.analysis.merging import SWEEP_KEY, merge, read_sweep
from bitzones.analysis.reader import read_run
from bitzones.schema.errors import OutputError, RunFileError
from bitzones.schema.run_record import Run
from bitzones.schema.sensitivity_cells import SensitivityCell, UnitSensitivity
from bitzones.schema.shard_record import Block, MeasuredBlock, Shard, SweepLayout

FINGERPRINT: dict[str, Any] = {"model": {"sha256": "a"}, "versions": {"torch": "2.13.0"}, "device": {"type": "cpu"}}
BATCHES = ((3, 0), (1, 4), (2,))


def whole() -> SensitivityCell:
    """Three layers in three formats on five sequences; one layer stays as it is in one format, one gives no number in another."""
    cell = make_run.sensitivity(3, 5)
    changed = {
        0: {"kl_nats": None, "failure": "no kernel", "stays": cell.units[0].modules, "group_sizes": ()},
        4: {"kl_nats": None, "failure": "the changed model's logits are NaN or infinite"},
    }
    items = [UnitSensitivity.model_validate({**item.model_dump(), **changed.get(n, {})}) for n, item in enumerate(cell.measurements)]
    return cell.model_copy(update={"measurements": tuple(items)})


CELL = whole()
LAYOUT = SweepLayout(
    variant=CELL.variant,
    granularity=CELL.granularity,
    sequences_sha256=CELL.sequences_sha256,
    sequence_tokens=CELL.sequence_tokens,
    passed_over=CELL.passed_over,
    units=CELL.units,
    formats=tuple(dict.fromkeys(item.format for item in CELL.measurements)),
    stays=tuple(item for item in CELL.measurements if item.stays),
    batches=BATCHES,
)
ITEMS = [(candidate, batch) for candidate in range(len(LAYOUT.candidates)) for batch in range(len(BATCHES))]


def measured(candidate: int, batch: int) -> MeasuredBlock:
    """One candidate on one batch; one that gave no number gave some on the other batches."""
    pair = LAYOUT.candidates[candidate]
    item = next(found for found in CELL.measurements if (found.unit, found.format) == pair)
    values = [0.5] * 5 if item.kl_nats is None and batch != 1 else item.kl_nats
    kl = None if values is None else tuple(values[place] for place in BATCHES[batch])
    failure = item.failure if kl is None else None
    part = UnitSensitivity.model_validate({**item.model_dump(), "kl_nats": kl, "failure": failure})
    return MeasuredBlock(block=Block(batch=batch, first=candidate, end=candidate + 1), measurements=(part,), seconds_s=0.25)


def shard(number: int, of: int, items: list[tuple[int, int]], **changes: Any) -> Shard:
    run = Run.model_validate(make_run.run_dict([CELL])["bitzones"])
    blocks = tuple(measured(*item) for item in items)
    made_at = f"2026-11-30T12:00:0{number}+00:00"
    made = Shard(number=number, of=of, fingerprint=FINGERPRINT, run=run, layout=LAYOUT, blocks=blocks, measured_at=made_at)
    return made.model_copy(update=changes)


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., list[Path]]:
    def write(*shards: Shard) -> list[Path]:
        paths = [tmp_path / f"shard{number}.json" for number in range(len(shards))]
        for path, one in zip(paths, shards, strict=True):
            path.write_text(one.model_dump_json(), encoding="utf-8")
        return paths

    return write


def three(**changes: Any) -> list[Shard]:
    return [shard(number, 3, ITEMS[number - 1 :: 3], **(changes if number == 2 else {})) for number in (1, 2, 3)]


@given(st.lists(st.integers(0, 4), min_size=len(ITEMS), max_size=len(ITEMS)))
def test_however_the_parts_are_dealt_they_give_the_cell(owners: list[int]) -> None:
    order = sorted(range(len(ITEMS)), key=lambda number: (owners[number], -number))
    assert LAYOUT.cell(measured(*ITEMS[number]) for number in order) == CELL


def test_a_merged_sweep_is_a_run_file_of_one_cell(written: Callable[..., list[Path]], tmp_path: Path) -> None:
    paths = written(*three())
    run = merge(paths[::-1], tmp_path / "new" / "sweep.json")
    assert run.cells == (CELL,)
    assert run.took == (0.25 * len(ITEMS),)
    assert run.measured_at == "2026-11-30T12:00:03+00:00"
    assert [unit.name for unit in run.of(SensitivityCell)[0].units] == [unit.name for unit in CELL.units]
    assert analyse(run).sensitivity
    other = tmp_path / "other.json"
    merge([paths[1], paths[2], paths[0]], other)
    assert other.read_bytes() == (tmp_path / "new" / "sweep.json").read_bytes()  # the order of the shards says nothing


def test_more_shards_than_there_is_work_are_merged_too(written: Callable[..., list[Path]], tmp_path: Path) -> None:
    shards = [shard(1, 3, ITEMS), shard(2, 3, []), shard(3, 3, [])]
    assert merge(written(*shards), tmp_path / "sweep.json").cells == (CELL,)


ONE_BATCH = LAYOUT.model_copy(update={"batches": ((0, 1, 2, 3, 4),)})
OTHER = {**FINGERPRINT, "model": {"sha256": "b"}}
REFUSED = {
    "one is missing": (three()[:2], r"^missing: shard 3/3: measure and give them too$"),
    "two are missing": (three()[1:2], r"^missing: shards 1/3, 3/3:"),
    "one is there twice": ([*three(), three()[1]], r"shard3.json: shard 2/3 again: .*shard1.json is the same one"),
    "another division": ([three()[0], shard(2, 2, [])], r"shard1.json: one of 2 shards, and .*shard0.json is one of 3"),
    "another model": (three(fingerprint=OTHER), r'shard1.json: of another sweep: model.sha256 is "a" in .*shard0.json and "b" here$'),
    "other batches": (
        three(layout=ONE_BATCH),
        r"shard1.json: of another sweep: its units or",
    ),
    "a part is missing": (three(blocks=three()[1].blocks[1:]), r"^layers.0 at \S+: batch 1 of 3 not measured$"),
    "a part is there twice": (three(blocks=three()[0].blocks), r"^layers.0 at \S+, batch 0: measured twice$"),
}


@pytest.mark.parametrize(("shards", "why"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_make_a_sweep_is_refused(shards: list[Shard], why: str, written: Callable[..., list[Path]], tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match=why):
        merge(written(*shards), tmp_path / "sweep.json")
    assert not (tmp_path / "sweep.json").exists()


def test_weights_that_two_shards_quantized_differently_are_refused() -> None:
    parts = [measured(*item) for item in ITEMS]
    changed = parts[0].measurements[0].model_copy(update={"stored_bytes": 1})
    with pytest.raises(RunFileError, match="two shards quantized it differently"):
        LAYOUT.cell([parts[0].model_copy(update={"measurements": (changed,)}), *parts[1:]])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "other"}', '{"benchmarks": []}', "\ud7ff"])
def test_another_file_is_no_shard(text: str, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunFileError, match=r"file.json: not a shard that 'bitzones measure --shard' wrote, or truncated"):
        merge([tmp_path / "file.json"], tmp_path / "sweep.json")
    with pytest.raises(RunFileError, match=r"none.json: cannot be read: No such file"):
        merge([tmp_path / "none.json"], tmp_path / "sweep.json")


def test_a_damaged_shard_says_where(written: Callable[..., list[Path]], tmp_path: Path) -> None:
    (path,) = written(shard(1, 1, ITEMS))
    path.write_text(path.read_text(encoding="utf-8").replace('"stored_bytes":', '"stored_bytes":-', 1), encoding="utf-8")
    with pytest.raises(RunFileError, match=r"damaged: layout.stays.0.stored_bytes: .*greater than or equal to 0"):
        merge([path], tmp_path / "sweep.json")


def test_an_earlier_file_stays_where_the_new_one_cannot_be_written(written: Callable[..., list[Path]], tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="taken: cannot be written"):
        merge(written(*three()), tmp_path / "taken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard0.json", "shard1.json", "shard2.json", "taken"]


def test_a_run_adopts_the_sweep_of_its_own_fingerprint_only(written: Callable[..., list[Path]], tmp_path: Path) -> None:
    place = tmp_path / "sweep.json"
    merge(written(*three()), place)
    assert read_sweep(place, FINGERPRINT) == (CELL, 0.25 * len(ITEMS))
    with pytest.raises(RunFileError, match=r'of another sweep than this run\'s: versions.torch is "2.13.0" there and "2.12.0" here'):
        read_sweep(place, {**FINGERPRINT, "versions": {"torch": "2.12.0"}})
    data = json.loads(place.read_bytes())
    del data[SWEEP_KEY]
    place.write_text(json.dumps(data), encoding="utf-8")
    assert read_run(place).cells == (CELL,)
    with pytest.raises(RunFileError, match="not a sweep that a run can adopt"):
        read_sweep(place, FINGERPRINT)
