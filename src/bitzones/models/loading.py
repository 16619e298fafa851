"""Loads models and tokenizers. Measuring functions receive a loaded model; where its files come from is up to `bitzones.models.sources`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GgufConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bitzones.devices import device as devices
from bitzones.models import offload, sources, streamed_weights, structure, unexpected_weights
from bitzones.models.offload import Placement
from bitzones.models.unexpected_weights import NOTHING, Unexpected
from bitzones.schema import profile_sections
from bitzones.schema.errors import ModelError, NotMeasuredError
from bitzones.schema.run_record import FILES, ModelInfo

__all__ = ["Loaded", "load"]

_QUANTIZED = ("quantization_config", "compression_config")
"""Keys of a config.json that say how the weights are quantized; the second is from old versions of compressed-tensors."""

_READ_BACK = frozenset({"fp8"})
"""Methods whose weights transformers dequantizes if it has no kernel for them; if it has one, the weights stay packed and are refused."""

_RANDOM_SEED = 0
"""Seed of random weights, so that two runs of one architecture measure the same model."""


@dataclass(frozen=True)
class Loaded:
    """A dense model in evaluation mode with its tokenizer; every variant starts as a copy of it."""

    model: PreTrainedModel
    own_tokenizer: PreTrainedTokenizerBase | None
    source: str
    sha256: str
    revision: str | None = None
    random_weights: bool = False
    unexpected: Unexpected = NOTHING

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer.

        Raises:
            NotMeasuredError: the weights are random, so results on text would be meaningless.
        """
        if self.own_tokenizer is None:
            raise NotMeasuredError(
                f"the weights of {self.source} are random: accuracy and sensitivity would be meaningless; "
                "only latency and memory are measured"
            )
        return self.own_tokenizer

    def info(self, compute_dtype: torch.dtype) -> ModelInfo:
        """The model's record in the run file."""
        model = self.model
        return ModelInfo(
            source=self.source,
            revision=self.revision,
            sha256=self.sha256,
            random_weights=self.random_weights,
            architecture=type(model).__name__,
            parameters=sum(p.numel() for p in model.parameters()),
            layers=len(structure.decoder_layers(model)),
            dtype=str(model.dtype).removeprefix("torch."),
            compute_dtype=str(compute_dtype).removeprefix("torch."),
            tied_embeddings=structure.tied_embeddings(model),
            not_quantizable=structure.not_quantizable(model),
            placement=dict.fromkeys(offload.said(model), FILES) if streamed_weights.is_streamed(model) else offload.said(model),
            unexpected_weights=self.unexpected.weights,
            unexpected_bytes=self.unexpected.bytes,
        )


def load(
    settings: profile_sections.Model, device: torch.device, notify: Callable[[str], None] = sources.silent, formats: Sequence[str] = ()
) -> Loaded:
    """Load a dense model in its storage dtype.

    Args:
        settings: the source and its options.
        device: the device of the weights; layers that do not fit go elsewhere if ``settings.device`` is ``auto``.
        notify: receives a line about anything that takes long, such as a download.
        formats: formats that the model will be quantized to, which need memory too.

    Raises:
        ModelError: the source is malformed, missing, incomplete, has another hash or no safetensors; or the model is already quantized,
            cannot be loaded, lacks weights of its architecture, has others, or does not fit.
    """
    files, dtype = sources.locate(settings, notify), devices.dtype_of(settings.dtype)
    options: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code, "local_files_only": True}
    if files.kind == "gguf" and importlib.util.find_spec("gguf") is None:
        raise ModelError(f"model {settings.source!r}: reading GGUF files needs the gguf package: pip install 'bitzones[measure]'")
    tokenizer: PreTrainedTokenizerBase | None = None
    left_out, streamed = NOTHING, False
    try:
        shards = sources.shards(files.path) if files.kind == "safetensors" else []
        _require_mappable(settings, shards, dtype)
        if files.kind == "config":
            model, where = _draw(files.path, dtype, options, device, lambda drawn: _placement(drawn, settings, device, formats))
        else:
            folder = files.path if files.kind == "safetensors" else files.path.parent
            gguf = {"gguf_file": files.path.name} if files.kind == "gguf" else {}
            if files.kind == "safetensors":
                _refuse_quantized(folder, options, notify)
            tokenizer = AutoTokenizer.from_pretrained(folder, **gguf, **options)
            model, names = _read(folder, dtype, {**gguf, **options})
            left_out = unexpected_weights.check(model, names, shards, allowed=settings.allow_unexpected_weights, notify=notify)
            streamed = _is_to_stream(model, settings, device, formats, shards, notify)
            where = _placement(model, settings, device, formats) if not streamed else streamed_weights.on_host(model)
        offload.place(model, device, where)
        if streamed:
            streamed_weights.map_layers(model, shards)
    except ModelError as error:
        raise ModelError(f"model {settings.source!r}: {error}") from error
    except Exception as error:  # tokenizers raises bare Exceptions on broken files, and transformers nearly anything
        raise ModelError(
            f"model {settings.source!r} cannot be loaded{_advice(files, error)}: {type(error).__name__}: {str(error)[:300]}"
        ) from error
    if tokenizer is not None and not tokenizer.is_fast:
        raise ModelError(
            f"model {settings.source!r}: its tokenizer ({type(tokenizer).__name__}) does not give the positions of tokens in a text"
        )
    model.eval().requires_grad_(requires_grad=False)
    if not streamed and (spread := offload.said(model)):
        notify(f"too large for {device} alone: {', '.join(f'layers {layers} are on {place}' for layers, place in spread.items())}")
    return Loaded(model, tokenizer, settings.source, files.sha256, files.revision, files.kind == "config", left_out)


