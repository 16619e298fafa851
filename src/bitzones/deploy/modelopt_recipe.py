"""A plan for NVIDIA's ModelOpt: a list of weight quantizers, all others off."""

from __future__ import annotations

import json
from typing import Any

from transformers import PreTrainedModel

from bitzones.deploy.plan_file import PlanFile
from bitzones.deploy.recipe_export import Setting, exporter, settings

__all__ = ["FILE", "ModelOpt", "export"]

FILE = "quant_cfg.yaml"


class ModelOpt:
    """The recipe."""

    name = "modelopt"
    tool = "[ModelOpt](https://github.com/NVIDIA/Model-Optimizer)"

    def files(self, model: PreTrainedModel, plan_file: PlanFile) -> dict[str, str]:
        """Later entries override earlier ones: first all are disabled, then the plan's modules get theirs."""
        entries: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
        for name, setting in settings(model, plan_file).items():
            entries.append({"quantizer_name": f"{name}.weight_quantizer", "cfg": _attributes(setting), "enable": True})
        text = json.dumps({"quant_cfg": entries, "algorithm": "max"}, indent=1)
        return {FILE: text.replace('"-1":', "-1:") + "\n"}  # YAML, because axes have to be numbers and JSON has no such keys

    def usage(self, plan_file: PlanFile) -> str:
        """The lines of Python."""
        return f"""\
```python
import modelopt.torch.quantization as mtq
import yaml
from transformers import AutoModelForCausalLM
model = mtq.quantize(AutoModelForCausalLM.from_pretrained("MODEL"), yaml.safe_load(open("{FILE}")), forward_loop=None)
```

ModelOpt's integers are symmetric: at 4 and 2 bits that is coarser than what was measured."""


def _attributes(setting: Setting) -> dict[str, Any]:
    """A block along the input features, or a scale a row."""
    if setting.group == -1:
        return {"num_bits": setting.bits, "axis": 0}
    return {"num_bits": setting.bits, "block_sizes": {"-1": setting.group}}


export = exporter(ModelOpt())
"""Write the recipe; see `bitzones.deploy.targets.Target`."""
