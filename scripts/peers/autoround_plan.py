"""A plan by AutoRound's AutoScheme, in an interpreter that has ``auto-round`` and not bitzones.

From the top of a checkout: ``PYTHON -m scripts.peers.autoround_plan WORK OUT TARGET...`` (see `scripts.peers.request`).
AutoScheme's own reader of data takes whole texts of one length and drops what is shorter, so it is given our batches in place of that
reader: all see the same tokens. Its cache of scores goes to a folder of this run, as its key does not hold the tokens. Formats are its own
W2A16 and W4A16 (``presets``: symmetric, groups of 128), or what is nearest to quanto's (``nearest``: asymmetric, groups of 96). Bits are
counted without scales, which are the same for every plan. Nothing is shared between layers, as by its own default.
"""

# mypy: disable-error-code=import-not-found

from __future__ import annotations

import os
import tempfile
from importlib.metadata import version
from typing import Any

import torch
from scripts.peers.request import BATCH, GROUP, Request, answer, read


def layer_configs(request: Request) -> dict[float, dict[str, dict[str, Any]]]:
    """Target -> layer -> scheme, by AutoScheme: scored once per format, solved once per target."""
    from auto_round.auto_scheme import delta_loss  # noqa: PLC0415  (reads its environment when imported)
    from auto_round.auto_scheme.gen_auto_scheme import AutoScheme, GenScheme  # noqa: PLC0415
    from auto_round.schemes import QuantizationScheme  # noqa: PLC0415

    delta_loss.get_dataloader = lambda *_args, **_kwargs: request.batches
    nearest = [QuantizationScheme(bits=bits, group_size=GROUP, sym=False, act_bits=16) for bits in (2, 4)]
    scheme = AutoScheme(
        avg_bits=[float(target) for target in request.targets],
        options=["W2A16", "W4A16"] if request.method == "presets" else nearest,
        ignore_scale_zp_bits=True,
        batch_size=BATCH,
        nsamples=request.sequences,
        seqlen=request.longest,
        low_gpu_mem_usage=True,
        low_cpu_mem_usage=False,
        enable_torch_compile=False,
        device_map="cpu",
    )
    made = GenScheme(scheme, request.model, request.linear, {}, dataset="calibration.json", device_map="cpu", tokenizer=request.tokenizer)
    found: dict[float, dict[str, dict[str, Any]]] = made.get_layer_config()
    return found


def main() -> None:
    """Score once, solve for every target, write."""
    request = read("Plan with AutoRound AutoScheme.", ["presets", "nearest"])
    with tempfile.TemporaryDirectory() as cache:
        os.environ["AR_AUTO_SCHEME_CACHE"] = cache
        configs = layer_configs(request)
    plans = {target: {name: int(configs[float(target)][name]["bits"]) for name in request.linear} for target in request.targets}
    versions = {"auto-round": version("auto-round"), "torch": torch.__version__, "transformers": version("transformers")}
    how = "its presets W2A16 and W4A16" if request.method == "presets" else f"asymmetric groups of {GROUP}"
    answer(request, plans, sum(request.batches.passes_s), versions, f"{how}, every layer by itself")


if __name__ == "__main__":
    main()