def _require_mappable(settings: profile_sections.Model, shards: Sequence[Path], dtype: torch.dtype) -> None:
    """Where the profile streams the layers, refuse what cannot be mapped into memory as it is stored, before any of it is read.

    Raises:
        ModelError: there are no safetensors, or their matrices have another dtype.
    """
    if settings.placement != "stream":
        return
    if not shards:
        raise ModelError("model.placement = stream maps safetensors, and these weights are not in any")
    if others := streamed_weights.other_dtypes(shards, dtype):
        raise ModelError(
            f"model.placement = stream maps weights as they are stored, and its files hold {', '.join(others)} where model.dtype is "
            f"{str(dtype).removeprefix('torch.')}: set model.dtype to what they hold, or store them in one dtype"
        )


def _is_to_stream(
    model: PreTrainedModel,
    settings: profile_sections.Model,
    device: torch.device,
    formats: Sequence[str],
    shards: Sequence[Path],
    notify: Callable[[str], None],
) -> bool:
    """Whether the layers stay in their files. A model that was read from safetensors in their own dtype is only mapped so far."""
    copies, free, stored = _copies(settings, device, model.dtype), devices.free_bytes(offload.HOST), offload.held_bytes(model)
    if settings.placement == "stream" or (shards and settings.placement == "auto" and copies * stored > free):
        structure.find_layers_unread(model)
    size = offload.whole_bytes(model, formats, copies)
    if settings.placement == "stream":
        notify(f"streaming the layers from their files: {stored / 1e9:.1f} GB of weights, of which one layer is in memory at a time")
        return True
    if settings.placement == "memory" or device != offload.HOST or size <= free:
        return False
    if not shards or streamed_weights.other_dtypes(shards, model.dtype):
        return False  # what is in memory already would not be there twice
    notify(
        f"streaming the layers from their files: with a copy in every format they need {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are "
        "free; model.placement = 'memory' tries it anyway"
    )
    return True


def _copies(settings: profile_sections.Model, device: torch.device, stored: torch.dtype) -> float:
    """Memory of the dense weights as a multiple of their stored bytes (`offload.needed_bytes`)."""
    compute = devices.compute_dtype(device, settings.compute_dtype, stored)
    return 1.0 if compute == stored else 1 + compute.itemsize / stored.itemsize


