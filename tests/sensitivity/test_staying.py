"""Modules without a kernel stay in the reference's format: in the variant, the sweep, the menu, the plan and its bytes alike."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import tiny_models
import tiny_sweep
import torch

from bitzones.backends import quantizing
from bitzones.backends.weights import packed_weights
from bitzones.models import loading, structure
from bitzones.models.units import Granularity, model_units
from bitzones.run import external_plan
from bitzones.schema.errors import NotMeasuredError
from bitzones.schema.sensitivity_cells import SensitivityCell
from bitzones.search import goals, local_search
from bitzones.search.local_search import Workbench
from bitzones.sensitivity import sweep
from bitzones.sensitivity.sweep import Candidate
from bitzones.sensitivity.variants import Variants

CPU = torch.device("cpu")
FORMATS = {"bf16": "bf16", "w8": "qint8", "w4": "qint4"}
UP = [f"model.layers.{layer}.mlp.up_proj" for layer in range(tiny_models.LAYERS)]
STAYING = {"qint4": dict.fromkeys(UP, "no kernel")}
IDS = torch.tensor([[1, 5, 9, 3]])


def loaded() -> loading.Loaded:
    return loading.Loaded(tiny_models.llama(torch.bfloat16), tiny_models.tokenizer(), "memory", "0" * 64)


@cache
def swept(granularity: Granularity) -> tuple[Variants, SensitivityCell, Workbench]:
    variants = Variants(loaded(), FORMATS, CPU, torch.float32, staying=STAYING)
    units = model_units(variants.loaded.model, granularity)
    cell = sweep.exact_cell(variants, units, granularity, tiny_sweep.CALIBRATION, tiny_sweep.batches(), lambda done: None)
    return variants, cell, local_search.workbench(variants, cell, tiny_sweep.batches, len(tiny_sweep.CALIBRATION.sequences))


def test_a_variant_has_them_dense_and_its_bytes_count_them_so() -> None:
    variants, _, _ = swept("layer")
    weights = packed_weights(variants.model("w4"))
    names = set(structure.quantizable_modules(variants.reference))
    assert set(weights) == names - set(UP)
    assert set(variants.packed("w4")) == names - set(UP)
    assert set(variants.packed("w8")) == names
    whole = Variants(loaded(), FORMATS, CPU, torch.float32)
    one = quantizing.expected_bytes(384, 192, torch.bfloat16, "qint4")
    assert variants.stored_bytes("w4") - whole.stored_bytes("w4") == len(UP) * (384 * 192 * 2 - one)


def test_a_mixed_variant_leaves_them_too() -> None:
    variants = Variants(loaded(), FORMATS, CPU, torch.float32, staying=STAYING)
    variants.define("plan", {UP[0]: "qint4", UP[1]: "qint8", "model.layers.0.mlp.down_proj": "qint4"})
    assert set(packed_weights(variants.model("plan"))) == {UP[1], "model.layers.0.mlp.down_proj"}


def test_a_variant_of_which_nothing_is_left_is_not_measured() -> None:
    names = structure.quantizable_modules(loaded().model)
    variants = Variants(loaded(), FORMATS, CPU, torch.float32, staying={"qint8": dict.fromkeys(names, "no kernel")})
    with pytest.raises(NotMeasuredError, match="w8: no module can be qint8; no kernel"):
        variants.model("w8")
    assert variants.packed("w8") == {}
    assert all(variants.weights(unit, "w8") == {} for unit in model_units(variants.loaded.model))
    assert variants.info().staying == {"qint8": {"no kernel": tuple(names)}}


def test_a_unit_is_measured_with_the_others_of_its_modules() -> None:
    variants, cell, bench = swept("layer")
    item = next(item for item in cell.measurements if (item.unit, item.format) == ("model.layers.0", "qint4"))
    assert item.stays == (UP[0],)
    assert item.group_sizes == (96, 96, 96, 96, 96, 128)
    changed = {name: weight for name, weight in variants.packed("w4").items() if name.startswith("model.layers.0.")}
    alone = sweep.exact(bench.model, bench.layers, [Candidate(0, changed)], bench.batches(), bench.sequences)
    assert alone.candidates == [list(item.kl_nats or ())]
    dense = 384 * 192 * 2
    assert item.stored_bytes == sum(weight.stored_bytes for weight in changed.values()) + dense


def test_a_unit_that_stays_whole_is_not_offered_and_a_uniform_plan_leaves_it() -> None:
    _, cell, bench = swept("module")
    rows = [row for row, unit in enumerate(bench.units) if unit.name in UP]
    column = bench.menu.formats.index("qint4")
    assert not bench.menu.offered[rows, column].any()
    assert [item.failure for item in cell.measurements if item.stays] == ["no kernel"] * len(UP)
    choice = bench.menu.everywhere(column)
    assert choice is not None
    assert [bench.menu.formats[index] for index in choice[rows]] == ["bf16"] * len(UP)
    assert set(np.delete(choice, rows)) == {column}


def test_the_expected_menu_is_the_one_that_the_sweep_offers() -> None:
    for granularity in ("layer", "module"):
        variants, _, bench = swept(granularity)
        expected = goals.expected_menu(variants.loaded.model, bench.units, ["qint8", "qint4"], "bf16", STAYING)
        assert np.array_equal(expected.offered, bench.menu.offered)
        assert np.array_equal(expected.stored_bytes, bench.menu.stored_bytes)


def test_a_plan_s_weights_and_a_swap_around_it() -> None:
    """A swap from 8 to 4 bits undoes the 8 bits of the module that stays at 4: the same as a plan of 4 bits there."""
    _, _, bench = swept("layer")
    eight = {unit.name: "qint8" for unit in bench.units}
    four = {**eight, "model.layers.1": "qint4"}
    assert UP[1] in local_search.weights_of(bench, bench.choice(eight))
    assert UP[1] not in local_search.weights_of(bench, bench.choice(four))
    at, there = local_search.trials(bench, [bench.choice(eight), bench.choice(four)])
    around = local_search._around(bench, at, lambda share: None)
    swap = next(item for item in around if (item.unit, item.format) == ("model.layers.1", "qint4"))
    assert swap.kl_nats == pytest.approx(there.kl_nats, rel=1e-9)


def test_a_plan_of_modules_with_those_that_stay_is_one_of_units() -> None:
    _, _, bench = swept("layer")
    modules = {module: "bf16" if module == UP[0] else "qint4" for module in bench.units[0].modules}
    staying = {"qint4": set(UP)}
    found = external_plan.by_unit(modules, bench.units, "bf16", tiny_models.Path("p.json"), staying)
    assert found == {"model.layers.0": "qint4", "model.layers.1": "bf16", "model.layers.2": "bf16"}
