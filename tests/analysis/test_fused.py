"""A plan of single modules says which groups it splits; of anything else there is nothing to say."""

from __future__ import annotations

from bitzones.analysis.fused import fused
from bitzones.analysis.plan import SplitGroup
from bitzones.schema.sensitivity_cells import Unit

PROJECTIONS = {"q": "attn.qkv", "k": "attn.qkv", "o": "attn.o", "gate": "mlp.gate_up", "up": "mlp.gate_up"}


def units(layers: int = 2) -> list[Unit]:
    return [
        Unit(name=f"{layer}.{name}", layer=layer, group=name, modules=(f"{layer}.{name}",), parameters=1, reference_bytes=2, fused=group)
        for layer in range(layers)
        for name, group in PROJECTIONS.items()
    ]


def test_a_split_group_is_named_with_its_layer() -> None:
    stored = {unit.name: "qint4" for unit in units()} | {"1.k": "qint2", "0.o": "qint2"}
    found = fused(units(), stored)
    assert found is not None
    assert found.groups == 4  # attn.o is one module, and cannot be split
    assert found.split == (SplitGroup(layer=1, group="attn.qkv"),)


def test_a_plan_of_like_groups_splits_none() -> None:
    found = fused(units(), {unit.name: "qint2" if unit.fused == "attn.qkv" else "qint4" for unit in units()})
    assert found is not None
    assert (found.groups, found.split) == (4, ())


def test_units_that_are_groups_or_layers_say_nothing() -> None:
    whole = [unit.model_copy(update={"fused": None}) for unit in units()]
    assert fused(whole, {unit.name: "qint4" for unit in whole}) is None