def _advice(files: sources.Files, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return " without running code from its repository (model.trust_remote_code = true allows that)"
    return " (is the file complete?)" if files.kind == "gguf" else ""


def _refuse_quantized(folder: Path, options: dict[str, Any], notify: Callable[[str], None]) -> None:
    """Refuse a model whose configuration says that its weights are quantized, by whatever library.

    Raises:
        ModelError: they are, and transformers cannot dequantize them.
    """
    settings = AutoConfig.from_pretrained(folder, **options)
    parts = (settings, settings.get_text_config(decoder=True))
    found = next((value for part in parts for key in _QUANTIZED if (value := getattr(part, key, None))), None)
    if found is None:
        return
    method = str(found.get("quant_method", "unknown") if isinstance(found, dict) else getattr(found, "quant_method", "unknown"))
    if method in _READ_BACK:
        notify(f"its weights are quantized by {method} and are dequantized: the reference is the model after that rounding")
        return
    raise ModelError(
        f"it is already quantized, by {method[:40]}: use the model from before quantization "
        "(if its weights are dense, remove quantization_config from its config.json)"
    )


def _read(folder: Path, dtype: torch.dtype, options: dict[str, Any]) -> tuple[PreTrainedModel, set[str]]:
    """The model with all of its stored weights, and the names of weights that its architecture lacks."""
    # By default transformers may keep the blocks of a GGUF file packed, and quanto cannot quantize those.
    kind = {"quantization_config": GgufConfig(dequantize=True)} if "gguf_file" in options else {"use_safetensors": True}
    made_by = AutoModelForCausalLM if "gguf_file" in options else _auto_class(AutoConfig.from_pretrained(folder, **options))
    read: Any = made_by.from_pretrained(folder, dtype=dtype, output_loading_info=True, **kind, **options)
    model: PreTrainedModel = read[0]
    if missing := sorted(read[1]["missing_keys"]):
        raise ModelError(f"its files lack {len(missing)} weights of {type(model).__name__}, such as {missing[0]}; they would be random")
    if packed := [name for name, p in model.named_parameters() if type(p) is not torch.nn.Parameter or not p.is_floating_point()]:
        raise ModelError(f"{len(packed)} of its weights are quantized, such as {packed[0]}; use the model from before quantization")
    if absent := [name for name, p in model.named_parameters() if p.is_meta]:
        raise ModelError(f"{len(absent)} of its weights were not read, such as {absent[0]}")
    if model.dtype != dtype:
        raise ModelError(f"it was loaded as {model.dtype} instead of {dtype}")
    return model, set(read[1]["unexpected_keys"])


def _auto_class(settings: PretrainedConfig) -> Any:
    """What makes the language model of a configuration: some vision-language models, such as Llava, are not listed as causal ones."""
    named = getattr(settings, "auto_map", None) or {}
    causal = "AutoModelForCausalLM" in named or type(settings) in MODEL_FOR_CAUSAL_LM_MAPPING
    sees = "AutoModelForImageTextToText" in named or type(settings) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return AutoModelForImageTextToText if sees and not causal else AutoModelForCausalLM


def _draw(
    config: Path, dtype: torch.dtype, options: dict[str, Any], device: torch.device, plan: Callable[[PreTrainedModel], Placement]
) -> tuple[PreTrainedModel, Placement]:
    """A model of a configuration with random weights, drawn on their final device, because host memory may be smaller than the GPU's."""
    settings = AutoConfig.from_pretrained(config.parent if config.name == "config.json" else config, **options)

    def made() -> PreTrainedModel:
        made_by = _auto_class(settings)
        model: PreTrainedModel = made_by.from_config(settings, dtype=dtype, trust_remote_code=options["trust_remote_code"])
        return model

    with torch.device("meta"):
        where = plan(made())
    drawn_on = device if set(where.values()) == {device} else offload.HOST
    with torch.random.fork_rng([device] if device.type == "cuda" else []), drawn_on:
        torch.manual_seed(_RANDOM_SEED)
        return made(), where


def _placement(model: PreTrainedModel, settings: profile_sections.Model, device: torch.device, formats: Sequence[str]) -> Placement:
    """The placement of the layers of a model that is in host memory or on the meta device.

    Raises:
        ModelError: the model does not fit.
    """
    size = offload.held_bytes(model)
    if settings.device == "auto" and device != offload.HOST:
        room = offload.rooms(device, 0 if model.device.type == "meta" else size)
        return offload.planned(model, room, formats, _copies(settings, device, model.dtype))
    if device != offload.HOST and size > (free := devices.free_bytes(device)):
        raise ModelError(f"it has {size / 1e9:.1f} GB of weights, and {device} has {free / 1e9:.1f} GB free: device = 'auto' spreads it")
    return dict.fromkeys(structure.decoder_layers(model), device)
