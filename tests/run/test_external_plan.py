"""What a plan made elsewhere may look like, and what is said of one that does not fit; that it is measured is seen in test_runner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from make_plan import plan

from bitzones.run import external_plan
from bitzones.schema.errors import PlanError
from bitzones.schema.sensitivity_cells import Unit

WHERE = Path("other.json")
MODULES = [f"model.layers.{layer}.{name}" for layer in range(2) for name in ("attn.q", "attn.k", "mlp.down")]
FORMATS = ("qint4", "qint2:hqq", "bf16")


def unit(name: str, layer: int, *modules: str) -> Unit:
    return Unit(name=name, layer=layer, modules=modules, parameters=8, reference_bytes=16)


UNITS = [
    unit(f"model.layers.{layer}.{group}", layer, *(f"model.layers.{layer}.{name}" for name in names))
    for layer in range(2)
    for group, names in (("attn.qkv", ("attn.q", "attn.k")), ("mlp.down", ("mlp.down",)))
]


def write(folder: Path, content: Any) -> Path:
    path = folder / "other.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def refused(call: Any, *arguments: Any) -> str:
    with pytest.raises(PlanError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_map_and_a_plan_json_are_read(tmp_path: Path) -> None:
    assert external_plan.read_formats(write(tmp_path, {"*": "qint4"})) == {"*": "qint4"}
    own = plan({MODULES[0]: "qint4", MODULES[1]: "bf16"}, {MODULES[0]: 96})
    assert external_plan.read_formats(write(tmp_path, own.model_dump_json(by_alias=True))) == {MODULES[0]: "qint4", MODULES[1]: "bf16"}


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "not JSON"), ("[]", "not a plan"), ("{}", "not a plan"), ({"a": 4}, "not a plan"), ({"format": "bitzones-plan"}, "not a plan")],
)
def test_what_is_no_plan_is_one_line(content: Any, said: str, tmp_path: Path) -> None:
    assert said in refused(external_plan.read_formats, write(tmp_path, content))
    assert "cannot be read" in refused(external_plan.read_formats, tmp_path / "nowhere.json")


def test_exact_names_go_before_patterns_and_earlier_patterns_before_later_ones() -> None:
    formats = {"*.attn.*": "qint4", "*": "qint2:hqq", "model.layers.1.attn.q": "bf16"}
    found = external_plan.by_module(formats, MODULES, FORMATS, WHERE)
    assert list(found.values()) == ["qint4", "qint4", "qint2:hqq", "bf16", "qint4", "qint2:hqq"]
    assert list(found) == MODULES


def test_modules_that_are_not_named_stay() -> None:
    found = external_plan.by_module({"*.mlp.down": "qint4"}, MODULES, FORMATS, WHERE)
    assert list(found) == [MODULES[2], MODULES[5]]
    units = external_plan.by_unit(found, UNITS, "bf16", WHERE)
    assert list(units.values()) == ["bf16", "qint4", "bf16", "qint4"]


def test_formats_and_names_that_are_not_there_are_said() -> None:
    assert "asks for 'qint3'; this run measured qint4, qint2:hqq, bf16" in refused(
        external_plan.by_module, {"*": "qint3"}, MODULES, FORMATS, WHERE
    )
    said = refused(external_plan.by_module, {"*": "qint4", "lm_head": "qint4"}, MODULES, FORMATS, WHERE)
    assert said == "other.json: 'lm_head' matches no module that can be quantized, such as 'model.layers.0.attn.q'"


def test_a_unit_of_two_formats_is_refused_with_what_to_do() -> None:
    assignment = external_plan.by_module({"*.q": "qint4", "*.k": "qint2:hqq"}, MODULES, FORMATS, WHERE)
    said = refused(external_plan.by_unit, assignment, UNITS, "bf16", WHERE)
    assert "model.layers.0.attn.qkv would get more than one format (q qint4, k qint2:hqq)" in said
    assert 'granularity = "module"' in said


def test_a_layer_that_was_not_swept_is_refused() -> None:
    assignment = external_plan.by_module({"*": "qint4"}, MODULES, FORMATS, WHERE)
    assert "model.layers.1.attn.k is in a layer that this run did not sweep" in refused(
        external_plan.by_unit, assignment, UNITS[:2], "bf16", WHERE
    )
