"""A plan by NVIDIA ModelOpt's AutoQuantize, in an interpreter that has ``nvidia-modelopt[hf]`` and not bitzones.

From the top of a checkout: ``PYTHON -m scripts.peers.modelopt_plan WORK OUT TARGET...`` (see `scripts.peers.request`). Method
``gradient`` unless another is named; formats are of weights only, symmetric integers in blocks, with the scale from the largest
magnitude (``max``), as its own INT4 format, or with ``--values`` what quanto makes of each weight, through ModelOpt's custom backends.
Leaving a layer as it is may not be chosen. ModelOpt itself lets q, k and v, and gate and up, share a format.
"""

# mypy: disable-error-code=import-not-found

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.quantization.algorithms import get_auto_quantize_config
from modelopt.torch.quantization.nn.modules.tensor_quantizer import register_quant_backend
from safetensors.torch import load_file
from scripts.peers.request import GROUP, LINEAR, Request, answer, read


def weight_only(bits: int, backend: str | None) -> dict[str, Any]:
    """A custom format: integers of so many bits in blocks, or what a backend makes of a weight; activations as they are."""
    how = {"backend": backend} if backend else {"block_sizes": {-1: GROUP}}
    return {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": bits, **how}, "enable": True},
        ],
        "algorithm": "max",
    }


def register(request: Request, path: Path) -> str:
    """A backend of ModelOpt's quantizers that gives the values of a file, ``MODULE.BITS``, in place of a weight: its name."""
    values = load_file(path)
    named = {request.model.get_parameter(f"{name}.weight").data_ptr(): name for name in request.linear}

    def given(weight: torch.Tensor, quantizer: Any) -> torch.Tensor:
        return values[f"{named[weight.data_ptr()]}.{quantizer.num_bits}"]

    register_quant_backend("given", given)
    return "given"


def _forward(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> Any:
    return model(**batch, use_cache=False)


def scored(request: Request, target: str) -> dict[str, Any]:
    """The search state: scores of every decision, and the best plan at the target."""
    backend = register(request, request.values) if request.values else None
    formats, gradient = [weight_only(4, backend), weight_only(2, backend)], request.method == "gradient"
    _, state = mtq.auto_quantize(
        request.model,
        constraints={"effective_bits": float(target), "cost": {"excluded_module_name_patterns": ["*lm_head*"]}},
        quantization_formats=formats,
        module_search_spaces=[{"module_name_patterns": [f"*{LINEAR}*"], "quantization_formats": formats, "allow_no_quant": False}],
        disabled_layers=["*lm_head*"],
        data_loader=request.batches,
        forward_step=lambda model, batch: _forward(model, batch) if gradient else _forward(model, batch).logits,
        loss_func=(lambda output, _: output.loss) if gradient else None,
        method=request.method,
        num_calib_steps=1,  # scales come from the weights alone
        num_score_steps=len(request.batches),
        verbose=False,
    )
    found: dict[str, Any] = state
    return found


def plan(state: dict[str, Any], target: str) -> dict[str, int]:
    """Module -> bits, solved anew by ModelOpt for a target."""
    config = get_auto_quantize_config(state, {"effective_bits": float(target)})
    suffix = ".weight_quantizer"
    return {
        entry["quantizer_name"].removesuffix(suffix): int(entry["cfg"]["num_bits"])
        for entry in config["quant_cfg"]
        if entry["quantizer_name"].endswith(suffix) and LINEAR in entry["quantizer_name"]
    }


def main() -> None:
    """Score once, solve for every target, write."""
    request = read("Plan with ModelOpt AutoQuantize.", ["gradient", "kl_div"])
    state = scored(request, request.targets[0])
    seconds = request.batches.passes_s[-1]  # those before it find scales, which needs no tokens
    versions = {"nvidia-modelopt": version("nvidia-modelopt"), "torch": torch.__version__, "transformers": version("transformers")}
    how = "scored on quanto's values" if request.values else f"symmetric blocks of {GROUP}"
    note = f"method {request.method}, {how}, lm_head outside the cost"
    answer(request, {target: plan(state, target) for target in request.targets}, seconds, versions, note)


if __name__ == "__main__":
    main()
