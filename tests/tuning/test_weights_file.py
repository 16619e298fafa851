"""A file of tuned weights: what is read is what was written, and anything else is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitzones.backends import quantizing
from bitzones.backends.backend_protocol import Packed
from bitzones.schema.errors import PlanError
from bitzones.tuning import weights_file

FORMATS = {"model.layers.0.mlp.down_proj": "qint2", "model.layers.1.self_attn.q_proj": "qint4", "model.layers.2.mlp.up_proj": "qint8"}
NORM = "model.norm.weight"


@given(bits=st.sampled_from([2, 4]), rows=st.integers(1, 5), columns=st.integers(1, 9), seed=st.integers(0, 1000))
def test_integers_come_back(bits, rows, columns, seed):
    integers = torch.randint(0, 2**bits, (rows, columns), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    data = weights_file.folded(integers, bits)
    assert len(data) == -(-rows * columns * bits // 8)
    assert torch.equal(weights_file.unfolded(data, bits, (rows, columns)), integers)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, str, dict[str, Packed]]:
    model = tiny_models.llama(torch.bfloat16)
    weights = {
        name: quantizing.quantized_alone(model.get_parameter(f"{name}.weight"), form) for name, form in FORMATS.items() if form != "qint8"
    }
    place = tmp_path / "tuned.safetensors"
    return place, weights_file.write(place, weights, {NORM: torch.full((192,), 1.25, dtype=torch.bfloat16)}), weights


def test_what_is_read_is_what_was_written(written):
    place, sha256, weights = written
    model = tiny_models.llama(torch.bfloat16)
    found = weights_file.read(place, sha256, model, FORMATS)
    assert set(found.packed) == set(weights)
    for name, weight in found.packed.items():
        was = weights[name]
        assert weight.format == was.format
        assert weight.group_size == was.group_size
        for part in ("integers", "scale", "shift"):
            assert torch.equal(getattr(weight.parts(), part), getattr(was.parts(), part))
    found.put_dense(model)
    assert model.get_parameter(NORM).tolist() == [1.25] * 192


def refused(place: Path, sha256: str, **changes) -> str:
    with pytest.raises(PlanError) as caught:
        weights_file.read(place, sha256, changes.get("model", tiny_models.llama(torch.bfloat16)), changes.get("formats", FORMATS))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_or_changed_file_is_refused(written, tmp_path):
    place, sha256, _ = written
    assert "No such file" in refused(tmp_path / "none.safetensors", sha256)
    assert "SHA-256" in refused(place, "0" * 64)
    place.write_bytes(place.read_bytes()[:-1])
    assert "SHA-256" in refused(place, sha256)


def test_weights_of_another_model_or_plan_are_refused(written):
    place, sha256, _ = written
    assert "another model" in refused(place, sha256, model=tiny_models.llama(torch.bfloat16, layers=1))
    assert "another model" in refused(place, sha256, model=tiny_models.llama(torch.float16))
    assert "another model" in refused(place, sha256, formats={**FORMATS, "model.layers.0.mlp.down_proj": "qint4"})
    assert "another model" in refused(place, sha256, formats=dict(list(FORMATS.items())[1:]))
