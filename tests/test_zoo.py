"""The machinery of the zoo (``scripts/zoo``): tiny configurations, the checks that every architecture must pass, and the page.

The zoo itself runs in an environment of its own (``tox -e zoo``).
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tiny_models
import torch
from scripts.zoo import checks
from scripts.zoo.__main__ import PAGE, settle
from scripts.zoo.architectures import BY_HAND, ZOO
from scripts.zoo.page import VERSIONS, page
from scripts.zoo.shrink import tiny_config
from scripts.zoo.specimen import Found, examine
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from bitzones.evaluation import layer_replay
from bitzones.models import structure


@pytest.mark.parametrize("name", ["llama", "falcon:alibi", "gemma3", "deepseek_v3"])
def test_a_tiny_configuration_makes_a_small_model_of_four_layers(name: str) -> None:
    config = tiny_config(CONFIG_MAPPING[name.partition(":")[0]], BY_HAND.get(name))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
    assert len(structure.decoder_layers(model)) == 4
    assert model.get_input_embeddings().weight.shape == (768, 64)


def test_a_shortened_pattern_of_layers_keeps_each_kind() -> None:
    config = tiny_config(CONFIG_MAPPING["gemma3_text"])
    assert config.layer_types == ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]


def test_fields_given_by_hand_win_also_in_a_configuration_inside() -> None:
    config = tiny_config(CONFIG_MAPPING["gemma3"], {"text_config": {"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}})
    assert config.text_config.num_hidden_layers == 2
    assert config.vision_config.hidden_size == 64


def test_every_row_is_an_architecture_of_transformers() -> None:
    assert len(ZOO) >= 40
    assert [name for name in ZOO if name.partition(":")[0] not in CONFIG_MAPPING] == []


def test_what_holds_of_a_sound_model_is_seen_to_fail_of_a_misread_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_models.save(tmp_path / "model")
    checks.check(folder)
    real = structure.decoder_layers
    monkeypatch.setattr(structure, "decoder_layers", lambda model: dict(reversed(real(model).items())))
    with pytest.raises((AssertionError, IndexError)):
        checks.check(folder)


def test_a_replay_that_is_a_little_off_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_models.save(tmp_path / "model")
    real = layer_replay.Passed.before

    def off(self: layer_replay.Passed, start: int) -> list[object]:
        steps = real(self, start)
        if steps:
            steps[-1].hidden.add_(1e-3)
        return list(steps)

    monkeypatch.setattr(layer_replay.Passed, "before", off)
    with pytest.raises(AssertionError, match="entered at layer 1, logits are up to"):
        checks.check(folder)


def test_bytes_that_are_not_in_the_file_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_models.save(tmp_path / "model")
    monkeypatch.setattr(checks, "_file_bytes", lambda folder: 7)
    with pytest.raises(AssertionError, match="are not the 7 of the file"):
        checks.check(folder)


def test_an_architecture_that_cannot_be_made_is_a_fault_with_its_line(tmp_path: Path) -> None:
    found = examine("no_such_model", tmp_path)
    assert found.status == "fault"
    assert found.line.startswith("KeyError: 'no_such_model'")


def _all_supported() -> dict[str, Found]:
    return {name: Found(name, "supported", "SomeForCausalLM") for name in ZOO}


def test_the_page_has_a_table_for_each_result() -> None:
    found = _all_supported() | {
        "mixtral": Found("mixtral", "in part", "MixtralForCausalLM", ("MixtralExperts",), ("fisher: not told",)),
        "gpt2": Found("gpt2", "refused", "GPT2LMHeadModel", line="no module is | quantizable"),
    }
    text = page(found)
    assert f"{len(ZOO)} architectures: {len(ZOO) - 2} supported, 1 in part, 1 refused." in text
    assert "| Mixtral | `mixtral` | `MixtralForCausalLM` | `MixtralExperts` | fisher: not told |" in text
    assert r"| GPT-2 | `gpt2` | `GPT2LMHeadModel` | no module is \| quantizable |" in text


def test_a_stale_page_is_refused_and_other_versions_are_not_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "architectures.md"
    monkeypatch.setattr("scripts.zoo.__main__.PAGE", place)
    settle(page(_all_supported()), check=False)
    settle(VERSIONS.sub("Measured with transformers 99.", page(_all_supported())), check=True)
    with pytest.raises(SystemExit, match="is stale"):
        settle(page(_all_supported() | {"llama": Found("llama", "refused", line="no")}), check=True)


def test_the_page_in_the_docs_has_every_row() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| (?!models).*? \| `(\w+)` \|", text, re.MULTILINE)) == sorted(name.partition(":")[0] for name in ZOO)
